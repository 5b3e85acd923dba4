"""Rewards of both signs: exact gradients, whitening in the state, events that count against."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from estimating import DIM, ITEMS, exact, make_batch, numbers, sampled, step, vectors

from recoach.data.queries import Seen
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.policy.objective import Clip, exact_surrogate, objective
from recoach.policy.reward_funcs import item_reward, log_reward
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

REWARDS = [(0, 1, 1.0), (0, 3, -0.5), (1, 4, -1.0), (2, 0, 0.25), (2, 5, 1.0), (2, 2, -2.0)]
SEEN = Seen(torch.tensor([0, 1, 3]), torch.tensor([5, 0, 2]))
LOSS_TYPES = ["grpo", "dr_grpo", "log", "pass_at_k", "power"]


def log_policy(new):
    logits = new.users @ new.items.T / 0.7
    mask = torch.zeros(len(logits), ITEMS, dtype=torch.bool)
    mask[SEEN] = True
    return logits.masked_fill(mask, -torch.inf).log_softmax(dim=1)


def reward_table(rewards, n_states):
    table = torch.zeros(n_states, ITEMS, dtype=torch.float64)
    for state, item, value in rewards:
        table[state, item] = value
    return table


def expected_reward(new, rewards, *, whitened):
    """Return the mean over states of the expectation, over its deviation, by the whole table."""
    p, table = log_policy(new).exp(), reward_table(rewards, len(new.users))
    mean = (p * table).sum(dim=1)
    if not whitened:
        return mean.mean()
    variance = (p * (table - mean[:, None]).square()).sum(dim=1).detach()
    return (mean / variance.sqrt().clamp(min=1e-9)).mean()


def same_gradients(found, value, new, atol=1e-6):
    wanted = torch.autograd.grad(value, new)
    return all(torch.allclose(-a, b, atol=atol) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize(
    ("loss_type", "settings"), [("dr_grpo", {}), ("grpo", {"whitening": "state"})]
)
def test_the_gradient_is_that_of_the_expected_reward(loss_type, settings, num_iterations):
    new = vectors(4)
    estimator = exact(loss_type=loss_type, num_iterations=num_iterations, **settings)
    _, found, logs = step(estimator, new, make_batch(REWARDS, 4, seen=SEEN))
    value = expected_reward(new, REWARDS, whitened=loss_type == "grpo")
    assert same_gradients(found, value, new)
    assert logs["reward"] == pytest.approx(
        expected_reward(new, REWARDS, whitened=False).item(), abs=1e-6
    )


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("loss_type", ["log", "pass_at_k", "power"])
def test_a_negative_reward_lowers_a_bounded_objective(loss_type, num_iterations):
    new = vectors(4)
    estimator = exact(loss_type=loss_type, pass_k=3, power=0.3, num_iterations=num_iterations)
    _, found, logs = step(estimator, new, make_batch(REWARDS, 4, seen=SEEN))
    log_p, value = log_policy(new), 0.0
    for state, item, reward in REWARDS:
        is_complement = reward < 0 and loss_type != "pass_at_k"
        at = torch.log1p(-log_p[state, item].exp()) if is_complement else log_p[state, item]
        size = abs(reward) if is_complement else reward
        value = value + size * objective(at, loss_type, 3, 0.3) / 4
    assert same_gradients(found, value, new)
    raised = [log_p[s, i].exp().item() for s, i, r in REWARDS if r > 0]
    lowered = [log_p[s, i].exp().item() for s, i, r in REWARDS if r < 0]
    assert logs["policy/p_mean"] == pytest.approx(np.mean(raised), rel=1e-5)
    assert logs["policy/p_negative_mean"] == pytest.approx(np.mean(lowered), rel=1e-5)


def test_power_lies_between_log_and_dr_grpo_for_both_signs():
    new, batch = vectors(4), make_batch(REWARDS, 4)
    ends = {1e-6: "log", 1.0: "dr_grpo"}
    for power, loss_type in ends.items():
        _, found, _ = step(exact(loss_type="power", power=power), new, batch)
        _, wanted, _ = step(exact(loss_type=loss_type), new, batch)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted, strict=True))


def test_with_a_kl_the_policy_reaches_the_reference_tilted_by_the_rewards():
    """The fixed point of KL-regularised rewards is p ~ reference exp(reward / beta)."""
    beta, rewards = 0.8, [(0, 0, 1.0), (0, 1, -1.0), (0, 2, 0.3), (0, 3, -0.4)]
    state = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    reference = Embeddings(state, vectors(1).items.detach())
    new = Embeddings(state.clone().requires_grad_(), reference.items.clone().requires_grad_())
    estimator = exact(loss_type="dr_grpo", beta=beta, temperature=1.0)
    optimiser = torch.optim.Adam([new.items], lr=0.1)
    for _ in range(120):
        _, gradients, _ = step(estimator, new, make_batch(rewards), reference=reference)
        new.items.grad = gradients[1]
        optimiser.step()
    tilted = reference.items[:, 0] + reward_table(rewards, 1)[0] / beta
    found = new.items[:, 0].detach().softmax(dim=0)
    assert torch.allclose(found, tilted.softmax(dim=0), atol=1e-3)


@pytest.mark.parametrize("reward", [1.0, 0.01, -3.0])
def test_one_whitened_reward_is_one_item_against_the_rest_whatever_its_size(reward):
    new = vectors(2)
    _, found, _ = step(exact(whitening="state"), new, make_batch([(0, 1, reward), (1, 2, reward)]))
    _, item, _ = step(exact(), new, make_batch([(0, 1, 1.0), (1, 2, 1.0)]))
    sign = 1 if reward > 0 else -1
    assert all(torch.allclose(a, sign * b, atol=1e-6) for a, b in zip(found, item, strict=True))


def test_the_mean_of_sampled_gradients_converges_to_the_whitened_one():
    few, copies = vectors(3), 100
    _, wanted, _ = step(exact(whitening="state"), few, make_batch(REWARDS))
    users = few.users.detach().repeat(copies, 1).requires_grad_()
    batch = make_batch([(s + 3 * c, i, value) for c in range(copies) for s, i, value in REWARDS])
    _, found, _ = step(sampled(), Embeddings(users, few.items), batch)
    by_state = found[0].view(copies, 3, DIM).sum(dim=0)
    for ours, theirs in ((by_state, wanted[0]), (found[1], wanted[1])):
        cosine = torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        assert cosine >= 0.99
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05)


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_weights_of_opposite_signs_do_not_cancel_in_the_divisor(loss_type, num_iterations):
    whitening = {"whitening": "state"} if loss_type == "grpo" else {}
    settings = {"loss_type": loss_type, "num_iterations": num_iterations, **whitening}
    # Two items of one vector have one probability: their weighted rewards sum to 0.
    given = vectors(2)
    items = given.items.detach().clone()
    items[3] = items[1]
    new = Embeddings(given.users, items.requires_grad_())
    rewards = [(0, 1, 1.0), (0, 3, -1.0), (1, 1, -0.5), (1, 3, 0.5)]
    _, plain, _ = step(exact(**settings), new, make_batch(rewards))
    _, scaled, _ = step(exact(**settings, normalize_weights=True), new, make_batch(rewards))
    ratios = (scaled[1] / plain[1])[[1, 3]].flatten()
    assert torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-4)
    # The divisor is the sum of the absolute weights, 2 states the plain one.
    p = (new.users @ new.items.T / 0.7).detach().softmax(dim=1)[:, 1]
    weight = {"dr_grpo": p, "pass_at_k": 10 * p * (1 - p) ** 9, "grpo": p / (2 * p).sqrt()}
    raising = {"log": torch.ones_like(p), "power": p**0.5}.get(loss_type, weight.get(loss_type))
    lowering = {"log": p / (1 - p), "power": p * (1 - p) ** -0.5}.get(loss_type, raising)
    sizes = torch.tensor([1.0, 0.5]) if loss_type != "grpo" else torch.ones(2)
    total = ((raising + lowering) * sizes).sum().item()
    assert ratios[0].item() == pytest.approx(2 / total, rel=1e-4)


@pytest.mark.parametrize("weight", [0.3, -0.3])
@pytest.mark.parametrize("shift", [-0.5, -0.02, 0.02, 0.5])
def test_the_clip_of_a_negative_advantage_changes_sides(weight, shift):
    old = torch.tensor(0.2, dtype=torch.float64)
    p = torch.tensor((0.2 * np.exp(shift)), requires_grad=True)
    clip = Clip(0.1, 0.2)
    surrogate = exact_surrogate(p.log(), old.log(), torch.tensor(weight), clip)
    # min(ratio A, clip(ratio) A) of the two buckets, with A+ = w (1-p)/p and A- = -w.
    ratios = torch.stack([p / old, (1 - p) / (1 - old)])
    advantages = weight * torch.stack([(1 - old) / old, -torch.ones_like(old)])
    bounded = ratios.clamp(0.9, 1.2)
    masses = torch.stack([old, 1 - old])
    wanted = (masses * torch.minimum(ratios * advantages, bounded * advantages)).sum()
    assert surrogate.value.item() == pytest.approx(wanted.item(), abs=1e-7)
    slopes = [torch.autograd.grad(v, p)[0].item() for v in (surrogate.value, wanted)]
    assert slopes[0] == pytest.approx(slopes[1], abs=1e-6)
    raised, lowered = (0, 1) if weight > 0 else (1, 0)
    assert bool(surrogate.clipped_high) is bool(ratios[raised] > 1.2)
    assert bool(surrogate.clipped_low) is bool(ratios[lowered] < 0.9)


@pytest.mark.parametrize("whitening", ["item", "state"])
def test_the_bound_of_advantages_holds_for_both_signs(whitening):
    limit, rewards = 0.2, [(0, 1, 0.5), (1, 4, -2.0)]
    loss_type = "grpo" if whitening == "state" else "dr_grpo"
    settings = {"loss_type": loss_type, "whitening": whitening}
    new = vectors(2)
    p = (new.users @ new.items.T / 0.7).detach().softmax(dim=1)[[0, 1], [1, 4]]
    _, found, _ = step(exact(**settings, advantage_clip=limit), new, make_batch(rewards))
    _, plain, _ = step(exact(**settings), new, make_batch(rewards))
    weight = p / (p * (1 - p)).sqrt() if whitening == "state" else p
    assert ((1 - p) / p * weight > limit).all()  # both are bounded
    bounded = limit * p / (1 - p)
    for state in range(2):
        ratio = (bounded / weight)[state]
        assert torch.allclose(found[0][state], ratio * plain[0][state], atol=1e-6)


@log_reward
def fine(prompts, completions, ahead, **_):
    return -(ahead == 1).float()


def trained(dataset, functions=None, **settings):
    """Fine-tune for some steps; return the log of each step."""
    rows = []

    class Listener(Callback):
        def on_step(self, step, logs):
            rows.append(logs)

    model = build_model(
        "sasrec", dataset, dim=8, layers=1, heads=1, inner_dim=8, max_length=4, dropout=0.0
    )
    defaults = {"batch_size": 32, "max_steps": 10, "temperature": 1.0, "learning_rate": 0.02}
    args = GRPOConfig(**defaults | settings)
    context = RunContext(callback=Listener())
    RLTrainer(model, functions, args, train_dataset=dataset, context=context).train()
    return rows


@pytest.mark.filterwarnings("ignore:.*lists have collapsed")
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_training_lowers_what_is_fined(loss_type):
    dataset = leave_last_out(cycle(24, 12, length=7))
    whitening = {"whitening": "state"} if loss_type == "grpo" else {}
    settings = {"loss_type": loss_type, "reward_smoothing": 0.0, **whitening}
    rows = trained(dataset, fine, **settings)
    assert rows[-1]["policy/p_negative_mean"] < 0.8 * rows[0]["policy/p_negative_mean"]
    assert rows[0]["policy/p_mean"] == 0  # no item has a positive reward


def test_whitening_one_item_at_a_time_refuses_fines():
    dataset = leave_last_out(cycle(24, 12, length=7))
    with pytest.raises(ConfigError, match=r"below 0.* set whitening = 'state', or another loss"):
        trained(dataset, fine, loss_type="grpo")
    with pytest.raises(ConfigError, match="whitening has no effect here"):
        GRPOConfig(whitening="state", loss_type="log")
    with pytest.raises(ConfigError, match="whitening has no effect here"):
        GRPOConfig(whitening="state", loss_type="grpo", estimator="sampled")


def test_whitening_the_rewards_of_a_state_refuses_rewards_of_items():
    settings = {"loss_type": "grpo", "whitening": "state"}
    for more in ({"reward_funcs": ("future", "novelty")}, {"constraints": ({"max_fall": 0.1},)}):
        with pytest.raises(ConfigError, match="whitening 'state' whitens the rewards of the log"):
            GRPOConfig(**settings, **more)

    @item_reward
    def price(completions, **_):
        return completions.float()

    with pytest.raises(ConfigError, match="rewards of the log, and price rewards items"):
        trained(leave_last_out(cycle(24, 12, length=7)), [fine, price], **settings)


def test_an_item_that_is_bought_and_returned_counts_as_returned():
    dataset = leave_last_out(cycle(4, 12, length=7))
    train = dataset.train
    values = train.values.copy()
    values[2::5] = values[1::5]  # each user buys the second item and returns it at once
    kinds = ["view", "purchase", "return", "view", "view"] * 4
    types = pl.Series("event_type", kinds, dtype=pl.Enum(["view", "purchase", "return"]))
    train = replace(train, values=values, columns={**train.columns, "event_type": types})
    dataset = replace(dataset, train=train)
    model = build_model("sasrec", dataset, dim=4, layers=1, heads=1, inner_dim=4, max_length=4)

    def rewards_of_first_state(**weights):
        args = GRPOConfig(
            reward_funcs=("events",), event_weights=weights, discount=0.5, mask_seen=False,
            reward_smoothing=0.0, batch_size=99,
        )  # fmt: skip
        (batch,) = RLTrainer(model, args=args, train_dataset=dataset).epoch(numbers())
        first = torch.nonzero((batch.queries.state_users == 0) & (batch.queries.ends == 1)).item()
        of_state = batch.rewards.states == first
        items = batch.rewards.items[of_state].tolist()
        return dict(zip(items, batch.rewards.values[of_state].tolist(), strict=True))

    bought = int(values[1])
    # The purchase is 1 event ahead, the return 2: -1 x 0.5.
    assert rewards_of_first_state(view=0.1, purchase=1.0, **{"return": -1.0})[bought] == -0.5
    assert rewards_of_first_state(view=0.1, purchase=0.2, **{"return": 1.0})[bought] == 0.5
    assert rewards_of_first_state(view=0.1, purchase=1.0, **{"return": 0.5})[bought] == 1.0
