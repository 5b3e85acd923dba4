import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.batches import EdgeBatches, StateBatches
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Seen, gather_windows, histories, seen_before, user_queries
from recoach.data.split import leave_last_out
from toy_logs import cycle

ROWS = [[3, 1, 4], [], [5], [2, 6, 5, 3, 5, 8, 9, 7, 9], [0, 1]]
N_ITEMS = 10
HISTORIES = st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=6).filter(
    lambda rows: any(len(row) > 1 for row in rows)
)


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def batches(log, length=4, size=3, **choices):
    return StateBatches(
        ragged(log), n_items=N_ITEMS, history_length=length, batch_size=size, **choices
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def epoch_states(source, seed=0):
    """Return (user, items before, target) of every state of one epoch, in its order."""
    states = []
    for queries, _, targets, _ in source.epoch(generator(seed)):
        for row, end, target in zip(queries.rows, queries.ends, targets.tolist(), strict=True):
            items = tuple(queries.history[row, :end].tolist())
            states.append((int(queries.users[row]), items, target))
    return states


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(1, 5), st.integers(1, 7))
def test_each_prefix_occurs_once_with_its_next_item(rows, length, size):
    expected = [
        (user, tuple(row[max(0, end - length) : end]), row[end])
        for user, row in enumerate(rows)
        for end in range(1, len(row))
    ]
    assert sorted(epoch_states(batches(rows, length, size, rows="prefix"))) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(1, 5), st.integers(1, 7))
def test_long_histories_are_split_into_windows_from_their_end(rows, length, size):
    expected = []
    for user, row in enumerate(rows):
        for stop in range(len(row) - 1, 0, -length):
            start = max(0, stop - length)
            expected += [(user, tuple(row[start : t + 1]), row[t + 1]) for t in range(start, stop)]
    assert sorted(epoch_states(batches(rows, length, size))) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(1, 5))
def test_shared_rows_and_single_rows_have_the_same_targets(rows, length):
    shared, single = (
        sorted((user, target) for user, _, target in epoch_states(batches(rows, length, rows=kind)))
        for kind in ("all_positions", "prefix")
    )
    assert shared == single


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_positions_point_at_the_targets(rows):
    values = ragged(ROWS).values
    for _, positions, targets, _ in batches(ROWS, rows=rows).epoch(generator()):
        assert values[positions].tolist() == targets.tolist()


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_a_batch_has_about_batch_size_states(rows):
    source = batches([list(range(9))] * 40, length=4, size=16, rows=rows)
    sizes = [len(batch.queries) for batch in source.epoch(generator())]
    assert sum(sizes) == source.n_states == 40 * 8
    assert len(sizes) == len(source) == 20
    assert max(sizes) == 16


@pytest.mark.parametrize(
    ("size", "min_batches", "expected"), [(500, 1, 320), (500, 8, 40), (16, 8, 16), (16, 999, 1)]
)
def test_cut_reduces_the_batch_size_to_get_enough_batches(size, min_batches, expected):
    source = batches([list(range(9))] * 40, size=size, rows="prefix")
    source.limit_batch_size(min_batches)
    assert source.batch_size == max(len(b.queries) for b in source.epoch(generator())) == expected
    assert len(source) == -(-320 // expected)


def test_the_batch_size_is_at_least_one():
    source = batches([[1]], size=16)
    source.limit_batch_size(8)
    assert source.batch_size == 1


def test_the_last_prefix_is_one_state_for_each_user_with_two_items():
    states = sorted(epoch_states(batches(ROWS, states="last_prefix")))
    assert states == [(0, (3, 1), 4), (3, (5, 8, 9, 7), 9), (4, (0,), 1)]


def test_a_user_state_reads_the_whole_history():
    states = sorted((user, items) for user, items, _ in epoch_states(batches(ROWS, states="user")))
    assert states == [(0, (3, 1, 4)), (2, (5,)), (3, (8, 9, 7, 9)), (4, (0, 1))]


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_the_seed_determines_the_order(rows):
    source = batches(ROWS * 5, rows=rows)
    assert epoch_states(source, 1) == epoch_states(source, 1)
    assert epoch_states(source, 1) != epoch_states(source, 2)


def test_a_model_without_history_gets_every_state():
    states = sorted((user, target) for user, _, target in epoch_states(batches(ROWS, length=0)))
    assert states == sorted((u, item) for u, row in enumerate(ROWS) for item in row[1:])


def test_every_edge_occurs_once_in_an_epoch():
    source = EdgeBatches(ragged(ROWS), batch_size=4)
    parts = list(source.epoch(generator()))
    edges = [
        pair
        for queries, _, targets, _ in parts
        for pair in zip(queries.state_users.tolist(), targets.tolist(), strict=True)
    ]
    assert sorted(edges) == sorted((u, item) for u, row in enumerate(ROWS) for item in row)
    assert [len(part.targets) for part in parts] == [4, 4, 4, 3]
    assert len(source) == 4


def test_windows_are_padded_on_the_right():
    values = np.array([5, 6, 7], dtype=np.int32)
    rows = gather_windows(values, np.array([0, 2, 3]), np.array([2, 3, 3]), pad=9)
    assert rows.tolist() == [[5, 6], [7, 9], [9, 9]]


def test_histories_grow_with_the_split():
    dataset = leave_last_out(cycle(4, 9, length=5))
    lengths = {split: histories(dataset, split).row(1) for split in ("valid", "test", "all")}
    assert lengths["valid"].tolist() == [1, 2, 3]
    assert lengths["test"].tolist() == [1, 2, 3, 4]
    assert lengths["all"].tolist() == [1, 2, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(HISTORIES)
def test_seen_items_are_the_distinct_items_of_the_past(rows):
    past = ragged(rows)
    seen = seen_before(past.values, past.offsets[:-1], past.offsets[1:])
    pairs = list(zip(seen.states.tolist(), seen.items.tolist(), strict=True))
    assert pairs == sorted({(state, item) for state, row in enumerate(rows) for item in row})


def test_user_queries_read_all_of_the_past():
    queries = user_queries(ragged(ROWS), np.array([3, 1, 0]), 2, N_ITEMS, mask_seen=True)
    assert queries.history.tolist() == [[7, 9], [10, 10], [1, 4]]
    assert queries.ends.tolist() == queries.lengths.tolist() == [2, 0, 2]
    assert queries.state_users.tolist() == [3, 1, 0]
    assert queries.seen.items[queries.seen.states == 2].tolist() == [1, 3, 4]


def test_seen_items_are_listed_only_if_they_are_masked():
    assert user_queries(ragged(ROWS), np.array([0]), 2, N_ITEMS, mask_seen=False).seen is None


def test_the_pairs_of_a_block_are_renumbered_from_its_start():
    seen = Seen(torch.tensor([0, 0, 2, 3]), torch.tensor([1, 2, 0, 1]))
    part = seen.between(2, 4)
    assert part.states.tolist() == [0, 1]
    assert part.items.tolist() == [0, 1]
    assert len(seen.between(4, 9).states) == 0
