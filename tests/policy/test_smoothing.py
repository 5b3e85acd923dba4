"""Rewards spread over the items that the same users take."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recoach.data.batches import StateBatches
from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.policy import smoothing
from recoach.policy.rewards import Rewards
from recoach.policy.smoothing import Smoothing, neighbours
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.batch_builder import BatchBuilder
from toy_logs import cycle

ITEMS = 8
ROWS = st.lists(st.lists(st.integers(0, ITEMS - 2), max_size=7), min_size=1, max_size=6)


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def dense(rewards, n_states):
    found = torch.zeros(n_states, ITEMS)
    assert len(torch.unique(torch.stack(rewards[:2]), dim=1)[0]) == len(rewards.items)
    assert (rewards.states.diff() >= 0).all()
    found[rewards.states, rewards.items] = rewards.values
    return found


def matrices(train):
    users = np.repeat(np.arange(len(train)), train.lengths)
    shape = len(train), int(train.values.max()) + 1
    taken = sparse.csr_array((np.ones(len(users)), (users, train.values)), shape=shape)
    return taken.T.tocsr(), taken


def expected_weights(rows, count):
    """The definition, pair by pair."""
    takers = [{n for n, row in enumerate(rows) if item in row} for item in range(ITEMS)]
    weights = np.zeros((ITEMS, ITEMS))
    for item, own in enumerate(takers):
        near = {
            other: len(own & theirs) / np.sqrt((len(own) + 5) * (len(theirs) + 5))
            for other, theirs in enumerate(takers)
            if other != item and own & theirs
        }
        best = sorted(near, key=lambda other: (-round(near[other], 6), other))[:count]
        for other in best:
            weights[item, other] = near[other] / sum(near[o] for o in best)
    return weights


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 4))
def test_neighbours_are_the_items_with_the_most_users_in_common(rows, count):
    near = neighbours(ragged(rows), ITEMS, count).toarray()
    np.testing.assert_allclose(near, expected_weights(rows, count), atol=1e-5)


def test_items_are_compared_in_parts_as_at_once(monkeypatch):
    train = leave_last_out(cycle(24, 12, length=7)).train
    whole = neighbours(train, 12, 3)
    monkeypatch.setattr(smoothing, "_PAIRS", 20)
    assert len(smoothing._block_edges(*matrices(train))) > 3
    assert (neighbours(train, 12, 3) != whole).nnz == 0


@settings(max_examples=80, deadline=None)
@given(ROWS, st.floats(0.1, 0.9), st.lists(st.integers(0, ITEMS - 1), min_size=1, unique=True))
def test_a_part_of_each_reward_is_spread_over_the_neighbours(rows, share, items):
    near = expected_weights(rows, 3)
    values = torch.arange(1, len(items) + 1).float()
    given_ = Rewards(torch.ones(len(items), dtype=torch.long), torch.tensor(sorted(items)), values)
    spread = dense(Smoothing(ragged(rows), ITEMS, share, 3)(given_, 3), 3)
    expected = torch.zeros(3, ITEMS)
    for item, value in zip(given_.items.tolist(), values.tolist(), strict=True):
        kept = 1 - share if near[item].any() else 1.0
        expected[1, item] += kept * value
        expected[1] += share * value * torch.from_numpy(near[item]).float()
    torch.testing.assert_close(spread, expected, atol=1e-5, rtol=1e-5)
    assert spread.sum() == pytest.approx(float(values.sum()), rel=1e-5)


def test_what_each_function_pays_is_spread_with_the_sum():
    train = ragged([[0, 1], [0, 1, 2]])
    parts = torch.tensor([[1.0, 0.0], [0.0, -3.0]])
    rewards = Rewards(torch.tensor([0, 0]), torch.tensor([0, 2]), torch.tensor([1.0, -3.0]), parts)
    smoothed = Smoothing(train, ITEMS, 0.5, 1)(rewards, 1)
    assert smoothed.items.tolist() == [0, 1, 2]
    assert smoothed.parts.tolist() == [[0.5, 0.5, 0], [-1.5, 0, -1.5]]  # 2 is nearest to 0
    assert smoothed.values.tolist() == [-1.0, 0.5, -1.5]


def tasks_of(model, dataset, **changes):
    args = GRPOConfig(**changes)
    batches = StateBatches(
        dataset.train,
        n_items=dataset.n_items,
        history_length=model.history_length,
        batch_size=50,
        states="last_prefix",
    )
    (batch,) = batches.epoch(torch.Generator().manual_seed(0))
    made = BatchBuilder(args, dataset, args.reward_funcs, model)
    return made.build(batch, torch.device("cpu"))


def test_a_task_pays_no_seen_neighbour_and_hides_all_it_pays_for():
    dataset = leave_last_out(cycle(24, 12, length=7))
    model = build_model("lightgcn", dataset, dim=8)
    plain = tasks_of(model, dataset, reward_smoothing=0)
    smoothed = tasks_of(model, dataset, reward_smoothing=0.5, smoothing_neighbours=5)
    assert len(smoothed.rewards.items) > len(plain.rewards.items)
    seen = smoothed.queries.seen
    masked = set(zip(seen.states.tolist(), seen.items.tolist(), strict=True))
    paid = zip(smoothed.rewards.states.tolist(), smoothed.rewards.items.tolist(), strict=True)
    assert not masked & set(paid)
    for task in (plain, smoothed):
        assert torch.equal(task.queries.hidden.items, task.rewards.items)
        assert torch.equal(task.queries.hidden.states, task.rewards.states)


def test_only_what_the_log_pays_is_smoothed():
    dataset = leave_last_out(cycle(24, 12, length=7))
    model = build_model("lightgcn", dataset, dim=8)
    assert BatchBuilder(GRPOConfig(), dataset, ["future"], model)._smoothing is not None
    assert BatchBuilder(GRPOConfig(), dataset, ["novelty"], model)._smoothing is None


def test_rewards_that_cancel_leave_a_pair_of_zero():
    train = ragged([[0, 1], [1, 2]])
    rewards = Rewards(torch.tensor([0, 0]), torch.tensor([0, 2]), torch.tensor([1.0, -1.0]))
    smoothed = Smoothing(train, ITEMS, 0.5, 1)(rewards, 1)
    assert smoothed.items.tolist() == [0, 1, 2]
    assert smoothed.values.tolist() == [0.5, 0.0, -0.5]
