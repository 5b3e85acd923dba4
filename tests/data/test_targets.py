"""Splits and targets against a naive implementation, one event at a time, and by hand."""

import itertools
import random
import tomllib
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_protocol as naive
from naive_protocol import PARTS, TYPES, Event
from recoach.data.dataset import merge_valid
from recoach.data.interactions import Interactions, encode_ids
from recoach.data.protocol import Auto, ByRatio, ByTime, ByUsers, Given, LeaveLastOut
from recoach.data.split import from_parts, leaked_share, split_log
from recoach.data.targets import targets_of
from recoach.errors import ConfigError, DataError

TARGETS = ("last", "first", "random", "successive", "all")
TIES = ("file", "random", "group")
REPEATS = ("new", "all", "repeat", "recbole")
DAY = 86_400_000


def log_of(events, *, negatives=True):
    """Make a log of events; the column "value" is the number of each row in the file."""
    users, user_ids = encode_ids(pl.Series([event.user for event in events], dtype=pl.String))
    items, item_ids = encode_ids(pl.Series([event.item for event in events], dtype=pl.String))
    columns = {
        "timestamp": pl.Series([event.time for event in events], dtype=pl.Int64),
        "event_type": pl.Series([event.type for event in events], dtype=pl.Enum(TYPES)),
        "value": pl.Series([event.row for event in events], dtype=pl.Float32),
    }
    if negatives:
        columns["negative"] = pl.Series([event.negative for event in events])
    return Interactions(users, items, user_ids, item_ids, columns)


def rows_of(dataset):
    """Return {part: {user: rows of its events}}, without users that have none there."""
    result = {}
    for part in PARTS:
        ragged = getattr(dataset, part)
        rows = np.split(ragged.columns["value"].cast(pl.Int64).to_numpy(), ragged.offsets[1:-1])
        named = zip(dataset.user_ids, rows, strict=True)
        result[part] = {user: own.tolist() for user, own in named if len(own)}
    return result


def users_of(dataset, events):
    """Return {user: (train, valid, test)} of a dataset, lists of events."""
    rows = rows_of(dataset)
    return {
        user: tuple([events[row] for row in rows[part].get(user, [])] for part in PARTS)
        for user in dataset.user_ids
    }


def check_columns(dataset, events):
    """Check that items, times and types of every row are those of its event."""
    for part in PARTS:
        ragged = getattr(dataset, part)
        own = [events[row] for row in ragged.columns["value"].cast(pl.Int64)]
        assert dataset.item_ids.gather(ragged.values).to_list() == [event.item for event in own]
        assert ragged.columns["timestamp"].to_list() == [event.time for event in own]
        assert ragged.columns["event_type"].to_list() == [event.type for event in own]


def check_targets(dataset, events, part, repeats):
    """Compare the targets of a part with those of the naive implementation."""
    expected, excluded = naive.states_of(users_of(dataset, events), dataset.split, part, repeats)
    if not expected:
        with pytest.raises(DataError, match="to predict"):
            targets_of(dataset, part, repeats)
        return
    targets = targets_of(dataset, part, repeats)
    assert targets.excluded == excluded
    rows = targets.column("value").cast(pl.Int64).to_list()
    described = list(zip(rows, targets.repeated.tolist(), targets.cold.tolist(), strict=True))
    edges = np.cumsum(targets.counts)[:-1]
    groups = [tuple(described[index] for index in own) for own in np.split(range(len(rows)), edges)]
    users = dataset.user_ids.gather(targets.users).to_list()
    actual = [
        naive.State(*state) for state in zip(users, targets.ends.tolist(), groups, strict=True)
    ]
    assert actual == expected
    items = dataset.item_ids.gather(targets.items).to_list()
    assert items == [events[row].item for row in rows]
    assert targets.states.tolist() == [
        index for index, state in enumerate(expected) for _ in state.targets
    ]


def number(events):
    return [event._replace(row=row) for row, event in enumerate(events)]


EVENT = st.builds(
    Event,
    user=st.sampled_from("abcde"),
    item=st.sampled_from("uvwxyz"),
    time=st.integers(0, 9),
    type=st.sampled_from(TYPES),
    negative=st.sampled_from([False] * 5 + [True]),
)
LOGS = st.lists(EVENT, min_size=8, max_size=40).map(number)
CHOICES = {
    "target": st.sampled_from(TARGETS),
    "target_events": st.sampled_from([(), ("cart",), ("view", "purchase")]),
    "cold": st.sampled_from(["miss", "drop"]),
    "cold_users": st.sampled_from(["keep", "drop"]),
    "min_history": st.integers(0, 2),
    "ties": st.sampled_from(TIES),
    "split_seed": st.integers(0, 2),
}
AT = st.sampled_from([0.5, 0.7, 0.9, "1970-01-01T00:00:00.005"])
MOMENTS = {"1970-01-01T00:00:00.005": 5}
SPLITS = st.one_of(
    st.builds(LeaveLastOut, test_items=st.integers(1, 3), **CHOICES),
    st.builds(
        ByTime,
        at=AT,
        until=st.none() | st.just(0.95),
        valid=st.sampled_from(["time", "last"]),
        valid_at=AT,
        **CHOICES,
    ),
    st.builds(
        ByTime,
        at=AT,
        valid=st.just("users"),
        valid_users=st.integers(1, 2),
        **CHOICES | {"target": st.sampled_from(["last", "random", "successive"])},
    ),
    st.builds(
        ByRatio,
        valid_ratio=st.sampled_from([0.0, 0.1, 0.3]),
        test_ratio=st.sampled_from([0.1, 0.2, 0.6]),
        order=st.sampled_from(["time", "random"]),
        **CHOICES,
    ),
)


# --- the parts of a log ---------------------------------------------------------------------------


def parts_of(ordered, split, valid_users):
    if isinstance(split, LeaveLastOut):
        return naive.leave_last_out(ordered, split.test_items)
    if isinstance(split, ByTime):
        return naive.by_time(ordered, split, MOMENTS, valid_users)
    return naive.by_ratio(ordered, split)


def in_file_order(rows):
    """Return the rows of each user without their order, for splits that draw one."""
    return {part: {user: sorted(own) for user, own in of.items()} for part, of in rows.items()}


@settings(max_examples=150, deadline=None)
@given(LOGS, SPLITS)
def test_every_event_is_in_the_part_that_the_naive_split_gives_it(events, split):
    split = split.model_copy(
        update={"ties": "file"} | ({"order": "time"} if split.kind == "ratio" else {})
    )
    try:
        dataset = split_log(log_of(events), split)
    except DataError:
        return
    check_columns(dataset, events)
    rows = rows_of(dataset)
    ordered = naive.sequences(events)
    valid_users = set(rows["valid"])
    clean = naive.without_rejections(ordered)
    assert rows == naive.rows_of(clean, parts_of(clean, split, valid_users))
    if split.kind == "time" and split.valid == "users":
        early = [user for user in clean if valid_users and user in rows["train"] | rows["valid"]]
        assert len(valid_users) == min(split.valid_users, len(early) // 2)
    expected = {user: own for user, own in naive.rejections(ordered).items() if own}
    assert rejections_of(dataset, events) == expected


def rejections_of(dataset, events):
    """Return {user: [(row, number of events before)]}; rows are found by user and item."""
    if dataset.negatives is None:
        return {}
    ragged, result = dataset.negatives, {}
    after = ragged.columns["after"].to_list()
    ordered = naive.sequences([event for event in events if event.negative])
    for number_of_user, user in enumerate(dataset.user_ids):
        start, stop = ragged.offsets[number_of_user : number_of_user + 2]
        items = dataset.item_ids.gather(ragged.values[start:stop]).to_list()
        own = ordered.get(user, [])
        assert items == [event.item for event in own]
        if own:
            rows = [event.row for event in own]
            result[user] = list(zip(rows, after[start:stop], strict=True))
    return result


@settings(max_examples=60, deadline=None)
@given(LOGS, SPLITS)
def test_random_ties_change_the_order_of_tied_events_only(events, split):
    events = [event._replace(negative=False) for event in events]
    split = split.model_copy(update={"ties": "random"})
    if isinstance(split, ByRatio):
        split = split.model_copy(update={"order": "time"})
    try:
        dataset = split_log(log_of(events), split)
    except DataError:
        return
    check_columns(dataset, events)
    for user, parts in users_of(dataset, events).items():
        own = [event for part in parts for event in part]
        times = [event.time for event in own]
        assert times == sorted(times)
        if split.kind != "time" or split.until is None:
            assert sorted(event.row for event in own) == [
                event.row for event in events if event.user == user
            ]
    again = split_log(log_of(events), split)
    assert rows_of(again) == rows_of(dataset)


def test_random_ties_depend_on_the_seed_and_reach_every_order():
    events = number([Event("a", item, 1) for item in "xyz"] + [Event("a", "u", 0)])
    orders = set()
    for seed in range(60):
        dataset = split_log(log_of(events), LeaveLastOut(ties="random", split_seed=seed))
        rows = rows_of(dataset)
        orders.add(tuple(row for part in PARTS for row in rows[part]["a"]))
    assert orders == {(3, *order) for order in itertools.permutations(range(3))}


@settings(max_examples=60, deadline=None)
@given(
    LOGS, LOGS, st.none() | LOGS, st.sampled_from(["last", "users", "none"]), st.sampled_from(TIES)
)
def test_given_parts_stay_as_they_are(train, test, valid, kind, ties):
    logs = [train, test] if valid is None else [train, valid, test]
    joined, pieces = [], []
    for events in logs:
        own = [event._replace(row=len(joined) + event.row) for event in events]
        joined += own
        pieces.append(log_of(own))
    split = Given(valid=kind, valid_ratio=0.4, ties=ties)
    dataset = from_parts(pieces[0], None if valid is None else pieces[1], pieces[-1], split=split)
    check_columns(dataset, joined)
    rows = rows_of(dataset)
    given_rows = [
        {e.row for e in joined[sum(map(len, logs[:i])) :][: len(own)]} for i, own in enumerate(logs)
    ]
    users = dict.fromkeys(event.user for event in joined)
    parts, expected = {}, {}
    for user in users:
        own = [
            sorted(
                (e for e in joined if e.user == user and e.row in of and not e.negative),
                key=lambda e: e.time,
            )
            for of in given_rows
        ]
        names = ["train", "test"] if valid is None else list(PARTS)
        expected[user] = [event for events in own for event in events]
        parts[user] = [name for name, events in zip(names, own, strict=True) for _ in events]
    if valid is None and kind == "last":
        naive.hold_out_last(parts)
    if valid is None and kind == "users":
        with_train = [user for user in users if "train" in parts[user]]
        held_out = with_train[-max(1, round(len(with_train) * 0.4)) :]
        for user in held_out:
            parts[user] = ["valid" if part == "train" else part for part in parts[user]]
    if ties == "random":
        drawn, of_file = in_file_order(rows), in_file_order(naive.rows_of(expected, parts))
        assert drawn["test"] == of_file["test"]
        if valid is not None or kind != "last":  # else the order decides which event is the last
            assert drawn == of_file
    else:
        assert rows == naive.rows_of(expected, parts)


# --- targets --------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(LOGS, SPLITS, st.sampled_from(["valid", "test"]), st.sampled_from(REPEATS))
def test_the_targets_are_those_of_the_naive_implementation(events, split, part, repeats):
    try:
        dataset = split_log(log_of(events), split)
    except DataError:
        return
    check_targets(dataset, events, part, repeats)


def random_events(seed, n=60):
    draw = random.Random(seed)
    return number(
        Event(
            draw.choice("abcdefg"), draw.choice("stuvwxyz"), draw.randrange(12), draw.choice(TYPES)
        )
        for _ in range(n)
    )


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_combination_of_settings_gives_the_naive_targets(target, ties):
    """All values of repeats, cold, cold_users, min_history and target_events with each other."""
    events = random_events(f"{target} {ties}")
    log = log_of(events, negatives=False)
    split_logs = [
        split_log(log, LeaveLastOut(test_items=3, target=target, ties=ties)),
        split_log(log, ByTime(at=0.6, valid_at=0.6, target=target, ties=ties)),
    ]
    others = itertools.product(
        ("miss", "drop"), ("keep", "drop"), (0, 2), ((), ("cart",), ("view", "purchase"))
    )
    names = ("cold", "cold_users", "min_history", "target_events")
    for values, dataset in itertools.product(others, split_logs):
        split = dataset.split.model_copy(update=dict(zip(names, values, strict=True)))
        for repeats, part in itertools.product(REPEATS, ("valid", "test")):
            check_targets(replace(dataset, split=split), events, part, repeats)


def one_user(*steps):
    """Make events of user a from (item, time[, type]), and a user b who makes all items warm."""
    own = [Event("a", *step) for step in steps]
    others = [Event("b", item, -100) for item in sorted({event.item for event in own})]
    return number(own + others)


def described(events, split, part="test", repeats="all"):
    """Return [(user, items of the history, target items)] of a split log."""
    dataset = split_log(log_of(events, negatives=False), split)
    targets = targets_of(dataset, part, repeats)
    result, position = [], 0
    for user, end, count in zip(targets.users, targets.ends, targets.counts, strict=True):
        start = targets.past.offsets[user]
        history = dataset.item_ids.gather(targets.past.values[start : start + end])
        items = dataset.item_ids.gather(targets.items[position : position + count])
        result.append((dataset.user_ids[int(user)], "".join(history), "".join(items)))
        position += count
    return [state for state in result if state[0] != "b"]


STEPS = [("s", 0), ("t", 1), ("u", 5, "cart"), ("v", 6), ("w", 6, "cart"), ("x", 7)]
CUT = {"at": "1970-01-01T00:00:00.005", "valid": "last", "min_history": 0}


@pytest.mark.parametrize(
    ("choice", "states"),
    [
        ({"target": "last"}, [("stuvw", "x")]),
        ({"target": "first"}, [("st", "u")]),
        ({"target": "all"}, [("st", "uvwx")]),
        (
            {"target": "successive"},
            [("st", "u"), ("stu", "v"), ("stuv", "w"), ("stuvw", "x")],
        ),
        (
            {"target": "successive", "ties": "group"},
            [("st", "u"), ("stu", "vw"), ("stuvw", "x")],
        ),
        ({"target": "last", "target_events": ["cart"]}, [("stuv", "w")]),
        ({"target": "last", "target_events": ["cart"], "ties": "group"}, [("stu", "w")]),
        ({"target": "first", "target_events": ["cart"]}, [("st", "u")]),
        ({"target": "all", "target_events": ["cart"]}, [("st", "uw")]),
        ({"target": "all", "min_history": 2}, [("st", "uvwx")]),
    ],
)
def test_the_targets_of_one_user_after_a_date(choice, states):
    split = ByTime(**CUT | choice)
    assert described(one_user(*STEPS), split) == [("a", *state) for state in states]


@pytest.mark.parametrize(
    ("repeats", "state"), [("new", ("xy", "z")), ("repeat", ("xy", "x")), ("all", ("xy", "xz"))]
)
def test_repeated_items_are_left_out_kept_or_alone(repeats, state):
    events = one_user(("x", 0), ("y", 1), ("x", 5), ("z", 6), ("x", 7))
    split = ByTime(**CUT | {"target": "all"})
    assert described(events, split, repeats=repeats) == [("a", *state)]


def test_an_item_of_the_history_is_repeated_only_for_the_states_after_it():
    events = one_user(("x", 0), ("y", 5), ("y", 6))
    dataset = split_log(log_of(events), ByTime(**CUT | {"target": "successive"}))
    targets = targets_of(dataset, "test", "all")
    assert targets.repeated.tolist() == [False, True]


@pytest.mark.parametrize(
    "split", [LeaveLastOut(ties="group"), ByRatio(test_ratio=0.4, ties="group")]
)
def test_the_history_ends_before_the_events_that_are_tied_with_the_first_target(split):
    events = one_user(("s", 0), ("t", 1), ("u", 1), ("v", 1))
    (state,) = described(events, split)
    assert state[:2] == ("a", "s")


def test_users_without_training_events_are_evaluated_by_their_history():
    events = [*one_user(("s", 0), ("t", 1)), Event("new", "s", 6), Event("new", "t", 7)]
    split = ByTime(**CUT | {"min_history": 1})
    assert described(number(events), split) == [("new", "s", "t")]
    with pytest.raises(DataError, match="cold users"):
        described(number(events), split.model_copy(update={"cold_users": "drop"}))


def test_cold_items_are_those_without_an_event_in_train():
    later = [Event("a", "new", 6), Event("a", "s", 7), Event("b", "new", 8)]
    events = number(one_user(("s", 0), ("t", 1)) + later)
    split = ByTime(**CUT | {"target": "all"})
    targets = targets_of(split_log(log_of(events), split), "test", "all")
    assert targets.cold.tolist() == [True, False, True]
    assert described(events, split.model_copy(update={"cold": "drop"})) == [("a", "st", "s")]
    merged = merge_valid(split_log(log_of(events), split))
    assert targets_of(merged, "test", "all").cold.tolist() == [True, False, True]


def test_a_random_target_is_one_of_the_events_and_each_of_them_for_some_seed():
    events = one_user(*STEPS)
    chosen = set()
    for seed in range(40):
        split = ByTime(**CUT | {"target": "random", "split_seed": seed})
        ((_, _, item),) = described(events, split)
        chosen.add(item)
    assert chosen == set("uvwx")


# --- moments, dates and errors --------------------------------------------------------------------


def dated(*days):
    return number(
        Event(user, item, int(datetime(2024, 1, day, hour, tzinfo=UTC).timestamp() * 1000))
        for day in days
        for hour, user, item in ((0, "a", f"x{day}"), (23, "b", f"y{day}"))
    )


def test_test_begins_on_the_date_in_utc():
    split = ByTime(at="2024-01-04", valid_at="2024-01-03", until="2024-01-05")
    dataset = split_log(log_of(dated(1, 2, 3, 4, 5)), split)
    days = {
        part: pl.concat([getattr(dataset, part).columns["timestamp"]])
        .cast(pl.Datetime("ms"))
        .dt.day()
        .unique()
        .sort()
        .to_list()
        for part in PARTS
    }
    assert days == {"train": [1, 2], "valid": [3], "test": [4]}


def test_a_date_of_toml_is_the_date_as_text():
    settings_of_toml = tomllib.loads("at = 2024-01-04\nvalid_at = 2024-01-03T12:00:00Z")
    split = ByTime(**settings_of_toml)
    assert (split.at, split.valid_at) == ("2024-01-04", "2024-01-03T12:00:00+00:00")


def test_a_date_may_have_a_zone():
    split = ByTime(at="2024-01-04T02:00+02:00", valid="last")
    dataset = split_log(log_of(dated(1, 2, 3, 4, 5)), split)
    same = split_log(log_of(dated(1, 2, 3, 4, 5)), ByTime(at="2024-01-04", valid="last"))
    assert dataset.fingerprint == same.fingerprint


def test_an_event_at_the_quantile_is_in_train():
    events = number(Event("ab"[time % 2], f"x{time}", time * DAY) for time in range(11))
    dataset = split_log(log_of(events), ByTime(at=0.9, valid="last"))
    assert rows_of(dataset)["test"] == {"a": [10]}


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        (ByTime(at="soon"), ConfigError, "split.at must be a quantile or a date"),
        (ByTime(at=1.5), ConfigError, "split.at must be a quantile between 0 and 1"),
        (ByTime(until="2024-13-01"), ConfigError, "split.until"),
        (ByTime(at="2030-01-01"), DataError, "no event is after '2030-01-01'"),
        (ByTime(at="2020-01-01"), DataError, "no event is before '2020-01-01'"),
        (ByTime(valid_at="2030-01-01"), DataError, "leaves nothing for validation"),
        (ByTime(valid_at="2020-01-01"), DataError, "leaves nothing for training"),
        (ByRatio(test_ratio=0.1), DataError, "test_ratio = 0.1; the longest history has 5"),
        (LeaveLastOut(target_events=("buy",)), DataError, "'buy'. It has view, cart, purchase"),
    ],
)
def test_a_split_that_does_not_fit_the_log_says_why(split, error, message):
    with pytest.raises(error, match=message):
        split_log(log_of(dated(1, 2, 3, 4, 5)), split)


def test_event_types_of_targets_need_a_column_of_event_types():
    log = log_of(dated(1, 2, 3, 4, 5))
    del log.columns["event_type"]
    with pytest.raises(DataError, match="event types"):
        split_log(log, LeaveLastOut(target_events=["cart"]))


def test_a_split_by_time_needs_times():
    log = log_of(dated(1, 2, 3, 4, 5))
    del log.columns["timestamp"]
    with pytest.raises(DataError, match="needs times"):
        split_log(log, ByTime())
    assert split_log(log, Auto()).split == LeaveLastOut()


def test_the_ratios_leave_something_to_train_on():
    with pytest.raises(ConfigError, match="below 1"):
        ByRatio(valid_ratio=0.5, test_ratio=0.5)


def test_the_automatic_split_is_by_time_where_the_log_has_times():
    assert split_log(log_of(random_events(1)), Auto()).split == ByTime()


def test_a_rejection_in_one_part_only_stays_a_rejection():
    train = number([Event("a", "x", 1), Event("a", "y", 2), Event("a", "z", 3, negative=True)])
    test = number([Event("a", "v", 4)])
    dataset = from_parts(log_of(train), None, log_of(test, negatives=False))
    assert dataset.item_ids.gather(dataset.negatives.values).to_list() == ["z"]
    assert len(dataset.train.values) + len(dataset.valid.values) == 2


def test_the_leaked_share_counts_targets_up_to_the_quantile():
    """Nine of ten users end before the last tenth of the log."""
    early = [Event(f"u{user}", f"x{step}", user + step) for user in range(9) for step in range(3)]
    late = [Event("late", f"x{step}", 1000 + step) for step in range(3)]
    dataset = split_log(log_of(number(early + late)), LeaveLastOut())
    assert leaked_share(dataset) == 0.9


@pytest.mark.parametrize("target", ["first", "all"])
def test_validation_users_need_targets_with_a_history(target):
    with pytest.raises(ConfigError, match=r"Set target to last, random or successive, or min_hist"):
        ByTime(valid="users", target=target)
    assert ByTime(valid="users", target=target, min_history=0).target == target


def test_whole_users_are_held_out_and_each_of_their_events_after_the_first_is_predicted():
    events = [
        Event(f"u{user}", f"i{(user + place) % 7}", DAY * place, row=4 * user + place)
        for user in range(20)
        for place in range(4)
    ]
    dataset = split_log(log_of(events), ByUsers(valid_ratio=0.1, test_ratio=0.25))
    rows = rows_of(dataset)
    held_out = [set(rows[part]) for part in PARTS]
    assert [len(users) for users in held_out] == [13, 2, 5]
    assert set.union(*held_out) == set(dataset.user_ids)
    assert all(len(own) == 4 for part in rows.values() for own in part.values())
    targets = targets_of(dataset, "test", "all")
    assert len(targets.items) == 5 * 3
    check_targets(dataset, events, "test", "all")
    check_targets(dataset, events, "valid", "new")
    other = split_log(log_of(events), ByUsers(valid_ratio=0.1, test_ratio=0.25, split_seed=1))
    assert set(rows_of(other)["test"]) != held_out[2]


def test_too_few_users_cannot_be_held_out():
    events = [Event("a", f"i{place}", place, row=place) for place in range(4)]
    with pytest.raises(DataError, match="1 users cannot be divided"):
        split_log(log_of(events), ByUsers())
    with pytest.raises(ConfigError, match="from no history"):
        ByUsers(target="all")
    with pytest.raises(ConfigError, match="below 1"):
        ByUsers(valid_ratio=0.5, test_ratio=0.5)
