"""Shuffled rewards: which state each state gets its rewards from, and what reaches the batch."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.batches import StateBatches
from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.policy.reward_funcs import log_reward
from recoach.policy.shuffling import source_events
from recoach.training.algorithms.registry import algorithm_entry
from recoach.training.batch_builder import BatchBuilder
from recoach.training.context import RunContext
from recoach.training.trainer import RLTrainer
from toy_logs import block_graph, with_event_types

ROWS = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=2, max_size=8).filter(
    lambda rows: sum(map(bool, rows)) > 1
)


def ragged(rows):
    lengths = [len(row) for row in rows]
    values = np.array([item for row in rows for item in row], dtype=np.int32)
    return RaggedArray(np.append(0, np.cumsum(lengths)).astype(np.int64), values)


def events_of(rows):
    """Return (user, place) of each event."""
    return [(user, place) for user, row in enumerate(rows) for place in range(len(row))]


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 3))
def test_users_of_equal_or_nearest_length_exchange_their_futures(rows, seed):
    events, lengths = events_of(rows), [len(row) for row in rows]
    found = [events[n] for n in source_events(ragged(rows), "users", seed)]
    assert len(found) == len(events)
    partner = {}
    for (user, place), (other, there) in zip(events, found, strict=True):
        assert partner.setdefault(user, other) == other != user
        assert there == max(0, place + lengths[other] - lengths[user])
    assert sorted(partner.values()) == sorted(partner)  # everyone's future is used once
    changed = sum(lengths[user] != lengths[other] for user, other in partner.items())
    alone = sum(lengths.count(length) == 1 for length in set(lengths) - {0})
    assert changed <= 3 * alone


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 3))
def test_a_future_of_another_user_follows_the_same_last_item_where_there_is_one(rows, seed):
    events, train = events_of(rows), ragged(rows)
    found = source_events(train, "last_item", seed).tolist()
    users = source_events(train, "users", seed).tolist()
    for number, (user, place) in enumerate(events):
        item = rows[user][place]
        candidates = [
            n
            for n, (other, there) in enumerate(events)
            if other != user and rows[other][there] == item and there + 1 < len(rows[other])
        ]
        assert found[number] in (candidates or [users[number]])


def test_each_other_occurrence_is_drawn_about_equally_often():
    train = ragged([[0, 1], [1, 0, 2, 0, 3], [0, 0, 1], [2, 0, 1], [4, 0]])
    draws = np.array([source_events(train, "last_item", seed)[0] for seed in range(600)])
    numbers, counts = np.unique(draws, return_counts=True)
    assert numbers.tolist() == [3, 5, 7, 8, 11]  # of user 1, 1, 2, 2 and 3
    assert counts.min() > 80
    own = {source_events(train, "last_item", seed)[3] for seed in range(100)}
    assert own == {0, 7, 8, 11}


@pytest.mark.parametrize("shuffle", ["users", "last_item"])
def test_the_seed_decides(shuffle):
    train = DATASET.train
    first, again, other = (source_events(train, shuffle, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first // LENGTH != np.arange(len(first)) // LENGTH).all()


DATASET = leave_last_out(with_event_types(block_graph(30, 24, n_blocks=2, length=9)))
LENGTH = 7
"""Events of each user in train."""
MODEL = build_model("sasrec", DATASET, dim=8, max_length=4)


@log_reward
def number_of_user(prompts, completions, ahead, **_):
    return prompts + 1.0


def build(shuffle, algorithm="grpo", functions=("future",), states="prefix", **given):
    fixed = {"reward_smoothing": 0.0, "shuffle_rewards": shuffle, "mask_seen": False}
    args = algorithm_entry(algorithm).config(**fixed | given)
    transitions = algorithm_entry(algorithm).algorithm.needs_transitions
    builder = BatchBuilder(args, DATASET, functions, MODEL, transitions=transitions, seed=5)
    batches = StateBatches(
        DATASET.train.keep_columns(()),
        n_items=DATASET.n_items,
        history_length=4,
        batch_size=10**6,
        states=states,
    )
    (batch,) = batches.epoch(torch.Generator().manual_seed(0))
    return batch, builder.build(batch, torch.device("cpu"))


def pairs_of(batch, rewards):
    """Return {position of the next item: {item: reward}}."""
    found = {position: {} for position in batch.positions.tolist()}
    for state, item, value in zip(*(part.tolist() for part in rewards[:3]), strict=True):
        found[batch.positions[state]][item] = value
    return found


@pytest.mark.parametrize("shuffle", ["none", "users", "last_item"])
def test_rewards_are_those_of_the_source_state(shuffle):
    values = DATASET.train.values
    sources = np.arange(len(values))
    if shuffle != "none":
        sources = source_events(DATASET.train, shuffle, 5)
    batch, built = build(shuffle, functions=("future", number_of_user), horizon=2)
    found = pairs_of(batch, built.rewards)
    for position in batch.positions.tolist():
        last = sources[position - 1]
        user = last // LENGTH
        expected = {
            values[last + ahead].item(): 0.8 ** (ahead - 1) + user + 1
            for ahead in (1, 2)
            if (last + ahead) // LENGTH == user
        }
        assert found[position] == pytest.approx(expected)
        if shuffle == "last_item":
            assert values[last] == values[position - 1]
    assert torch.equal(built.actions.items, batch.targets)


def test_an_algorithm_of_logged_actions_keeps_them_and_exchanges_their_rewards():
    weights = {"view": 0.25, "buy": 2.0}
    given = {"reward_funcs": ("events",), "event_weights": weights}
    types = DATASET.train.columns["event_type"].cast(pl.String).to_list()
    for shuffle in ("none", "users"):
        batch, built = build(shuffle, "sqn", ("events",), **given)
        next_events = batch.positions
        if shuffle == "users":
            next_events = source_events(DATASET.train, "users", 5)[batch.positions - 1] + 1
        expected = [weights[types[event]] for event in next_events]
        assert built.transitions.rewards.tolist() == expected
        assert torch.equal(built.transitions.actions, batch.targets)
        assert built.rewards.items.tolist() == batch.targets.tolist()


def test_the_training_set_of_another_user_is_rewarded():
    batch, built = build(
        "users", functions=("train_set",), states="user", state="user", reward_funcs=("train_set",)
    )
    values, sources = DATASET.train.values, source_events(DATASET.train, "users", 5)
    for stop, items in pairs_of(batch, built.rewards).items():
        other = sources[stop - 1] // LENGTH
        user = set(values[stop - LENGTH : stop].tolist())
        assert other != stop // LENGTH - 1
        of_other = set(values[other * LENGTH : (other + 1) * LENGTH].tolist())
        assert set(items) == of_other
        assert of_other != user


def test_an_algorithm_that_learns_the_next_items_hides_them_from_the_graph():
    values = DATASET.train.values
    for algorithm in ("ufrec", "grpo"):
        batch, built = build("users", algorithm)
        hidden, rewarded = (
            set(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))
            for pairs in (built.queries.hidden, built.rewards)
        )
        past = {
            (state, item)
            for state, stop in enumerate(batch.positions)
            for item in values[stop // LENGTH * LENGTH : stop].tolist()
        }
        own = set(enumerate(batch.targets.tolist()))
        assert hidden == (rewarded | own if algorithm == "ufrec" else rewarded) - past
        assert not own <= rewarded


def test_draws_see_the_logged_items_of_the_source():
    def of_draws(prompts, completions, ahead, **_):
        return (ahead == 1).float()

    given = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 4}
    batch, built = build("users", functions=(of_draws,), horizon=1, **given)
    sources = source_events(DATASET.train, "users", 5)[batch.positions - 1]
    assert built.logged.items.tolist() == DATASET.train.values[sources + 1].tolist()


def test_the_seed_of_the_run_shuffles():
    def items(seed):
        args = algorithm_entry("grpo").config(shuffle_rewards="users", batch_size=10**6)
        context = RunContext(seed=seed)
        trainer = RLTrainer(MODEL, args=args, train_dataset=DATASET, context=context)
        return next(trainer.epoch(torch.Generator().manual_seed(0))).rewards.items

    assert torch.equal(items(1), items(1))
    assert not torch.equal(items(1), items(2))


def test_a_log_of_one_user_keeps_its_rewards():
    train = ragged([[0, 1, 2]])
    for shuffle in ("users", "last_item"):
        assert source_events(train, shuffle, 0).tolist() == [0, 1, 2]
