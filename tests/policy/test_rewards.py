from collections import defaultdict

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.batches import StateBatches
from recoach.data.dataset import RaggedArray, assemble
from recoach.data.queries import Seen
from recoach.policy.reward_funcs import future, next_item, train_set
from recoach.policy.rewards import (
    CombinedReward,
    Rewards,
    drop_seen,
    future_items,
    normalized,
    past_items,
)
from tests.toy_logs import with_ratings

ROWS = st.lists(st.lists(st.integers(0, 5), max_size=7), min_size=1, max_size=5).filter(
    lambda rows: any(len(row) > 1 for row in rows)
)


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def dataset(rows, ratings=None):
    train = ragged(rows)
    users, items = (
        pl.Series(name, [f"{name}{n}" for n in range(count)])
        for name, count in (("u", len(rows)), ("i", 6))
    )
    empty = ragged([[] for _ in rows])
    result = assemble("", (users, items), (train, empty, empty))
    return result if ratings is None else with_ratings(result, ratings)


def paid(batch, logged, *functions, **settings):
    """Return the rewards of what the log holds for a batch."""
    return CombinedReward(functions, **settings).logged_rewards(logged, batch.queries.state_users)


def one_batch(train, states="prefix"):
    source = StateBatches(train, n_items=6, history_length=9, batch_size=1000, states=states)
    (batch,) = source.epoch(torch.Generator().manual_seed(0))
    return batch


def states_of(batch, data):
    """Return the users of the states and the numbers of their events before each state."""
    users = batch.queries.state_users.numpy()
    return users, batch.positions - data.train.offsets[users]


def as_dicts(rewards, n_states):
    found = [{} for _ in range(n_states)]
    for state, item, value in zip(*(tensor.tolist() for tensor in rewards[:3]), strict=True):
        assert item not in found[state]
        found[state][item] = value
    return found


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 4), st.sampled_from([1.0, 0.5]))
def test_the_coming_items_are_worth_less_the_later_they_come(rows, horizon, discount):
    data = dataset(rows)
    batch = one_batch(data.train)
    rewards = paid(batch, future_items(states_of(batch, data), data, horizon), future(discount))
    expected = []
    users, ends = batch.queries.state_users.tolist(), batch.queries.ends.tolist()
    for user, end in zip(users, ends, strict=True):
        worth = defaultdict(float)
        for ahead, item in enumerate(rows[user][end : end + horizon]):
            worth[item] = max(worth[item], discount**ahead)
        expected.append(dict(worth))
    assert as_dicts(rewards, len(batch.queries)) == expected
    assert (rewards.states.diff() >= 0).all()


def test_a_horizon_of_one_rewards_the_next_item_alone():
    data = dataset([[1, 2, 3], [4, 0]])
    batch = one_batch(data.train)
    rewards = paid(batch, future_items(states_of(batch, data), data, 1), future(0.3))
    assert rewards.items.tolist() == batch.targets.tolist()
    assert rewards.values.tolist() == [1, 1, 1]
    same = paid(batch, future_items(states_of(batch, data), data, 5), next_item)
    assert all(torch.equal(a, b) for a, b in zip(same[:4], rewards[:4], strict=True))


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_the_training_set_pays_for_each_item_of_the_user_once(rows):
    data = dataset(rows)
    batch = one_batch(data.train, "user")
    found = as_dicts(
        paid(batch, past_items(states_of(batch, data)[0], data), train_set), len(batch.queries)
    )
    users = batch.queries.state_users.tolist()
    assert found == [dict.fromkeys(rows[user], 1.0) for user in users]


@pytest.mark.parametrize("seen", [[], [(0, 4)], [(0, 3), (1, 3)], [(0, 4), (1, 5), (1, 0)]])
def test_rewards_of_masked_items_are_dropped(seen):
    rewards = Rewards(torch.tensor([0, 0, 1]), torch.tensor([3, 4, 5]), torch.tensor([1.0, 2, 3]))
    pairs = torch.tensor(sorted(seen), dtype=torch.int64).reshape(-1, 2)
    left = drop_seen(rewards, Seen(pairs[:, 0], pairs[:, 1]))
    kept = list(zip(*(tensor.tolist() for tensor in left[:3]), strict=True))
    assert kept == [r for r in [(0, 3, 1.0), (0, 4, 2.0), (1, 5, 3.0)] if r[:2] not in seen]


def test_normalized_rewards_of_a_state_have_sizes_that_sum_to_one():
    states, values = torch.tensor([0, 0, 2, 3, 3]), torch.tensor([1.0, 3.0, 0.0, -1.0, 4.0])
    given = Rewards(states, torch.arange(5), values, parts=values[None])
    found = normalized(given, 5)
    assert torch.allclose(found.values, torch.tensor([0.25, 0.75, 0.0, -0.2, 0.8]))
    assert torch.equal(found.parts, given.parts)
