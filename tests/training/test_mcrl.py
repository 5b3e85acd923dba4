"""Contrastive models of reward and next state: fixed points, and each term by its formula."""

import pytest
import torch
from estimating import VectorModel, algorithm_loss, numbers
from test_supervised_q import (
    GAMMA,
    ITEMS,
    STATES,
    batch_of,
    frequencies,
    learner,
    policy_of_table,
    q_by_iteration,
    set_q,
    table_model,
    trained,
)

from recoach.data.queries import Seen
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.training.algorithms.mcrl import MCRLConfig, _contrast, _with_items

OFF = {"reward_coef": 0.0, "transition_coef": 0.0, "conservative_coef": 0.0}
Q = torch.tensor([[0.1, 0.8, 0.3, 0.2], [0.4, 0.1, 0.6, 0.5], [0.9, 0.2, 0.0, 0.3]])


@pytest.fixture
def every_other_item(monkeypatch):
    """Draw every item but the logged one, once for each state."""
    monkeypatch.setattr(torch, "randint", lambda n, shape, **_: torch.arange(n).expand(shape))


def with_q(q=Q, model=None, **settings):
    algorithm = learner("mcrl", model, **{"num_negatives": ITEMS - 1} | settings)
    algorithm.after_step(1)
    set_q(algorithm, q)
    return algorithm


def set_reward_logits(algorithm, logits):
    with torch.no_grad():
        algorithm.reward_model.weight.zero_()
        algorithm.reward_model.weight[STATES:, :STATES] = logits.T


def only(algorithm, *trained_modules):
    """Train some modules only."""
    for module in (algorithm.model, algorithm.head, *algorithm.modules.values()):
        module.requires_grad_(module in trained_modules)


def test_without_its_models_and_the_conservative_term_it_is_snqn():
    losses, targets = [], []
    for name, settings in (("snqn", {}), ("mcrl", OFF)):
        algorithm = learner(name, num_negatives=3, **settings)
        algorithm.after_step(1)
        set_q(algorithm, Q)
        prepared, loss, _ = algorithm_loss(algorithm, batch_of())
        losses.append(loss)
        targets.append(prepared.targets)
        assert set(algorithm.modules) == {"head", "reward_range", "target"}
    assert torch.equal(*losses)
    assert torch.equal(*targets)


def test_the_policy_is_that_of_cross_entropy():
    algorithm = with_q(q_by_iteration("max"), tau=0.5, num_negatives=1)
    algorithm.model.users.requires_grad_(False)
    algorithm.head.requires_grad_(False)
    trained(algorithm, batch_of())
    assert torch.allclose(policy_of_table(algorithm), frequencies(), atol=1e-3)


def test_predicted_rewards_reach_their_fixed_point(every_other_item):
    # With every other item drawn, the shares of a state are its mean label distribution.
    rows = [(0, 0, 2.0, None, -1, 3), (0, 1, 0.5, None, -1, 1), (1, 2, 1.0, None, -1, 2)]
    rows += [(1, 3, -1.0, None, -1, 2), (2, 1, 0.0, None, -1, 1), (2, 0, 2.0, None, -1, 1)]
    algorithm, batch = with_q(transition_coef=0.0), batch_of(rows)
    only(algorithm, algorithm.reward_model)
    trained(algorithm, batch, 200, 0.2, 0.95)
    expected, counts = torch.zeros(STATES, ITEMS), torch.zeros(STATES, 1)
    for state, action, reward, *_, count in rows:
        label = max(reward, 0) / 2
        distribution = torch.full((ITEMS,), (1 - label) / (ITEMS - 1))
        distribution[action] = label
        expected[state] += count * distribution
        counts[state] += count
    expected /= counts
    users, items = algorithm.model.given
    shares = (algorithm.reward_model(users) @ items.T).softmax(dim=1)
    assert torch.allclose(shares, expected, atol=1e-3)

    prepared, _, _ = algorithm_loss(algorithm, batch)
    states = batch.queries.state_users[:, None]
    rewards = prepared.targets[:, 1:] - GAMMA * Q.max(dim=1).values[states]
    assert torch.allclose(rewards, 2 * expected[states, prepared.items[:, 1:]], atol=2e-3)


def test_the_next_state_reaches_its_fixed_point():
    # The next state depends on the item: its distribution is that of the softmax over the batch.
    following = {0: [0, 1, 1, 1, 2], 1: [0, 1, 2, 2], 2: [0, 1, 2], 3: [0, 0, 1, 2]}
    rows = [
        (state, action, 1.0, next_state, 0, 1)
        for state in range(STATES)
        for action, next_states in following.items()
        for next_state in next_states
    ]
    rows += [(0, 0, 1.0, None, -1, 5)]  # the end has no next state
    algorithm = with_q(reward_coef=0.0)
    only(algorithm, algorithm.transition_model)
    logs = trained(algorithm, batch_of(rows), 200, 0.1, 0.95)
    n = torch.tensor([[row[3] == s for s in range(STATES)] for row in rows[:-1]]).float().mean(0)
    users, items = algorithm.model.given
    loss = 0.0
    for state in range(STATES):
        for action, next_states in following.items():
            predicted = algorithm.transition_model(users[state], items[action])
            distances = (predicted - users).square().sum(dim=1)
            shares = (n.log() - distances / 2).softmax(dim=0)
            expected = torch.tensor([next_states.count(s) for s in range(STATES)])
            assert torch.allclose(shares, expected / len(next_states), atol=1e-3)
            loss -= (expected * (shares / n).log()).sum().item()
    count = len(rows) - 1
    loss = loss / count + torch.tensor(float(count)).log().item()
    assert logs[-1]["transition_loss"] == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("double", [True, False])
def test_a_drawn_item_has_the_value_of_the_predicted_state(every_other_item, double):
    algorithm = with_q(reward_coef=0.0, negative_reward=-0.1, double=double)
    move = torch.tensor([1, 2, 0])  # from each state to the next one, whatever the item
    with torch.no_grad():
        weight = algorithm.transition_model.of_state.weight
        weight[:STATES, :STATES] = torch.eye(STATES)[move].T - torch.eye(STATES)
    online = Q.flip(1)
    set_head(algorithm, online)
    prepared, _, _ = algorithm_loss(algorithm, batch_of([(0, 1, 1.0, None, -1, 1)]))
    best = (online if double else Q)[1].argmax()
    assert torch.allclose(prepared.targets[:, 1:], -0.1 + GAMMA * Q[1, best])


def set_head(algorithm, q):
    with torch.no_grad():
        algorithm.head.query.weight[STATES:, :STATES] = q.T


def test_a_drawn_item_is_masked_in_its_next_state(every_other_item):
    algorithm = with_q(reward_coef=0.0)
    batch = batch_of([(0, 2, 1.0, None, -1, 1), (1, 0, 1.0, None, -1, 1)])
    seen = Seen(torch.tensor([0, 1]), torch.tensor([3, 3]))
    batch = batch._replace(queries=type(batch.queries)(**fields(batch.queries) | {"seen": seen}))
    prepared, _, _ = algorithm_loss(algorithm, batch)
    # At first the state stays as it is. State 0: 1 is best, unless it was drawn itself.
    assert prepared.items[:, 1:].tolist() == [[0, 1, 3], [1, 2, 3]]
    expected = GAMMA * torch.tensor([[0.8, 0.3, 0.8], [0.6, 0.4, 0.6]])
    assert torch.allclose(prepared.targets[:, 1:], expected)


def fields(queries):
    return {name: getattr(queries, name) for name in queries.__dataclass_fields__}


def test_pairs_are_added_once_and_sorted():
    pairs = _with_items(
        Seen(torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0])), torch.tensor([3, 2, 4]), 5
    )
    assert torch.stack(pairs[:2]).tolist() == [[0, 0, 1, 2, 2], [1, 3, 2, 0, 4]]


def test_the_loss_is_that_of_the_formulas():
    algorithm = with_q(num_negatives=2, reward_coef=0.3, transition_coef=0.2, q_coef=0.5)
    logits = torch.randn(STATES, ITEMS, generator=numbers(3))
    set_reward_logits(algorithm, logits)
    with torch.no_grad():
        for part in algorithm.transition_model.parameters():
            part.copy_(torch.randn(part.shape, generator=numbers(4)))
    rows = [
        (0, 1, 1.0, 1, 0, 1),
        (1, 0, 0.5, None, -1, 1),
        (2, 3, 2.0, 0, 1, 1),
        (1, 2, -1.0, 2, 1, 1),
    ]
    batch = batch_of(rows, masked=[False, False, False, True])
    plain = with_q(num_negatives=2, q_coef=0.5, **OFF | {"conservative_coef": 0.1})
    prepared, loss, logs = algorithm_loss(algorithm, batch)
    with torch.no_grad():
        other = plain.prepare(batch, numbers())
    assert torch.equal(other.items, prepared.items)
    base, _ = plain.loss(batch, prepared, numbers())

    log_p = logits[torch.tensor([0, 1, 2])[:, None], prepared.items[:3]].log_softmax(dim=1)
    labels = torch.tensor([0.5, 0.25, 1.0])
    reward_loss = -(labels * log_p[:, 0] + (1 - labels) * log_p[:, 1:].mean(dim=1)).mean()
    users, items = algorithm.model.given
    predicted = algorithm.transition_model(users[[0, 2]], items[[1, 3]])
    reached = users[[1, 0]]
    distances = (predicted[:, None] - reached[None]).square().sum(dim=2) / 2
    transition_loss = -(-distances).log_softmax(dim=1).diagonal().mean()
    added = 0.5 * (0.3 * reward_loss + 0.2 * transition_loss)
    assert (loss - base).item() == pytest.approx(added.item(), rel=1e-4)
    assert logs["reward_loss"] == pytest.approx(reward_loss.item(), rel=1e-5)
    assert logs["transition_loss"] == pytest.approx(transition_loss.item(), rel=1e-5)


def test_the_contrast_is_taken_over_all_processes(monkeypatch):
    first, second = torch.randn(3, 4, generator=numbers(1)), torch.randn(2, 4, generator=numbers(2))
    predicted = torch.randn(5, 4, generator=numbers(3))
    reached = torch.cat([first, second])
    alone = _contrast(predicted, reached)
    distances = (predicted[:, None] - reached).square().sum(dim=2)
    assert torch.allclose(alone, -(-distances / 2).log_softmax(dim=1).diagonal())

    def gather(rows):
        other = torch.zeros(3, dtype=torch.int64) if rows.dim() == 1 else first
        return torch.cat([other, rows])

    module = "recoach.training.algorithms.mcrl.distributed"
    monkeypatch.setattr(f"{module}.data_rank", lambda: 1)
    monkeypatch.setattr(f"{module}.all_gather_with_grad", gather)
    assert torch.allclose(_contrast(predicted[3:], second), alone[3:])


def test_a_model_without_history_has_no_next_state():
    batch = batch_of([(0, 1, 1.0, None, -1, 2)])
    batch = batch._replace(transitions=batch.transitions._replace(next_queries=None))
    algorithm = with_q(model=table_model(history_length=0))
    assert algorithm.transition_model is None
    prepared, _, logs = algorithm_loss(algorithm, batch)
    assert torch.allclose(prepared.targets[:, 1:], torch.tensor(1 / ITEMS))  # at first all alike
    assert "transition_loss" not in logs


def test_gradients_reach_the_encoder_unless_it_is_left_out():
    for trains in (True, False):
        users = torch.randn(STATES, 6, generator=numbers(1))
        items = torch.randn(ITEMS, 6, generator=numbers(2))
        model = VectorModel(Embeddings(users, items), 5)
        algorithm = learner("mcrl", model, train_encoder=trains, q_coef=1.0)
        with torch.no_grad():
            algorithm.reward_model.weight.copy_(torch.eye(6))
            prepared = algorithm.prepare(batch_of(), numbers())
        for coefs in ({"reward_coef": 1.0, "transition_coef": 0.0}, {"reward_coef": 0.0}):
            algorithm.args = algorithm.args.model_copy(update={"transition_coef": 1.0} | coefs)
            vectors = (model.users[batch_of().queries.state_users], model.items.detach())
            vectors = vectors if trains else (vectors[0].detach(), vectors[1])
            loss = algorithm.auxiliary_loss(
                vectors, batch_of(), prepared, numbers(), statistics=_NoStatistics()
            )
            assert loss.requires_grad
            if trains:
                assert torch.autograd.grad(loss, model.users)[0].abs().max() > 0.01


class _NoStatistics:
    def add(self, name, values):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_coef": 0.5, "num_negatives": 0}, "it belongs to num_negatives above 0"),
        ({"transition_coef": 0.5, "gamma": 0.0}, "it belongs to gamma above 0"),
        ({"negative_reward": -1.0}, "it belongs to reward_coef = 0"),
        ({"target": "random"}, "target"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MCRLConfig(**settings)
