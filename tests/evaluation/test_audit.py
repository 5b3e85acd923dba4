import json
import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from recoach.data.interactions import Interactions, encode_ids
from recoach.data.protocol import ByTime, LeaveLastOut
from recoach.data.split import split_log
from recoach.errors import DataError
from recoach.evaluation.audit import audit, percent
from recoach.evaluation.log_audit import (
    activity_of,
    drift_of,
    event_counts,
    identical_rows,
    times_of,
)
from recoach.evaluation.significance import minimal_detectable_effect
from recoach.evaluation.split_audit import audit_split

DAY, SECOND = 86_400_000, 1000
START = 1_700_000_000_000


def log(rows, **columns):
    """Make a log of (user, item[, time]) rows with further columns."""
    users, user_ids = encode_ids(pl.Series([row[0] for row in rows], dtype=pl.String))
    items, item_ids = encode_ids(pl.Series([row[1] for row in rows], dtype=pl.String))
    if len(rows[0]) > 2:
        columns["timestamp"] = pl.Series([row[2] for row in rows], dtype=pl.Int64)
    return Interactions(users, items, user_ids, item_ids, columns)


def random_log(seed=0, n=600, users=40, items=30, times=True):
    draw = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{item}", START + int(time) * SECOND)
        for user, item, time in zip(
            draw.integers(users, size=n),
            draw.zipf(1.5, size=n) % items,
            np.sort(draw.integers(10**6, size=n)),
            strict=True,
        )
    ]
    return log(rows if times else [row[:2] for row in rows])


# --- the log --------------------------------------------------------------------------------------


def test_ties_are_the_rows_that_share_user_and_time():
    rows = [("a", "x", 5), ("b", "x", 5), ("a", "y", 5), ("a", "z", 6), ("b", "z", 7)]
    assert times_of(log(rows)).tied == 2 / 5


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        (DAY, "days"),
        (DAY // 24, "hours"),
        (60_000, "minutes"),
        (SECOND, "seconds"),
        (7, "milliseconds"),
    ],
)
def test_the_resolution_is_the_largest_unit_of_all_differences(unit, name):
    rows = [
        ("a", "x", START + 17),
        ("a", "y", START + 17 + unit),
        ("b", "x", START + 17 + 3 * unit),
    ]
    assert times_of(log(rows)).resolution == name


def test_bursts_are_counted_within_a_minute_of_the_clock():
    rows = [("bot", f"x{i}", 60_000 + i * SECOND) for i in range(40)]
    rows += [("a", f"x{i}", i * 60_000) for i in range(40)]
    times = times_of(log(rows))
    assert (times.busiest_minute, times.burst_users) == (40, 1)
    of_days = times_of(log([("a", "x", 0), ("a", "y", DAY)]))
    assert (of_days.busiest_minute, of_days.burst_users) == (None, None)


def test_activity_of_users_and_items():
    rows = [("a", "x"), ("a", "y"), ("a", "x"), ("b", "x"), ("c", "z")]
    activity = activity_of(log(rows))
    assert activity.lengths == (1, 1, 1, 2, pytest.approx(2.8), 3)
    assert (activity.single, activity.single_items) == (2, 2)
    assert (activity.largest_user, activity.largest_item) == (3 / 5, 3 / 5)
    assert (activity.top_1, activity.top_20) == (3 / 5, 3 / 5)
    assert activity.gini == pytest.approx(4 / 15)
    assert activity.histogram == ((1, 1, 2), (2, 3, 1))
    assert (activity.popularity[0], activity.popularity[-1]) == (0, 1)
    assert activity.outliers == 0


def test_a_user_with_ten_times_the_activity_of_most_is_an_outlier():
    rows = [(f"u{user}", f"i{item}") for user in range(40) for item in range(5)]
    rows += [("bot", f"i{item % 5}") for item in range(200)]
    activity = activity_of(log(rows))
    assert (activity.outliers, activity.outlier_rows) == (1, 0.5)


def test_items_that_change_half_way_drift_and_others_do_not():
    draw = np.random.default_rng(1)
    items = draw.integers(20, size=2000)
    same = log([(f"u{i % 50}", f"i{item}", i) for i, item in enumerate(items)])
    drift = drift_of(same)
    assert abs(drift.distance - drift.shuffled_distance) < 0.02
    changed = log(
        [(f"u{i % 50}", f"i{item + 100 * (i >= 1000)}", i) for i, item in enumerate(items)]
    )
    tenths = drift_of(changed).tenths
    assert [tenth.distance == pytest.approx(1) for tenth in tenths] == [i == 5 for i in range(10)]
    assert [tenth.new_items == 1 for tenth in tenths] == [i in (0, 5) for i in range(10)]
    assert [tenth.new_users for tenth in tenths] == [1] + [0] * 9
    assert tenths[0].first == "1970-01-01"


def test_drift_needs_times_and_rows():
    assert drift_of(random_log(times=False)) is None
    assert drift_of(random_log(n=99)) is None


def test_rows_are_identical_if_all_columns_are():
    rows = [("a", "x", 1), ("a", "x", 1), ("a", "x", 2), ("b", "x", 1)]
    assert identical_rows(log(rows)) == 1
    prices = pl.Series([1, 2, 3, 4], dtype=pl.Float32)
    assert identical_rows(log(rows, value=prices)) == 0


def test_event_types_are_counted_in_their_declared_order():
    types = pl.Series(["cart", None, "view", "view"], dtype=pl.Enum(["view", "cart", "buy"]))
    rows = [("a", "x"), ("a", "z"), ("a", "y"), ("b", "x")]
    assert event_counts(log(rows, event_type=types)) == (
        ("view", 2),
        ("cart", 1),
        ("buy", 0),
    )


# --- a split --------------------------------------------------------------------------------------


def naive_hits(dataset, history, targets):
    """Return hit or not of popularity, repeat-last and item transitions for one state."""
    train = [
        dataset.train.row(user).tolist() + dataset.valid.row(user).tolist()
        for user in range(dataset.n_users)
    ]
    counts = np.bincount([item for row in train for item in row], minlength=dataset.n_items)
    popular = [item for item in np.argsort(-counts, kind="stable")[:10] if counts[item]]
    follows = {}
    for row in train:
        for item, after in pairwise(row):
            follows.setdefault(item, []).append(after)
    after_last = follows.get(history[-1], []) if history else []
    by_count = sorted(set(after_last), key=lambda item: (-after_last.count(item), item))
    lists = (popular, history[-10:], by_count[:10])
    return [bool(set(targets) & set(items)) for items in lists]


@pytest.mark.parametrize("target", ["last", "successive", "all"])
def test_the_hit_rates_of_baselines_are_those_of_a_naive_implementation(target):
    dataset = split_log(random_log(3, n=300), ByTime(target=target, at=0.7))
    hits = []
    for user in range(dataset.n_users):
        past = dataset.train.row(user).tolist() + dataset.valid.row(user).tolist()
        test = dataset.test.row(user).tolist()
        states = {
            "last": [(past + test[:-1], test[-1:])],
            "all": [(past, test)],
            "successive": [(past + test[:i], [item]) for i, item in enumerate(test)],
        }[target]
        hits += [naive_hits(dataset, *state) for state in states if state[0] and state[1]]
    found = audit_split(dataset, "time")
    assert found.states == len(hits)
    assert [rate for _, rate in found.hit_rates] == pytest.approx(np.mean(hits, axis=0).tolist())
    assert min(rate for _, rate in found.hit_rates) > 0


def test_the_detectable_difference_is_that_of_the_hits_of_users():
    found = audit_split(split_log(random_log(5), LeaveLastOut()), "loo")
    rate = found.best_baseline[1]
    expected = minimal_detectable_effect(math.sqrt(rate * (1 - rate)), found.users)
    assert found.detectable == pytest.approx(expected)
    assert found.detectable_tuned == pytest.approx(expected * math.sqrt(0.2))
    assert found.relative(found.detectable) == pytest.approx(expected / rate)


def test_states_of_one_user_are_not_independent():
    """Every user has ten equal states: the power is that of users, not of states."""
    users = [(f"u{user}", user) for user in range(40)]
    rows = [(name, f"own{user}", user) for name, user in users]
    rows += [(name, f"own{user}", 1000 + user) for name, user in users]
    rows += [
        (name, f"own{user}" if user % 2 else f"new{user} {step}", 2000 + 100 * step + user)
        for step in range(10)
        for name, user in users
    ]
    split = ByTime(at="1970-01-01T00:00:02", valid="last", target="successive")
    found = audit_split(split_log(log(rows), split), "time")
    assert (found.users, found.states) == (40, 400)
    assert dict(found.hit_rates)["repeat-last"] == 0.5
    assert found.detectable == pytest.approx(minimal_detectable_effect(0.5, 40))


# --- the whole ------------------------------------------------------------------------------------


def test_the_audit_counts_what_the_splits_test():
    rows = [
        (f"u{user}", f"i{(user + step) % 9}", user + step) for user in range(9) for step in range(3)
    ]
    rows += [("late", f"i{step}", 1000 + step) for step in range(3)]
    found = audit(log(rows))
    assert (found.users, found.items, found.rows) == (10, 9, 30)
    assert found.leak == 0.9
    by_name = {split.name: split for split in found.splits}
    assert [*by_name] == [
        "leave last out",
        "time, last",
        "time, first",
        "time, successive",
        "time, all",
    ]
    last = by_name["time, last"]
    assert (last.test_rows, last.test_users, last.new_users, last.users) == (3, 1, 1, 1)
    assert (last.new, last.cold, last.repeated) == (1, 0, 0)
    assert by_name["time, successive"].states == 2
    assert by_name["time, all"].problem.startswith("No user of the dataset has an item in test")
    loo = by_name["leave last out"]
    assert (loo.train_rows, loo.valid_rows, loo.test_rows, loo.train_states) == (10, 10, 10, 0)
    assert (loo.users, loo.states, loo.targets) == (10, 10, 10)


def test_a_log_without_times_is_audited():
    found = audit(random_log(times=False))
    assert (found.times, found.drift, found.leak) == (None, None, None)
    assert [split.name for split in found.splits] == ["leave last out"]
    assert found.default_split.name == "leave last out"
    assert "The log has no times" in found.advice[0]


@pytest.mark.parametrize("rows", [[("a", "x", 1)], [("a", "x"), ("a", "y")], [("a", "x", 1)] * 5])
def test_tiny_logs_are_audited(rows):
    found = audit(log(rows))
    assert found.rows == len(rows)
    json.dumps(found.to_dict(), allow_nan=False)
    if len(rows) < 3:
        assert found.default_split is None
        assert found.advice[0].startswith("No split is possible: users have too little history")


def test_an_empty_log_is_refused():
    with pytest.raises(DataError, match="no interactions"):
        audit(random_log().keep(np.zeros(600, dtype=np.bool_)))


def test_all_numbers_can_be_written_as_json():
    types = pl.Series(["view", "buy"] * 300, dtype=pl.Enum(["view", "buy"]))
    plain = random_log()
    sessions = pl.Series([f"s{i // 4}" for i in range(600)])
    columns = {"event_type": types, "session_id": sessions, "negative": types == "buy"}
    found = audit(
        Interactions(
            plain.users, plain.items, plain.user_ids, plain.item_ids, dict(plain.columns) | columns
        )
    )
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (record["sessions"], record["rejected_rows"]) == (150, 300)
    assert record["event_types"] == [["view", 300], ["buy", 300]]
    assert record["advice"] == list(found.advice)


def spread_log():
    """Make a log in which nothing stands out: no ties, no repeats, users all over the time."""
    draw = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", START + int(time) * SECOND)
        for user in range(60)
        for item, time in zip(draw.permutation(60)[:20], draw.integers(10**6, size=20), strict=True)
    ]
    return sorted(rows, key=lambda row: row[2])


def sentences_about(found, words):
    return [sentence for sentence in found.advice if words in sentence]


def test_a_log_without_peculiarities_has_a_sentence_on_power_only():
    (sentence,) = audit(log(spread_log())).advice
    assert sentence.startswith("57 test users (time, last) detect a relative difference of ")


def early(rows):
    """Let all but five users end after a third of the time."""
    late = {"u1", "u2", "u3", "u4", "u5"}
    return [(u, i, t if u in late else START + (t - START) // 3) for u, i, t in rows]


def renamed(rows, column):
    """Give users or items of the later rows another name."""
    return [
        tuple(f"{value} new" if place == column else value for place, value in enumerate(row))
        if number >= 1080
        else row
        for number, row in enumerate(rows)
    ]


def with_item(rows, n):
    """Add n rows of one item, and sixty other items."""
    others = [("u1", f"x{index}", START + index * 10_000 * SECOND) for index in range(60)]
    return [*rows, *[(u, "start", t + 1) for u, _, t in rows[:n]], *others]


def with_user(rows, n, step):
    """Add n rows of one user."""
    return [*rows, *[("bot", f"i{index % 60}", START + index * step) for index in range(n)]]


CHANGES = {
    "leave-last-out targets": early,
    "share user and day": lambda rows: [(u, i, t // DAY * DAY) for u, i, t in rows],
    "of the user's history": lambda rows: [(u, f"i{int(i[1:]) % 12}", t) for u, i, t in rows],
    "without an event before": lambda rows: renamed(rows, 1),
    "have no event before": lambda rows: renamed(rows, 0),
    "equal to an earlier": lambda rows: rows + rows[:10],
    "within a minute": lambda rows: with_user(rows, 40, 1),
    "10 times as many": lambda rows: with_user(rows, 400, 300 * SECOND),
    "One item has": lambda rows: with_item(rows, 200),
    "1 % most popular": lambda rows: with_item(rows, 1200),
    "consecutive tenths": lambda rows: [
        (u, f"{int(i[1:]) % 6} {n // 120}", t) for n, (u, i, t) in enumerate(rows)
    ],
}


@pytest.mark.parametrize("words", CHANGES)
def test_each_peculiarity_has_its_sentence(words):
    found = audit(log(CHANGES[words](spread_log())))
    assert len(sentences_about(found, words)) == 1


def test_event_types_have_a_sentence():
    rows = spread_log()
    types = pl.Series(
        ["view", "view", "buy", "view"] * (len(rows) // 4), dtype=pl.Enum(["view", "buy"])
    )
    (sentence,) = sentences_about(audit(log(rows, event_type=types)), "target_events")
    assert sentence.startswith("75 % of the rows are view events")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.0004, "0.04 %"), (0.073, "7.3 %"), (0.0996, "10 %")],
)
def test_shares_are_written_with_two_digits(share, text):
    assert percent(share) == text
