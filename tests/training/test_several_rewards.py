"""Several rewards, bounds and regularisers through the estimators and the trainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimating import exact, make_batch, numbers, roll_out, sampled, step, vectors

from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.policy.candidates import Proposal, restrict_to_candidates
from recoach.policy.reward_funcs import future, item_reward, log_reward
from recoach.policy.rewards import CombinedReward, Rewards
from recoach.training.algorithms.base import RLBatch
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.exact import ExactEstimator
from recoach.training.algorithms.grpo.sampled import SampledGRPOEstimator, reward_advantages
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle, with_ratings

DATASET = leave_last_out(cycle(24, 12, length=7))
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
PRICES = torch.tensor([0.0, 1.0, 5.0, 2.0, 0.5, 0.0])


@item_reward
def price(prompts, completions, **_):
    return PRICES[completions]


class Rows(Callback):
    def __init__(self):
        self.steps = []

    def on_step(self, step, logs):
        self.steps.append(logs)


def build(name="sasrec", **settings):
    return build_model(name, DATASET, **(ENCODER if name != "lightgcn" else {"dim": 8}) | settings)


def trained(reward_funcs=None, model=None, dataset=DATASET, **settings):
    args = GRPOConfig(**{"batch_size": 24, "max_steps": 3, "select": "last"} | settings)
    seen = Rows()
    context = RunContext(callback=seen)
    GRPOTrainer(
        model or build(), reward_funcs, args, train_dataset=dataset, context=context
    ).train()
    return seen.steps


@pytest.mark.parametrize("normalize", [False, True])
def test_what_items_pay_is_an_expectation_beside_what_the_log_pays(normalize):
    new, batch = vectors(2), make_batch([(0, 1, 1.0), (1, 2, 0.5)])
    args = GRPOConfig(temperature=0.7, normalize_weights=normalize)
    reward = CombinedReward([future(), price], [1.0, 0.3], n_items=6)
    _, without, _ = step(exact(loss_type="log", normalize_weights=normalize), new, batch)
    estimator = ExactEstimator(args, reward)
    _, found, logs = step(estimator, new, batch)
    p = (new.users @ new.items.T / 0.7).softmax(dim=1)
    wanted = torch.autograd.grad(-0.3 * (p @ PRICES.double()).mean(), new)
    for a, b, c in zip(found, without, wanted, strict=True):
        assert torch.allclose(a - b, c, atol=1e-6)
    assert logs["rewards/items/mean"] == pytest.approx(0.3 * (p @ PRICES.double()).mean().item())


@pytest.mark.parametrize("normalize", [False, True])
def test_what_the_log_pays_weighs_against_what_items_pay(normalize):
    new, batch = vectors(2), make_batch([(0, 1, 1.0), (1, 2, 0.5)])
    args = GRPOConfig(temperature=0.7, normalize_weights=normalize)

    def gradients(log, items):
        values = batch.rewards._replace(values=log * batch.rewards.values)
        reward = CombinedReward([future(), price], [log, items], n_items=6)
        estimator = ExactEstimator(args, reward)
        return torch.cat(step(estimator, new, batch._replace(rewards=values))[1])

    log, items = gradients(1, 0), gradients(0, 1)
    for weights in [(1, 0.3), (10, 0.3), (2, 0.6)]:
        wanted = weights[0] * log + weights[1] * items
        found = gradients(*weights)
        assert torch.allclose(found / found.norm(), wanted / wanted.norm(), atol=1e-6)


@pytest.mark.parametrize(
    ("functions", "weights", "size"),
    [
        ([future()], [2], 2),
        ([future(), future()], [0.5, 0.5], 1),
        ([future(), future()], [1, 0], 1),
        ([future(), future()], [1, 1], 2),
        ([future()], [0], 1),
        ([], [], 1),
    ],
)
def test_one_reward_in_two_halves_weighs_as_much_as_in_one(functions, weights, size):
    reward = CombinedReward([*functions, price], [*weights, 7.0], n_items=6)
    assert reward.log_weight == size


def test_what_items_pay_is_estimated_where_a_sample_stands_for_the_catalogue():
    new, n_items, prices = vectors(3), 40, torch.linspace(0, 5, 40)
    items = torch.randn(n_items, 3, generator=numbers(3), dtype=torch.float64)

    @item_reward
    def costs(prompts, completions, **_):
        return prices[completions]

    whole = Embeddings(new.users.detach(), items)
    batch = make_batch([(0, 1, 1.0), (1, 2, 1.0), (2, 30, 1.0)])
    args = GRPOConfig(estimator="stratified", temperature=0.7)
    estimator = ExactEstimator(args, CombinedReward([future(), costs], n_items=n_items))
    train = RaggedArray(np.array([0, 2]), np.array([3, 4], dtype=np.int32))
    drawn = Proposal(train, n_items).candidates(batch.rewards.items, 200_000, numbers(7))
    part = RLBatch(*restrict_to_candidates(batch.queries, batch.rewards, drawn), drawn)
    _, _, logs = step_of(estimator, Embeddings(whole.users, items[drawn.items]), part)
    _, _, wanted = step_of(estimator, whole, batch)
    assert logs["rewards/items/mean"] == pytest.approx(wanted["rewards/items/mean"], rel=0.01)


def step_of(estimator, new, batch):
    """Take a step with vectors that need a gradient."""
    return step(estimator, Embeddings(*(part.clone().requires_grad_() for part in new)), batch)


def test_the_settings_reach_the_rewards():
    reward = GRPOTrainer(
        build(),
        args=GRPOConfig(
            reward_funcs=("next", "novelty"),
            reward_weights=(2.0, 0.5),
            multi_objective_aggregation="normalize_then_sum",
        ),
        train_dataset=DATASET,
    )._builder.reward
    assert reward.normalised
    assert reward.weights == [2.0, 0.5]
    assert reward.names == ["next_item", "novelty"]


def test_drawn_items_earn_what_the_log_pays_and_what_they_pay_themselves():
    args = GRPOConfig(estimator="sampled", loss_type="grpo", num_generations=64, temperature=0.7)
    reward = CombinedReward([future(), price], [1.0, 0.3], n_items=6)
    rollout = roll_out(SampledGRPOEstimator(args, reward), vectors(1), make_batch([(0, 1, 0.5)]))
    wanted = 0.5 * (rollout.items == 1) + 0.3 * PRICES[rollout.items]
    assert torch.allclose(rollout.rewards, wanted)


@pytest.mark.parametrize(("functions", "draws"), [([future(), price], 1), ([future()], 4)])
def test_a_group_whose_items_pay_differently_is_not_dead(functions, draws, monkeypatch):
    args = GRPOConfig(
        estimator="sampled",
        loss_type="grpo",
        num_generations=64,
        dead_groups="resample",
        temperature=0.7,
    )
    estimator = SampledGRPOEstimator(args, CombinedReward(functions, n_items=6))
    group, drawn = estimator._draw_group, []
    monkeypatch.setattr(estimator, "_draw_group", lambda *a: drawn.append(1) or group(*a))
    roll_out(estimator, vectors(1), make_batch([(0, 1, 0.0)]))
    assert len(drawn) == draws


def test_a_large_reward_drowns_a_small_one_unless_each_is_normalised_first():
    small, large = torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.tensor([[900.0, 0.0, 0.0, 0.0]])
    args = GRPOConfig(estimator="sampled", loss_type="grpo")
    functions = [future(), future()]
    summed = reward_advantages(args, CombinedReward(functions), [small, large])[0]
    apart = reward_advantages(
        args, CombinedReward(functions, (), "normalize_then_sum"), [small, large]
    )[0]
    assert summed[1] == pytest.approx(summed[2].item(), abs=1e-2)
    assert apart[1] == pytest.approx(apart[0].item(), rel=1e-3)
    assert apart.square().mean().item() == pytest.approx(1, rel=1e-3)


def test_normalised_first_takes_each_group_s_own_deviation():
    parts = [torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 100.0, 0.0, 0.0]])]
    args = GRPOConfig(
        estimator="sampled", loss_type="grpo", multi_objective_aggregation="normalize_then_sum"
    )
    easy, hard = reward_advantages(
        args, CombinedReward([future()], (), "normalize_then_sum"), parts
    )
    assert torch.allclose(easy, hard, rtol=1e-3)


def test_an_advantage_clip_bounds_the_weight_of_the_unlikely():
    new, batch = vectors(1), make_batch([(0, 1, 1.0)])
    p = (new.users @ new.items.T / 0.7).softmax(dim=1)[0, 1].item()
    clip = 0.5 * (1 - p) / p  # half of what `log` gives
    _, free, _ = step(exact(loss_type="log"), new, batch)
    _, bound, _ = step(exact(loss_type="log", advantage_clip=clip), new, batch)
    _, loose, _ = step(exact(loss_type="log", advantage_clip=3 * clip), new, batch)
    for a, b, c in zip(free, bound, loose, strict=True):
        assert torch.allclose(b, 0.5 * a, rtol=1e-5)
        assert torch.equal(a, c)


def test_an_advantage_clip_bounds_those_of_draws():
    parts = [torch.tensor([[0.0, 0.0, 0.0, 1.0]])]
    args = GRPOConfig(estimator="sampled", loss_type="grpo", advantage_clip=0.5)
    found = reward_advantages(args, CombinedReward([future()]), parts)
    assert found.abs().max() == 0.5
    assert found[0, 3] == 0.5


def test_scaled_by_the_batch_an_easy_group_weighs_more():
    parts = [torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.1]])]
    by = {
        scale: reward_advantages(
            GRPOConfig(estimator="sampled", loss_type="grpo", scale_rewards=scale),
            CombinedReward([future()]),
            parts,
        )
        for scale in ("group", "batch", "none")
    }
    assert by["group"][0, 3] == pytest.approx(by["group"][1, 3].item(), rel=1e-4)
    assert by["batch"][0, 3] == pytest.approx(10 * by["batch"][1, 3].item(), rel=1e-4)
    assert by["batch"].square().mean().item() == pytest.approx(1, rel=1e-4)
    assert by["none"][0].tolist() == [-0.25, -0.25, -0.25, 0.75]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_dr_grpo_centres_its_groups_and_scales_them_by_nothing(scale):
    args = GRPOConfig(estimator="sampled", loss_type="dr_grpo", scale_rewards=scale)
    found = reward_advantages(
        args, CombinedReward([future()]), [torch.tensor([[0.0, 0.0, 0.0, 1.0]])]
    )
    assert found.tolist() == [[-0.25, -0.25, -0.25, 0.75]]


@pytest.mark.parametrize("make", [exact, sampled])
def test_entropy_pays_until_its_floor(make):
    new, batch = vectors(2), make_batch([(0, 1, 1.0), (1, 2, 1.0)])
    p = (new.users @ new.items.T / 0.7).softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1)
    floor = entropy.mean().item()  # one state is above, one below
    _, without, _ = step(make(), new, batch)
    for settings, wanted in (
        ({"entropy_coef": 2.0}, -2 * entropy.mean()),
        ({"entropy_coef": 2.0, "entropy_floor": floor}, (floor - entropy).clamp(min=0).mean() * 2),
    ):
        _, found, _ = step(make(**settings), new, batch)
        slopes = torch.autograd.grad(wanted, new, retain_graph=True)
        for a, b, c in zip(found, without, slopes, strict=True):
            assert torch.allclose(a - b, c, atol=1e-5)


def test_the_model_s_own_loss_goes_along():
    """With GRPO's learning switched off by a reward of nothing, the base trains as it did."""

    @log_reward
    def nothing(prompts, completions, ahead, **_):
        return torch.zeros(len(completions))

    for name in ("sasrec", "lightgcn"):
        still, moved = build(name), build(name)
        start = [p.detach().clone() for p in still.parameters()]
        trained(nothing, still)
        assert all(torch.equal(a, b) for a, b in zip(start, still.parameters(), strict=True))
        losses = [row["loss"] for row in trained(nothing, moved, sft_coef=0.5)]
        assert not all(torch.equal(a, b) for a, b in zip(start, moved.parameters(), strict=True))
        assert losses[0] > 0
        pretrain(build(name), DATASET, PretrainConfig(max_steps=1, batch_size=24), RunContext())


def test_a_function_of_one_s_own_is_asked_about_all_that_is_drawn():
    asked = {}

    def own(prompts, completions, ahead, rating, **_):
        asked.update(prompts=prompts, completions=completions, ahead=ahead, rating=rating)
        return [float(item % 2) for item in completions.flatten().tolist()] and (completions % 2)

    dataset = with_ratings(DATASET, np.arange(len(DATASET.train.values)))
    settings = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 20}
    logs = trained(own, dataset=dataset, horizon=2, max_steps=1, batch_size=6, **settings)
    train, n_states = dataset.train, asked["prompts"].shape[0]
    assert asked["completions"].shape == (n_states, 20)
    assert logs[0]["reward"] == pytest.approx((asked["completions"] % 2).float().mean().item())
    for row in range(n_states):
        user = int(asked["prompts"][row, 0])
        history = train.row(user).tolist()
        for item, ahead, rating in zip(
            *(asked[name][row].tolist() for name in ("completions", "ahead", "rating")), strict=True
        ):
            assert (ahead > 0) == (not np.isnan(rating))
            if ahead:
                assert ahead <= 2
                assert rating == train.offsets[user] + history.index(item)
    assert (asked["ahead"] == 1).any()
    assert (asked["ahead"] == 0).any()


def test_the_exact_estimator_refuses_what_may_pay_for_anything():
    def own(prompts, completions, **_):
        return [1.0] * len(completions)

    with pytest.raises(ConfigError, match=r"own may reward any item.*@log_reward"):
        trained(own)


def test_an_algorithm_that_raises_every_rewarded_item_refuses_fines():
    @log_reward
    def fine(prompts, completions, ahead, **_):
        return -(ahead == 1).float()

    with pytest.raises(ConfigError, match="below 0"):
        trained(fine, loss_type="grpo")
    trained(fine, estimator="sampled", loss_type="grpo", num_generations=20)


def test_names_and_functions_may_be_mixed_and_are_told_apart_in_the_logs():
    @log_reward
    def nearest(prompts, completions, ahead, **_):
        return ahead == 1

    logs = trained(["future", nearest, "novelty"], reward_weights=(1.0, 2.0, 0.1))
    assert logs[0]["rewards/nearest/mean"] < logs[0]["rewards/future/mean"] < 1
    assert logs[0]["rewards/items/mean"] > 0


def test_a_novelty_reward_makes_the_policy_show_what_is_rarer():
    skewed = DATASET
    values = skewed.train.values.copy()
    values[::2] = 0  # item 0 is taken by everybody
    skewed = replace(skewed, train=replace(skewed.train, values=values))
    shown = []
    for weight in (0.0, 5.0):
        rows = trained(
            dataset=skewed,
            reward_funcs=["future", "novelty"],
            reward_weights=(1.0, weight),
            max_steps=30,
            mask_seen=False,
            learning_rate=0.02,
            model=build(dropout=0.0),
        )
        shown.append(rows[-1]["policy/p_mean"])
    assert shown[1] < shown[0]


def test_rewards_keep_their_parts_where_some_are_dropped():
    whole = Rewards(
        torch.tensor([0, 1]), torch.tensor([2, 3]), torch.ones(2), torch.tensor([[1.0, 2.0]])
    )
    assert whole.where(torch.tensor([False, True])).parts.tolist() == [[2.0]]
