import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.batches import (
    EdgeBatches,
    Seen,
    StateBatches,
    gather_windows,
    histories,
    seen_before,
    user_queries,
)
from recoach.data.split import RaggedArray, leave_last_out
from recoach.simulation.toy_logs import cycle

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


def learned(source, seed=0):
    """Return (user, items read, target) of every state of one epoch, in the order given."""
    found = []
    for queries, _, targets in source.epoch(generator(seed)):
        for row, end, target in zip(queries.rows, queries.ends, targets.tolist(), strict=True):
            read = tuple(queries.history[row, :end].tolist())
            found.append((int(queries.users[row]), read, target))
    return found


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(1, 5), st.integers(1, 7))
def test_each_prefix_is_asked_once_with_the_item_that_came_next(rows, length, size):
    expected = [
        (user, tuple(row[max(0, end - length) : end]), row[end])
        for user, row in enumerate(rows)
        for end in range(1, len(row))
    ]
    assert sorted(learned(batches(rows, length, size, rows="prefix"))) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(1, 5), st.integers(1, 7))
def test_long_histories_are_read_in_windows_from_their_end(rows, length, size):
    expected = []
    for user, row in enumerate(rows):
        for stop in range(len(row) - 1, 0, -length):
            start = max(0, stop - length)
            expected += [(user, tuple(row[start : t + 1]), row[t + 1]) for t in range(start, stop)]
    assert sorted(learned(batches(rows, length, size))) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(1, 5))
def test_shared_rows_and_single_rows_teach_the_same_targets(rows, length):
    shared, single = (
        sorted((user, target) for user, _, target in learned(batches(rows, length, rows=kind)))
        for kind in ("all_positions", "prefix")
    )
    assert shared == single


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_positions_point_at_the_targets(rows):
    values = ragged(ROWS).values
    for _, positions, targets in batches(ROWS, rows=rows).epoch(generator()):
        assert values[positions].tolist() == targets.tolist()


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_a_batch_holds_about_as_many_states_as_asked_for(rows):
    source = batches([list(range(9))] * 40, length=4, size=16, rows=rows)
    sizes = [len(batch.queries) for batch in source.epoch(generator())]
    assert sum(sizes) == source.n_states == 40 * 8
    assert len(sizes) == len(source) == 20
    assert max(sizes) == 16


@pytest.mark.parametrize(
    ("size", "fewest", "expected"), [(500, 1, 320), (500, 8, 40), (16, 8, 16), (16, 999, 1)]
)
def test_a_batch_is_at_most_a_part_of_all_states(size, fewest, expected):
    source = batches([list(range(9))] * 40, size=size, rows="prefix")
    source.cut(fewest)
    assert source.batch_size == max(len(b.queries) for b in source.epoch(generator())) == expected
    assert len(source) == -(-320 // expected)


def test_without_states_a_batch_still_has_a_size():
    source = batches([[1]], size=16)
    source.cut(8)
    assert source.batch_size == 1


def test_the_last_prefix_is_one_state_for_each_user_with_two_items():
    found = sorted(learned(batches(ROWS, states="last_prefix")))
    assert found == [(0, (3, 1), 4), (3, (5, 8, 9, 7), 9), (4, (0,), 1)]


def test_a_user_state_has_read_all_of_the_history():
    found = sorted((user, read) for user, read, _ in learned(batches(ROWS, states="user")))
    assert found == [(0, (3, 1, 4)), (2, (5,)), (3, (8, 9, 7, 9)), (4, (0, 1))]


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_the_same_seed_gives_the_same_order_and_another_seed_another(rows):
    source = batches(ROWS * 5, rows=rows)
    assert learned(source, 1) == learned(source, 1)
    assert learned(source, 1) != learned(source, 2)


def test_a_model_that_reads_nothing_still_gets_every_state():
    found = sorted((user, target) for user, _, target in learned(batches(ROWS, length=0)))
    assert found == sorted((u, item) for u, row in enumerate(ROWS) for item in row[1:])


def test_every_edge_is_met_once_in_an_epoch():
    source = EdgeBatches(ragged(ROWS), batch_size=4)
    parts = list(source.epoch(generator()))
    edges = [
        pair
        for queries, _, targets in parts
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
    lengths = {split: histories(dataset, split).row(1) for split in ("valid", "test", "future")}
    assert lengths["valid"].tolist() == [1, 2, 3]
    assert lengths["test"].tolist() == [1, 2, 3, 4]
    assert lengths["future"].tolist() == [1, 2, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(HISTORIES)
def test_seen_items_are_the_distinct_items_of_the_past(rows):
    past = ragged(rows)
    seen = seen_before(past.values, past.offsets[:-1], past.offsets[1:])
    found = list(zip(seen.states.tolist(), seen.items.tolist(), strict=True))
    assert found == sorted({(state, item) for state, row in enumerate(rows) for item in row})


def test_users_are_asked_after_all_of_their_past():
    queries = user_queries(ragged(ROWS), np.array([3, 1, 0]), 2, N_ITEMS, mask_seen=True)
    assert queries.history.tolist() == [[7, 9], [10, 10], [1, 4]]
    assert queries.ends.tolist() == queries.lengths.tolist() == [2, 0, 2]
    assert queries.state_users.tolist() == [3, 1, 0]
    assert queries.seen.items[queries.seen.states == 2].tolist() == [1, 3, 4]


def test_nothing_is_seen_unless_it_is_to_be_masked():
    assert user_queries(ragged(ROWS), np.array([0]), 2, N_ITEMS, mask_seen=False).seen is None


def test_the_seen_pairs_of_a_block_are_counted_from_its_start():
    seen = Seen(torch.tensor([0, 0, 2, 3]), torch.tensor([1, 2, 0, 1]))
    part = seen.between(2, 4)
    assert part.states.tolist() == [0, 1]
    assert part.items.tolist() == [0, 1]
    assert len(seen.between(4, 9).states) == 0
