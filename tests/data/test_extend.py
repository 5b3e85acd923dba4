"""A dataset is extended by newer events; what it has keeps its numbers and is not doubled."""

import numpy as np
import polars as pl
import pytest

from recoach import leave_last_out, read_interactions
from recoach.data.config import PrepareConfig
from recoach.data.dataset import join_rows
from recoach.data.extend import events_not_in, extend, hold_out_newest
from recoach.errors import DataError


def read(rows, **options):
    schema = ["user_id", "item_id", "timestamp"]
    frame = pl.DataFrame(rows, schema=schema[: len(rows[0])], orient="row")
    if "timestamp" in frame.columns:  # seconds since 1970, in this century
        frame = frame.with_columns(pl.col("timestamp") + 1_500_000_000)
    return read_interactions(frame, **options)


LOG = [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("b", "y", 4), ("b", "x", 5), ("b", "z", 6)]


@pytest.fixture
def dataset():
    return leave_last_out(read(LOG), "log")


def sequences(dataset):
    rows = join_rows([dataset.train, dataset.valid, dataset.test])
    names = dataset.item_ids.to_list()
    return {user: [names[i] for i in rows.row(n)] for n, user in enumerate(dataset.user_ids)}


def test_old_ids_keep_their_numbers_and_new_ones_follow(dataset):
    result = extend(dataset, read([("c", "w", 7), ("a", "w", 8), ("c", "x", 9)]))
    assert result.dataset.user_ids.to_list() == ["a", "b", "c"]
    assert result.dataset.item_ids.to_list() == ["x", "y", "z", "w"]
    assert sequences(result.dataset) == {
        "a": ["x", "y", "z", "w"],
        "b": ["y", "x", "z"],
        "c": ["w", "x"],
    }
    assert (result.counts.new, result.counts.new_users, result.counts.new_items) == (3, 1, 1)
    assert len(result.dataset.valid.values) == len(result.dataset.test.values) == 0


def test_rows_of_the_log_are_recognised_and_not_doubled(dataset):
    result = extend(dataset, read([*LOG, ("a", "x", 7)]))
    assert (result.counts.rows, result.counts.new, result.counts.known) == (7, 1, 6)
    assert sequences(result.dataset)["a"] == ["x", "y", "z", "x"]
    again = extend(result.dataset, read([*LOG, ("a", "x", 7)]))
    assert again.counts.new == 0
    assert sequences(again.dataset) == sequences(result.dataset)


def test_equal_rows_are_known_as_often_as_the_log_has_them(dataset):
    result = extend(dataset, read([("a", "x", 1), ("a", "x", 1), ("a", "x", 1)]))
    assert (result.counts.known, result.counts.new) == (1, 2)


def test_a_late_row_takes_its_place_by_time_and_is_counted(dataset):
    result = extend(dataset, read([("a", "w", 2), ("b", "w", 9)]))
    assert sequences(result.dataset)["a"] == ["x", "y", "w", "z"]
    assert result.counts.late == 1
    assert "1 of the new rows are earlier" in result.counts.line()


def test_rows_that_the_filters_of_the_log_removed_stay_out(dataset):
    end = (1_500_000_000 + 6) * 1000
    result = extend(dataset, read([("a", "rare", 3), ("a", "w", 7)]), log_end=end)
    assert sequences(result.dataset)["a"] == ["x", "y", "z", "w"]
    assert (result.counts.new, result.counts.filtered) == (1, 1)


@pytest.mark.parametrize(
    ("dedup", "expected"), [("first", ["x", "y", "z", "w"]), ("last", ["y", "z", "w", "x"])]
)
def test_repeated_pairs_are_removed_as_in_the_log(dataset, dedup, expected):
    config = PrepareConfig(k_core=0, dedup=dedup)
    result = extend(dataset, read([("a", "w", 7), ("a", "x", 8)]), config)
    assert sequences(result.dataset)["a"] == expected


def test_ratings_below_the_threshold_are_left_out():
    frame = pl.DataFrame(
        {"user_id": list("aaab"), "item_id": list("xyzx"), "rating": [5.0, 4.0, 5.0, 4.0]}
    )
    dataset = leave_last_out(read_interactions(frame))
    new = pl.DataFrame({"user_id": ["a", "a"], "item_id": ["v", "w"], "rating": [1.0, 5.0]})
    config = PrepareConfig(k_core=0, min_rating=3)
    result = extend(dataset, read_interactions(new), config)
    assert sequences(result.dataset)["a"] == ["x", "y", "z", "w"]
    assert result.counts.filtered == 1


def test_without_times_known_pairs_are_left_out_unless_the_log_repeats_pairs():
    without_times = [row[:2] for row in LOG]
    dataset = leave_last_out(read(without_times))
    result = extend(dataset, read([("a", "x"), ("a", "w")]))
    assert sequences(result.dataset)["a"] == ["x", "y", "z", "w"]
    repeating = leave_last_out(read([*without_times, ("a", "x")]))
    result = extend(repeating, read([("a", "x")]))
    assert sequences(result.dataset)["a"] == ["x", "y", "z", "x", "x"]


def test_new_events_without_times_are_refused_where_the_log_has_times(dataset):
    with pytest.raises(DataError, match=r"no column timestamp, .*--column timestamp="):
        extend(dataset, read([("a", "w")]))


def test_rejections_come_after_the_events_before_them(dataset):
    frame = pl.DataFrame(
        {
            "user_id": ["a", "a", "b"],
            "item_id": ["w", "v", "v"],
            "timestamp": [1_500_000_007, 1_500_000_008, 1_500_000_009],
            "negative": [False, True, True],
        }
    )
    new = read_interactions(frame)
    result = extend(dataset, new)
    negatives = result.dataset.negatives
    assert negatives.lengths.tolist() == [1, 1]
    assert negatives.columns["after"].to_list() == [4, 3]
    assert extend(result.dataset, new).counts.new == 0


def test_event_types_of_new_kinds_are_joined():
    columns = {"user_id": list("aaa"), "item_id": list("xyz"), "event_type": ["view"] * 3}
    dataset = leave_last_out(read_interactions(pl.DataFrame(columns)))
    new = pl.DataFrame({"user_id": ["a"], "item_id": ["w"], "event_type": ["buy"]})
    types = extend(dataset, read_interactions(new)).dataset.train.columns["event_type"]
    assert types.cast(pl.String).to_list() == ["view"] * 3 + ["buy"]


def test_events_that_a_model_was_not_trained_on_are_found(dataset):
    longer = extend(dataset, read([("a", "w", 2), ("c", "x", 9)])).dataset
    mask = events_not_in(longer.train, dataset.train)
    names = np.array(longer.item_ids.to_list())[longer.train.values[mask]]
    # of a and b: the held-out items of the split; and the new rows
    assert sorted(names) == ["w", "x", "x", "y", "z", "z"]


def test_the_newest_events_are_held_out(dataset):
    longer = extend(dataset, read([("a", "v", 7), ("b", "v", 8), ("b", "w", 9)])).dataset
    is_new = events_not_in(longer.train, join_rows([dataset.train, dataset.valid, dataset.test]))
    result, mask = hold_out_newest(longer, is_new, 0.5)
    assert mask.sum() == 2
    assert [len(result.train.row(n)) for n in (0, 1)] == [4, 3]
    assert result.valid.lengths.tolist() == [0, 2]
    assert result.split.target == "successive"


def with_column(name, values):
    columns = {"user_id": list("aaa"), "item_id": list("xyz"), "timestamp": [1e9, 1.1e9, 1.2e9]}
    return leave_last_out(read_interactions(pl.DataFrame(columns | {name: values})), "log")


NEWER = {"user_id": ["a"], "item_id": ["w"], "timestamp": [1.3e9]}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("value", [1.5, 2.5, 3.5]),
        ("session_id", ["s", "t", "u"]),
        ("propensity", [0.5, 0.25, 0.125]),
        ("impression_id", ["s", "t", "u"]),
        ("position", [1, 2, 3]),
    ],
)
def test_a_column_that_new_events_lack_stays_and_is_missing_for_them(name, values):
    result = extend(with_column(name, values), read_interactions(pl.DataFrame(NEWER)))
    assert result.dataset.train.columns[name].to_list() == [*values, None]
    assert f"no values of {name}: missing in the new rows" in result.counts.line()


@pytest.mark.parametrize(("name", "value"), [("rating", 4.0), ("event_type", "view")])
def test_a_column_that_may_not_have_missing_values_is_required(name, value):
    log = with_column(name, [value] * 3)
    with pytest.raises(DataError, match=f"frame: there is no column {name}, .* --column {name}="):
        extend(log, read_interactions(pl.DataFrame(NEWER)))


def test_a_column_that_only_new_events_have_is_named(dataset):
    result = extend(dataset, read_interactions(pl.DataFrame(NEWER | {"rating": [3.0]})))
    assert "rating left out: the log of the run has no values" in result.counts.line()
    assert "rating" not in result.dataset.train.columns
