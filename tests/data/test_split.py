import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.data.dataset import RaggedArray
from recoach.data.interactions import Interactions, renumber
from recoach.data.protocol import LeaveLastOut
from recoach.data.split import from_parts, leave_last_out
from recoach.errors import DataError


def log(rows):
    """Make a log of (user, item[, time]) rows."""
    users, user_codes = renumber(np.array([row[0] for row in rows], dtype=np.int64), 100)
    items, item_codes = renumber(np.array([row[1] for row in rows], dtype=np.int64), 100)
    columns = {}
    if len(rows[0]) > 2:
        columns["timestamp"] = pl.Series([row[2] for row in rows], dtype=pl.Int64)
    ids = [pl.Series(codes).cast(pl.String) for codes in (user_codes, item_codes)]
    return Interactions(users, items, *ids, columns)


def external(dataset, part):
    """Return {user: items} of the non-empty rows, as the numbers the log was made with."""
    ragged = getattr(dataset, part)
    return {
        int(user): [int(dataset.item_ids[item]) for item in ragged.row(row).tolist()]
        for row, user in enumerate(dataset.user_ids)
        if ragged.lengths[row]
    }


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 4)), min_size=13, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_the_last_item_is_for_test_and_the_one_before_for_validation(rows):
    train, valid, test = {}, {}, {}
    for user in {row[0] for row in rows}:
        user_rows = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])
        history = [row[1] for row in user_rows]
        if len(history) >= 2:
            test[user] = [history.pop()]
        if len(history) >= 2:
            valid[user] = [history.pop()]
        train[user] = history
    dataset = leave_last_out(log(rows))
    parts = [external(dataset, part) for part in ("train", "valid", "test")]
    assert parts == [train, valid, test]


@pytest.mark.parametrize(
    ("length", "train", "valid", "test"),
    [
        (1, [0], [], []),
        (2, [0], [], [1]),
        (3, [0], [1], [2]),
        (4, [0], [1], [2, 3]),
        (5, [0], [1], [2, 3, 4]),
        (7, [0, 1, 2], [3], [4, 5, 6]),
    ],
)
def test_several_test_items_are_held_out_of_long_histories(length, train, valid, test):
    rows = [(0, item) for item in range(length)] + [(1, 90 + item) for item in range(6)]
    dataset = leave_last_out(log(rows), test_items=3)
    expected = {"train": train, "valid": valid, "test": test}
    parts = {part: external(dataset, part).get(0, []) for part in expected}
    assert parts == expected
    assert dataset.split == LeaveLastOut(test_items=3)


def test_ties_keep_file_order():
    dataset = leave_last_out(log([(0, 3, 1), (0, 1, 1), (0, 2, 1), (0, 9, 0)]))
    assert external(dataset, "train") == {0: [9, 3]}
    assert external(dataset, "test") == {0: [2]}


def test_without_times_file_order_is_time_order():
    dataset = leave_last_out(log([(0, 3), (1, 5), (0, 1), (0, 2)]))
    assert external(dataset, "train") == {0: [3], 1: [5]}
    assert external(dataset, "test") == {0: [2]}


def test_too_little_history_is_a_data_error():
    with pytest.raises(
        DataError, match=r"users have too little history.*longest history here has 2"
    ):
        leave_last_out(log([(0, 1), (0, 2), (1, 1)]))


def test_parts_share_the_union_of_their_vocabularies():
    train, valid, test = log([(0, 1, 5), (0, 2, 3)]), log([(1, 7, 1)]), log([(0, 9, 1), (1, 2, 2)])
    dataset = from_parts(train, valid, test, "x")
    assert dataset.item_ids.to_list() == ["1", "2", "7", "9"]
    assert external(dataset, "train") == {0: [2, 1]}
    assert external(dataset, "valid") == {1: [7]}
    assert external(dataset, "test") == {0: [9], 1: [2]}


def test_parts_without_validation_have_empty_valid_rows():
    dataset = from_parts(log([(0, 1)]), None, log([(0, 2), (3, 2)]))
    assert dataset.valid.lengths.tolist() == [0, 0]


def test_a_part_without_rows_is_a_data_error():
    some = log([(0, 1)])
    with pytest.raises(DataError, match="the test part has no interactions"):
        from_parts(some, None, some.keep(np.array([False])))


def test_the_fingerprint_depends_on_rows_and_ids_but_not_on_the_name():
    rows = [(0, 1), (0, 2), (0, 3), (1, 1)]
    fingerprint = leave_last_out(log(rows), "a").fingerprint
    assert leave_last_out(log(rows), "b").fingerprint == fingerprint
    assert leave_last_out(log([(0, 1), (0, 3), (0, 2), (1, 1)])).fingerprint != fingerprint
    assert leave_last_out(log([(0, 1), (0, 2), (0, 3), (1, 2)])).fingerprint != fingerprint
    assert leave_last_out(log([(7, 1), (7, 2), (7, 3), (1, 1)])).fingerprint != fingerprint
    assert len(fingerprint) == 16


def test_the_fingerprint_is_the_same_on_every_machine():
    dataset = leave_last_out(log([(0, 1), (0, 2), (0, 3)]))
    assert dataset.fingerprint == "3c19d1d09daa8009"


def test_each_ragged_row_ends_where_the_next_begins():
    ragged = RaggedArray(np.array([0, 2, 2, 3]), np.array([4, 5, 6], dtype=np.int32))
    assert [ragged.row(index).tolist() for index in range(len(ragged))] == [[4, 5], [], [6]]
    with pytest.raises(IndexError):
        ragged.row(3)
