"""Deep Q-learning: fixed points and targets by hand, on a model whose scores are a table."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from estimating import VectorModel, algorithm_loss, make_algorithm, make_batch, numbers, vectors

from recoach.data.queries import Queries, Seen
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import Embeddings, Recommender
from recoach.models.registry import build_model
from recoach.training.algorithms.dqn import DQNConfig
from recoach.training.trainer import RLTrainer
from recoach.training.transitions import Transitions
from toy_logs import cycle

STATES, ITEMS = 3, 4
LOGGED = {"num_negatives": 0, "conservative_coef": 0.0, "temperature": 1.0, "td_loss": "squared"}


class Table(Recommender):
    """Scores are entries of a table; the state of a user is a row."""

    def __init__(self, scores):
        torch.nn.Module.__init__(self)
        self.config, self.n_users, self.n_items = None, *scores.shape
        self.scores = torch.nn.Parameter(scores.clone())

    def score(self, queries, items=None):
        rows = self.scores[queries.state_users]
        if items is None:
            return rows
        return rows[:, items] if items.ndim == 1 else rows.gather(1, items)

    def parameter_groups(self):
        return {"item": [self.scores]}


def queries_of(states, seen=None):
    states, none = torch.tensor(states), torch.zeros(len(states), dtype=torch.int64)
    index = torch.arange(len(states))
    return Queries(states, torch.empty(len(states), 0, dtype=torch.int64), none, index, none, seen)


def transition_batch(rows, *, gamma=0.5, seen=None, masked=None):
    """Return a batch of transitions (state, action, reward, next state or None).

    A next state of None terminates the episode; all others are truncated.
    """
    states, actions, rewards, following = zip(*rows, strict=True)
    terminated = torch.tensor([state is None for state in following])
    # A terminated transition must not read its next state, here the state itself.
    next_states = [
        s if state is None else state for s, state in zip(states, following, strict=True)
    ]
    next_queries = queries_of(next_states, seen)
    transitions = Transitions(
        torch.tensor(actions),
        torch.tensor(rewards),
        next_queries,
        terminated,
        ~terminated,
        torch.tensor(masked or [False] * len(rows)),
        gamma * (~terminated).float(),
        *torch.full((3, len(rows)), -1).unbind(),
    )
    batch = make_batch([(0, 0, 1.0)], n_states=len(rows))
    return batch._replace(queries=queries_of(states), transitions=transitions)


def q_learning(scores, **settings):
    return make_algorithm("dqn", Table(scores), **LOGGED | settings)


def targets_of(algorithm, batch, seed=0):
    with torch.no_grad():
        return algorithm.prepare(batch, numbers(seed)).targets


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_q_learning_reaches_the_fixed_point_of_a_small_mdp(double, dueling):
    # From state 0, action 0 leads to state 1 and action 1 to state 2; action 1 pays at once, but
    # state 1 leads back to state 0 and pays 1, while state 2 ends with 0.5. Other actions end.
    rows = [(0, 0, 0.0, 1), (0, 1, 0.3, 2), (1, 0, 1.0, 0), (1, 1, 0.0, None)]
    rows += [(2, 0, 0.5, None), (2, 1, 0.0, None)]
    gamma = 0.5
    q = torch.zeros(3, 2)
    for _ in range(100):  # value iteration
        value = q.amax(dim=1)
        q = torch.tensor(
            [
                [gamma * value[1], 0.3 + gamma * value[2]],
                [1.0 + gamma * value[0], 0.0],
                [0.5, 0.0],
            ]
        )
    settings = {"gamma": gamma, "double": double, "tau": 0.2}
    start = torch.randn(3, 2, generator=numbers(1))
    if dueling:
        given = Embeddings(torch.eye(3), start.T.contiguous())
        settings |= LOGGED | {"dueling": True}
        algorithm = make_algorithm("dqn", VectorModel(given), **settings)
    else:
        algorithm = q_learning(start, **settings)
    batch = transition_batch(rows)
    modules = [algorithm.model, *algorithm.modules.values()]
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    for step in range(1, 1500):
        _, loss, logs = algorithm_loss(algorithm, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        algorithm.after_step(step)
    items = torch.tensor([[0, 1]] * 3)
    found = algorithm.q_values(algorithm.model, algorithm.value, queries_of([0, 1, 2]), items)
    assert torch.allclose(found, q, atol=0.01)
    assert logs["td_loss"] < 1e-4
    assert logs["q_mean"] == pytest.approx(logs["target_mean"], abs=0.01)
    ranking = algorithm.model.score(queries_of([0, 1, 2])).argmax(dim=1)
    assert torch.equal(ranking, q.argmax(dim=1))


def test_double_q_learning_evaluates_the_models_choice_by_the_target_network():
    online = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    frozen = torch.tensor([[0.0, 0.0], [0.9, 0.4]])
    batch = transition_batch([(0, 0, 1.0, 1)])
    found = {}
    for double in (False, True):
        algorithm = q_learning(online, double=double, gamma=0.5)
        with torch.no_grad():
            algorithm.target.scores.copy_(frozen)
        found[double] = targets_of(algorithm, batch)[0, 0].item()
    assert found[True] == pytest.approx(1 + 0.5 * 0.4)  # the model chooses item 1
    assert found[False] == pytest.approx(1 + 0.5 * 0.9)  # the target network chooses item 0


def test_a_terminated_transition_does_not_bootstrap_and_a_truncated_one_does():
    scores = torch.tensor([[0.0, 0.0], [0.2, 0.6]])
    batch = transition_batch([(0, 0, 1.0, 1), (1, 1, 1.0, None)])
    assert batch.transitions.truncated.tolist() == [True, False]
    targets = targets_of(q_learning(scores, gamma=0.5), batch)[:, 0]
    assert targets.tolist() == pytest.approx([1.3, 1.0])


def test_without_next_states_the_target_is_the_reward():
    batch = transition_batch([(0, 0, 1.0, None), (1, 1, 0.5, None)])
    batch = batch._replace(transitions=batch.transitions._replace(next_queries=None))
    targets = targets_of(q_learning(torch.randn(2, 2)), batch)[:, 0]
    assert targets.tolist() == [1.0, 0.5]


def test_the_next_action_is_never_a_masked_item():
    scores = torch.tensor([[0.0, 0.0], [0.2, 0.6]])
    masked = transition_batch([(0, 0, 1.0, 1)], seen=Seen(torch.tensor([0]), torch.tensor([1])))
    assert targets_of(q_learning(scores, gamma=0.5), masked).item() == pytest.approx(1.1)
    seen = Seen(torch.tensor([0, 0]), torch.tensor([0, 1]))
    nothing_left = transition_batch([(0, 0, 1.0, 1)], seen=seen)
    assert targets_of(q_learning(scores, gamma=0.5), nothing_left).item() == 1.0


def test_targets_are_clamped_to_the_possible_returns():
    scores = torch.tensor([[50.0, 0.0], [-50.0, -60.0]])
    batch = transition_batch([(1, 0, 1.0, 0), (0, 0, 0.5, 1)])
    algorithm = q_learning(scores, gamma=0.5)
    assert targets_of(algorithm, batch)[:, 0].tolist() == [2.0, 0.0]
    _, _, logs = algorithm_loss(algorithm, batch)
    assert logs["target_clamped"] == 1
    possible = transition_batch([(1, 0, 1.0, None), (0, 0, 0.5, 1)])
    assert algorithm_loss(algorithm, possible)[2]["target_clamped"] == 0.5
    fine = transition_batch([(1, 0, -1.0, 1)])
    assert targets_of(algorithm, fine)[:, 0].tolist() == [-2.0]
    assert (algorithm.rewards.low.item(), algorithm.rewards.high.item()) == (-1.0, 1.0)


def test_a_masked_action_is_not_learned_from():
    scores = torch.zeros(2, 2)
    batch = transition_batch([(0, 0, 1.0, None), (1, 1, 0.0, None)], masked=[False, True])
    algorithm = q_learning(scores, conservative_coef=1.0)
    _, loss, logs = algorithm_loss(algorithm, batch)
    (slope,) = torch.autograd.grad(loss, algorithm.model.scores)
    assert slope[0].abs().sum() > 0
    assert slope[1].tolist() == [0, 0]
    assert logs["td_loss"] == pytest.approx(0.5)


def test_negatives_have_no_reward_and_keep_the_state():
    scores = torch.tensor([[0.1, 0.8, 0.3]])
    algorithm = q_learning(scores, gamma=0.5, num_negatives=200)
    batch = transition_batch([(0, 1, 1.0, None)])
    with torch.no_grad():
        prepared = algorithm.prepare(batch, numbers())
    assert prepared.items[0, 0] == 1
    assert set(prepared.items[0, 1:].tolist()) == {0, 1, 2}
    assert prepared.targets[0, 1:].tolist() == pytest.approx([0.4] * 200)
    assert torch.equal(prepared.is_used[0, 1:], prepared.items[0, 1:] != 1)
    assert bool(prepared.is_used[0, 0])


@pytest.mark.parametrize("td_loss", ["huber", "squared"])
def test_the_loss_is_that_of_the_formula(td_loss):
    scores = torch.tensor([[0.0, 3.0, 0.5]])
    settings = {"td_loss": td_loss, "conservative_coef": 0.2, "temperature": 0.5}
    algorithm = q_learning(scores, **settings)
    _, loss, _ = algorithm_loss(algorithm, transition_batch([(0, 1, 1.0, None)]))
    q = scores / 0.5
    error = 6.0 - 1.0
    td = error - 0.5 if td_loss == "huber" else error**2 / 2
    conservative = (q.logsumexp(dim=1) - q[:, 1]).item()
    assert loss.item() == pytest.approx(td + 0.2 * conservative, rel=1e-5)


def test_the_target_network_follows_by_polyak_averaging_or_copies():
    scores = torch.zeros(2, 2)
    polyak = q_learning(scores, tau=0.25)
    copying = q_learning(scores, tau=1.0, target_sync_steps=3)
    for algorithm in (polyak, copying):
        with torch.no_grad():
            algorithm.model.scores += 1.0
    polyak.after_step(1)
    assert polyak.target.scores[0, 0].item() == 0.25
    polyak.after_step(2)
    assert polyak.target.scores[0, 0].item() == pytest.approx(0.4375)
    for step in (1, 2):
        copying.after_step(step)
        assert copying.target.scores[0, 0].item() == 0.0
    copying.after_step(3)
    assert torch.equal(copying.target.scores, copying.model.scores)
    assert not any(p.requires_grad for p in copying.target.parameters())


def test_dueling_changes_no_ranking_and_centres_the_scores():
    given = Embeddings(*(part.detach().float() for part in vectors(3)))
    algorithm = make_algorithm("dqn", VectorModel(given), **LOGGED | {"dueling": True})
    with torch.no_grad():
        algorithm.value.bias.fill_(0.7)
        algorithm.value.weight.fill_(0.1)
    items = torch.arange(len(given.items)).expand(3, -1)
    q = algorithm.q_values(algorithm.model, algorithm.value, queries_of([0, 1, 2]), items)
    scores = given.users @ given.items.T
    value = 0.7 + 0.1 * given.users.sum(dim=1)
    assert torch.allclose(q, value[:, None] + scores - scores.mean(dim=1, keepdim=True), atol=1e-6)
    assert set(algorithm.modules) == {"target", "reward_range", "head", "target_head"}


def test_the_batch_of_a_sequence_model_carries_its_transitions():
    dataset = leave_last_out(cycle(24, 12, length=9))
    model = build_model("sasrec", dataset, dim=8, layers=1, heads=2, inner_dim=16, max_length=4)
    args = DQNConfig(batch_size=500, temperature=1.0, mask_seen=False)
    (batch,) = RLTrainer(model, args=args, train_dataset=dataset).epoch(numbers())
    queries, transitions = batch.queries, batch.transitions
    train, following = dataset.train, transitions.next_queries
    for state in range(len(queries)):
        user, end = int(queries.state_users[state]), int(queries.ends[state])
        row = queries.history[queries.rows[state], :end].tolist()
        next_end = int(following.ends[state])
        next_row = following.history[following.rows[state], :next_end].tolist()
        action = int(transitions.actions[state])
        assert int(following.state_users[state]) == user
        assert next_row == [*row, action][-4:]
        items = train.row(user).tolist()
        starts = [i for i in range(len(items)) if items[i : i + len(row)] == row]
        assert any(items[i + len(row)] == action for i in starts if i + len(row) < len(items))
    assert not transitions.terminated.any()  # every user has held-out items
    is_last = queries.ends == queries.lengths[queries.rows]
    assert torch.equal(transitions.truncated, is_last)
    assert transitions.rewards.tolist() == [1.0] * len(queries)


def test_a_transition_is_terminated_where_the_users_whole_log_ends():
    dataset = leave_last_out(cycle(24, 12, length=7))
    offsets = np.zeros_like(dataset.valid.offsets)
    nothing = replace(dataset.valid, offsets=offsets, values=dataset.valid.values[:0])
    model = build_model("sasrec", dataset, dim=8, layers=1, heads=2, inner_dim=16, max_length=6)
    args = DQNConfig(batch_size=500, temperature=1.0)
    whole = replace(dataset, valid=nothing, test=nothing)
    for data, ends in ((dataset, 0), (whole, 24)):
        (batch,) = RLTrainer(model, args=args, train_dataset=data).epoch(numbers())
        transitions = batch.transitions
        assert int(transitions.terminated.sum()) == ends
        is_last = batch.queries.ends == batch.queries.lengths[batch.queries.rows]
        assert torch.equal(transitions.terminated | transitions.truncated, is_last)
        assert not (transitions.terminated & transitions.truncated).any()


def test_every_transition_of_a_model_without_history_is_terminated():
    dataset = leave_last_out(cycle(24, 12, length=7))
    model = build_model("lightgcn", dataset, dim=8)
    args = DQNConfig(batch_size=500, temperature=1.0)
    (batch,) = RLTrainer(model, args=args, train_dataset=dataset).epoch(numbers())
    assert batch.transitions.next_queries is None
    assert batch.transitions.terminated.all()
    assert not batch.transitions.truncated.any()


def test_next_states_mask_the_action_too():
    dataset = leave_last_out(cycle(24, 12, length=7))
    model = build_model("sasrec", dataset, dim=8, layers=1, heads=2, inner_dim=16, max_length=6)
    args = DQNConfig(batch_size=500, temperature=1.0, mask_seen=True)
    (batch,) = RLTrainer(model, args=args, train_dataset=dataset).epoch(numbers())
    transitions = batch.transitions
    seen = transitions.next_queries.seen
    pairs = set(zip(seen.states.tolist(), seen.items.tolist(), strict=True))
    before = set(
        zip(batch.queries.seen.states.tolist(), batch.queries.seen.items.tolist(), strict=True)
    )
    actions = set(enumerate(transitions.actions.tolist()))
    assert pairs == before | actions
    assert torch.equal(transitions.masked, torch.tensor([a in before for a in sorted(actions)]))


@pytest.mark.parametrize("dueling", [False, True])
def test_dqn_learns_a_simulated_log_from_scratch(dueling):
    dataset = leave_last_out(cycle(24, 12, length=7))
    model = build_model("sasrec", dataset, dim=8, layers=1, heads=2, inner_dim=16, max_length=6)
    before = evaluate(model, dataset).means()["ndcg@10"]
    args = DQNConfig(
        batch_size=48,
        max_steps=150,
        eval_steps=25,
        learning_rate=0.01,
        patience=0,
        dueling=dueling,
        conservative_coef=0.0,
    )
    RLTrainer(model, args=args, train_dataset=dataset).train()
    after = evaluate(model, dataset).means()["ndcg@10"]
    random = sum(1 / np.log2(rank + 2) for rank in range(10)) / 12
    assert after > max(before, random) + 0.2


def test_transitions_know_their_session_and_the_action_after():
    log = cycle(24, 12, length=9)
    hours = np.tile([0, 0, 0, 1, 1, 1, 2, 2, 2], 24) * 3_600_000
    times = pl.Series("timestamp", hours + np.arange(len(hours)), dtype=pl.Int64)
    dataset = leave_last_out(replace(log, columns={"timestamp": times}))
    model = build_model("sasrec", dataset, dim=8, layers=1, heads=2, inner_dim=16, max_length=9)
    args = DQNConfig(batch_size=500, episode="session", gamma=0.7)
    (batch,) = RLTrainer(model, args=args, train_dataset=dataset).epoch(numbers())
    transitions, queries = batch.transitions, batch.queries
    place = queries.ends.numpy()  # of the action among the 7 training items of its user
    ends = np.isin(place, [2, 5])
    assert transitions.terminated.tolist() == ends.tolist()
    assert transitions.discounts.tolist() == pytest.approx(np.where(ends, 0, 0.7).tolist())
    assert transitions.remaining.tolist() == np.array([2, 1, 0, 2, 1, 0, 0])[place].tolist()
    assert transitions.elapsed.tolist() == (place % 3).tolist()
    items = [dataset.train.row(user) for user in queries.state_users.tolist()]
    following = [
        -1 if end or p == 6 else int(row[p + 1])
        for end, p, row in zip(ends, place.tolist(), items, strict=True)
    ]
    assert transitions.next_actions.tolist() == following
