"""Top-K off-policy REINFORCE and the off-policy actor-critic: fixed points on small tables."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from estimating import (
    VectorModel,
    algorithm_loss,
    make_algorithm,
    make_batch,
    minimise,
    numbers,
    vectors,
)
from test_dqn import queries_of, transition_batch

from recoach.data.queries import Seen
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.models.registry import build_model
from recoach.training.algorithms.base import LoggedActions
from recoach.training.algorithms.registry import algorithm_entry
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

ARMS = torch.arange(1, 11)
SKEWED = (11 - ARMS) / 55
UNIFORM = torch.full((10,), 0.1)
ACTIONS_ONLY = {"horizon": 1, "reward_funcs": ("next",)}


def table(logits):
    """Return vectors whose products are a table of logits, float[S, I]."""
    return Embeddings(torch.eye(len(logits)).to(logits), logits.T.contiguous())


def bandit(rewards, behaviour, **settings):
    """Return an algorithm for one state, and its batch: every arm with its expected reward."""
    policy = table(torch.zeros(1, len(rewards)).double())
    algorithm = make_algorithm("top_k_off_policy", VectorModel(policy), temperature=1.0, **settings)
    algorithm.reference.load_state_dict(
        VectorModel(table(behaviour.double().log()[None])).state_dict()
    )
    expected = (behaviour * rewards).tolist()
    return algorithm, make_batch([(0, arm, reward) for arm, reward in enumerate(expected)])


def optimum(algorithm, batch, steps=150, learning_rate=1.0):
    """Return the policy of the only state at the fixed point, and what was logged."""
    model = algorithm.model
    logs = minimise(algorithm, batch, steps, learning_rate, [model.items])
    return (model.users @ model.items.T).softmax(dim=1)[0].detach(), logs


def test_without_correction_the_policy_is_the_rewarded_part_of_the_log():
    # A cap below every ratio makes all weights equal.
    cap = 1e-3
    algorithm, batch = bandit(ARMS.float(), SKEWED, top_k=1, max_ratio=cap)
    found, logs = optimum(algorithm, batch)
    expected = ARMS * (11 - ARMS) / (ARMS * (11 - ARMS)).sum()
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert logs["importance_sampling_ratio/capped"] == 1.0
    assert logs["importance_sampling_ratio/ess"] == pytest.approx(1.0)


def test_with_correction_the_policy_is_the_best_arm():
    algorithm, batch = bandit(ARMS.float(), SKEWED, top_k=1, max_ratio=1e6)
    found, logs = optimum(algorithm, batch)
    assert found[9] > 0.999
    assert logs["importance_sampling_ratio/capped"] == 0
    assert logs["importance_sampling_ratio/ess"] == pytest.approx(0.1, abs=0.01)  # 1 of 10 arms


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [1.0, 0.0, 0.0]),
        (2, [10 / 19, 9 / 19, 0.0]),
        (4, [0.5088, 0.4912, 0.0]),
        (16, [0.2060, 0.2004, 0.0742]),
    ],
)
def test_the_top_k_correction_fills_a_list(k, expected):
    rewards = torch.tensor([10.0, 9.0, *[1.0] * 8])
    algorithm, batch = bandit(rewards, UNIFORM, top_k=k, max_ratio=1e6)
    found, _ = optimum(algorithm, batch)
    assert found[:3].tolist() == pytest.approx(expected, abs=1e-3)
    assert found[2:].tolist() == pytest.approx([expected[2]] * 8, abs=1e-3)


def actions(items, propensities=None):
    given = None if propensities is None else torch.tensor(propensities)
    return LoggedActions(torch.tensor(items), given)


def test_a_policy_that_is_the_behaviour_has_weight_one_and_is_reinforce():
    new = Embeddings(*(part.float().detach().requires_grad_() for part in vectors(2)))
    batch = make_batch([(0, 1, 1.0), (1, 3, 0.5)])._replace(actions=actions([1, 3]))
    settings = {"top_k": 1, "behaviour": "head"} | ACTIONS_ONLY
    algorithm = make_algorithm("top_k_off_policy", VectorModel(new), **settings)
    _, loss, logs = algorithm_loss(algorithm, batch)
    assert logs["importance_sampling_ratio/mean"] == pytest.approx(1.0)
    log_p = (new.users @ new.items.T / 0.7).log_softmax(dim=1)[[0, 1], [1, 3]]
    expected = -(log_p * torch.tensor([1.0, 0.5])).sum() / 1.5
    slopes = torch.autograd.grad(expected, new)
    found = torch.autograd.grad(loss, algorithm.model.given)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, slopes, strict=True))
    assert loss.item() == pytest.approx(expected.item() - log_p.mean().item(), rel=1e-5)
    assert logs["behaviour_loss"] == pytest.approx(-log_p.mean().item(), rel=1e-5)


def test_the_behaviour_head_learns_all_logged_actions_and_leaves_the_encoder():
    new = Embeddings(*(part.float().detach() for part in vectors(1)))
    algorithm = make_algorithm(
        "top_k_off_policy", VectorModel(new), behaviour="head", temperature=1.0, **ACTIONS_ONLY
    )
    # Arm i+1 was logged 11 - (i+1) times... of six arms: 6, 5, .. 1 times; none is rewarded.
    logged = torch.repeat_interleave(torch.arange(6), torch.arange(6, 0, -1))
    batch = make_batch([(0, 0, 0.0)], n_states=len(logged))
    queries = replace(batch.queries, users=torch.zeros_like(logged))
    batch = batch._replace(queries=queries, actions=actions(logged.tolist()))
    head = algorithm.modules["behaviour"]
    _, loss, _ = algorithm_loss(algorithm, batch)
    slopes = torch.autograd.grad(loss, algorithm.model.given)
    assert not any(slope.any() for slope in slopes)
    minimise(algorithm, batch, 100, 0.3, [*head.parameters()])
    found = (new.users @ head.items.T).softmax(dim=1)[0]
    assert found.tolist() == pytest.approx([n / 21 for n in (6, 5, 4, 3, 2, 1)], abs=1e-3)


def test_logged_propensities_are_the_behaviour():
    new = vectors(3)
    batch = make_batch([(0, 1, 1.0), (1, 3, 0.5), (2, 2, 1.0)])
    batch = batch._replace(actions=actions([1, 3, 2], [0.02, 0.5, float("nan")]))
    settings = {"behaviour": "logged", "top_k": 3, "max_ratio": 5.0} | ACTIONS_ONLY
    algorithm = make_algorithm("top_k_off_policy", VectorModel(new), **settings)
    _, loss, logs = algorithm_loss(algorithm, batch)
    log_p = (new.users @ new.items.T / 0.7).log_softmax(dim=1)[[0, 1], [1, 3]]
    p = log_p.detach().exp()
    ratio = (p / torch.tensor([0.02, 0.5])).clamp(max=5.0)
    # The third event has no propensity: it was no action of the logging policy.
    expected = -(torch.tensor([1.0, 0.5]) * ratio * (1 - p) ** 2 * log_p).sum() / 1.5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logs["importance_sampling_ratio/mean"] == pytest.approx(ratio.mean().item())
    assert logs["importance_sampling_ratio/capped"] == (p / torch.tensor([0.02, 0.5]) > 5).sum() / 2
    ess = ratio.sum() ** 2 / (2 * ratio.square().sum())
    assert logs["importance_sampling_ratio/ess"] == pytest.approx(ess.item())
    assert "kl" not in logs


@pytest.mark.parametrize("name", ["top_k_off_policy", "off_policy_actor_critic"])
@pytest.mark.parametrize("behaviour", ["head", "logged"])
def test_importance_weights_are_refused_for_items_that_were_no_actions(name, behaviour):
    config = algorithm_entry(name).config
    for settings, message in (
        ({"reward_funcs": ("future",), "horizon": 10}, "set horizon = 1"),
        ({"reward_funcs": ("next",), "horizon": 1, "reward_smoothing": 0.3}, "reward_smoothing"),
        ({"reward_funcs": ("train_set",), "horizon": 1, "mask_seen": False}, "'next'"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(behaviour=behaviour, **settings)


def trainer(model_name="sasrec", algorithm="top_k_off_policy", columns=None, **settings):
    log = cycle(24, 12, length=7)
    dataset = leave_last_out(replace(log, columns=columns or {}))
    sizes = {"dim": 8} if model_name != "gru4rec" else {"dim": 8, "hidden_dim": 8}
    model = build_model(model_name, dataset, **sizes, seed=1)
    args = algorithm_entry(algorithm).config(
        **{"batch_size": 60, "temperature": 1.0, "max_steps": 3, "select": "last"} | settings
    )
    return RLTrainer(model, args=args, train_dataset=dataset)


def test_the_log_must_have_propensities_where_they_are_the_behaviour():
    with pytest.raises(ConfigError, match="needs the column `propensity`"):
        trainer(behaviour="logged", **ACTIONS_ONLY)


def test_propensities_are_those_of_the_logged_actions():
    values = torch.linspace(0.01, 0.9, 24 * 7)
    columns = {"propensity": pl.Series("propensity", values.numpy(), dtype=pl.Float32)}
    found = trainer(behaviour="logged", columns=columns, **ACTIONS_ONLY)
    for batch in found.epoch(numbers()):
        ends, users = batch.queries.ends, batch.queries.state_users
        assert batch.actions.propensities.tolist() == values[users * 7 + ends].tolist()
        assert torch.equal(batch.actions.items, (users + ends) % 12)
        assert torch.equal(batch.rewards.items, batch.actions.items)


def test_the_actor_critic_leaves_out_actions_without_a_propensity():
    values = torch.linspace(0.01, 0.9, 24 * 7)
    values[::3] = torch.nan
    columns = {"propensity": pl.Series("propensity", values.numpy(), dtype=pl.Float32)}
    found = trainer("sasrec", "off_policy_actor_critic", columns, behaviour="logged", max_steps=1)
    batch = next(iter(found.epoch(numbers())))
    _, loss, logs = algorithm_loss(found.algorithm, batch)
    assert batch.actions.propensities.isnan().any()
    assert loss.isfinite()
    assert torch.tensor(list(logs.values())).isfinite().all()


@pytest.mark.parametrize("model_name", ["sasrec", "gru4rec", "lightgcn"])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("trpo", {"old_model_sync_steps": 2}),
        ("trpo", {"old_model_sync_steps": 2, "radius": "batch"}),
        ("top_k_off_policy", {"behaviour": "head", "horizon": 1, "reward_funcs": ("return",)}),
        ("off_policy_actor_critic", {}),
        ("off_policy_actor_critic", {"behaviour": "base", "train_encoder": True}),
    ],
)
def test_the_trainer_trains_models_of_all_families(model_name, algorithm, settings):
    found = trainer(model_name, algorithm, **settings)
    before = {n: p.detach().clone() for n, p in found.model.named_parameters()}
    modules = {
        f"{name}/{n}": (p, p.detach().clone())
        for name, module in found.algorithm.modules.items()
        for n, p in module.named_parameters()
    }
    assert found.train().steps == 3
    assert any(not torch.equal(before[n], p) for n, p in found.model.named_parameters())
    assert all(bool(p.isfinite().all()) for p in found.model.parameters())
    assert all(not torch.equal(p, old) for p, old in modules.values())


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("top_k_off_policy", {"behaviour": "head"} | ACTIONS_ONLY, "behaviour = 'head' needs a ve"),
        ("off_policy_actor_critic", {}, "algorithm 'off_policy_actor_critic' needs a vector"),
    ],
)
def test_a_model_without_vectors_is_refused_where_heads_read_them(algorithm, settings, message):
    with pytest.raises(ConfigError, match=message):
        trainer("neumf", algorithm, **settings)


def actor_critic(given, history_length=1, **settings):
    usual = {"temperature": 1.0, "num_negatives": 0, "top_k": 1, "max_ratio": 1e6}
    usual |= {"behaviour": "base", "tau": 0.5}
    model = VectorModel(given, history_length)
    return make_algorithm("off_policy_actor_critic", model, **usual | settings)


def with_actions(batch):
    return batch._replace(actions=LoggedActions(batch.transitions.actions))


@pytest.mark.parametrize("settings", [{}, {"weighted_critic": False, "num_critics": 1}])
def test_the_critic_is_the_value_of_the_policy_in_a_small_mdp(settings):
    # Two states, two actions; action a leads to state a. The policy is fixed.
    policy = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    rewards = torch.tensor([[0.0, 1.0], [0.5, 0.1]])
    gamma = 0.6
    rows = [(s, a, rewards[s, a].item(), a) for s in range(2) for a in range(2)]
    batch = with_actions(transition_batch(rows, gamma=gamma))
    algorithm = actor_critic(table(policy.log()), gamma=gamma, **settings)
    logs = minimise(algorithm, batch, 150, 0.1, [*algorithm.modules["critics"].parameters()])
    value = torch.linalg.solve(torch.eye(2) - gamma * policy, (policy * rewards).sum(dim=1))
    expected = rewards + gamma * value
    items = torch.tensor([[0, 1], [0, 1]])
    for critic in algorithm.critics:
        assert torch.allclose(critic.of_items(torch.eye(2), items), expected, atol=1e-3)
    assert torch.allclose(algorithm.state_values(queries_of([0, 1])), value, atol=1e-3)
    assert logs["target_clamped"] == 0
    assert logs["q_mean"] == pytest.approx(logs["target_mean"], abs=1e-3)


def test_the_lowest_head_counts_and_targets_are_clamped():
    policy = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    algorithm = actor_critic(table(policy.log()), gamma=0.5)
    with torch.no_grad():
        for critic, bias in zip(algorithm.targets, ([1.0, 0.2], [0.4, 0.8]), strict=True):
            critic.bias.copy_(torch.tensor(bias))
    batch = with_actions(transition_batch([(1, 0, 1.0, 0), (0, 0, 1.0, None)]))
    prepared = algorithm_loss(algorithm, batch)[0]
    assert prepared.targets[:, 0].tolist() == pytest.approx(
        [1 + 0.5 * (0.25 * 0.4 + 0.75 * 0.2), 1.0]
    )
    with torch.no_grad():
        for critic in algorithm.targets:
            critic.bias.copy_(torch.tensor([9.0, 9.0]))
    _, _, logs = algorithm_loss(algorithm, batch)
    assert logs["target_clamped"] == 0.5
    assert logs["target_mean"] == pytest.approx(1.5)  # 2 = 1 / (1 - gamma) and 1


@pytest.mark.parametrize("k", [1, 3])
def test_without_a_next_state_it_is_top_k_with_the_reward_minus_its_expectation(k):
    # Every arm is logged once under a uniform behaviour.
    rewards = torch.tensor([0.1, 0.9, 0.3, 0.6])
    logits = torch.randn(1, 4, generator=numbers())
    given = table(logits)
    algorithm = actor_critic(given, gamma=0.0, top_k=k, num_critics=1)
    with torch.no_grad():
        algorithm.critics[0].bias.copy_(rewards)
        algorithm.base.items.zero_()
    rows = [(0, arm, reward, None) for arm, reward in enumerate(rewards.tolist())]
    batch = with_actions(transition_batch(rows, gamma=0.0))
    batch = batch._replace(queries=replace(batch.queries, users=torch.zeros(4, dtype=torch.int64)))
    _, loss, logs = algorithm_loss(algorithm, batch)
    (slope,) = torch.autograd.grad(loss, [algorithm.model.items])
    p = logits.softmax(dim=1)[0]
    mean = (p * rewards).sum()
    top_k, top_k_batch = bandit(rewards, torch.full((4,), 0.25), top_k=k, max_ratio=1e6)
    with torch.no_grad():
        top_k.model.items.copy_(given.items)
    values = rewards - (mean if k > 1 else 0)  # at K = 1 the expectation has no gradient
    top_k_batch = top_k_batch._replace(
        rewards=top_k_batch.rewards._replace(values=values * 0.25), actions=batch.actions
    )
    _, other, _ = algorithm_loss(top_k, top_k_batch)
    (expected,) = torch.autograd.grad(other, [top_k.model.items])
    total = (values * 0.25).sum()
    assert torch.allclose(slope, (expected * total).float(), atol=1e-6)
    assert logs["advantage"] == pytest.approx((rewards - mean).mean().item(), abs=1e-6)


@pytest.mark.parametrize("shape", [False, True])
def test_the_critic_leaves_the_encoder_unless_it_shapes_it(shape):
    given = Embeddings(*(part.float().detach() for part in vectors(2)))
    algorithm = actor_critic(given, train_encoder=shape)
    with torch.no_grad():
        for critic in algorithm.critics:
            torch.nn.init.eye_(critic.query.weight)
    slopes = []
    for reward in (0.2, 0.9):  # only the critic's loss depends on it
        batch = with_actions(transition_batch([(0, 1, reward, None), (1, 3, 0.5, None)]))
        _, loss, _ = algorithm_loss(algorithm, batch)
        slopes.append(torch.autograd.grad(loss, algorithm.model.users)[0])
    assert torch.equal(*slopes) is not shape


def test_a_masked_action_is_not_learned_from():
    given = Embeddings(*(part.float().detach() for part in vectors(2)))
    seen = Seen(torch.tensor([1]), torch.tensor([3]))
    batch = transition_batch([(0, 1, 1.0, None), (1, 3, 0.0, None)], masked=[False, True])
    batch = with_actions(batch._replace(queries=queries_of([0, 1], seen)))
    algorithm = actor_critic(given, behaviour="head")
    _, loss, logs = algorithm_loss(algorithm, batch)
    slopes = torch.autograd.grad(loss, [algorithm.model.users, algorithm.critics[0].bias])
    assert slopes[0][1].abs().max() == 0
    assert slopes[1].nonzero().tolist() == [[1]]
    assert loss.isfinite()
    assert logs["target_mean"] == 1.0


@pytest.mark.parametrize(("history_length", "value"), [(1, 0.7), (0, 0.0)])
def test_negatives_keep_the_state_and_have_no_reward(history_length, value):
    policy = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    algorithm = actor_critic(table(policy.log()), history_length, gamma=0.5, num_negatives=50)
    with torch.no_grad():
        for critic in algorithm.targets:
            critic.bias.copy_(torch.tensor([0.4, 0.8]))
    prepared = algorithm_loss(algorithm, with_actions(transition_batch([(0, 0, 1.0, None)])))[0]
    assert prepared.targets[0].tolist() == pytest.approx([1.0, *[0.5 * value] * 50])
    assert set(prepared.items[0, 1:].tolist()) == {0, 1}
