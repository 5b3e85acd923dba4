"""Splits and targets of the evaluation protocol in plain Python, one event at a time.

Nothing here uses the package, beside the values of the settings: it is what the package is compared
with. An event is a tuple, see `Event`; `row` is its number in the file, by which events are told
apart.
"""

from collections import Counter
from fractions import Fraction
from typing import NamedTuple

import numpy as np

TYPES = ("view", "cart", "purchase")
PARTS = ("train", "valid", "test")


class Event(NamedTuple):
    user: str
    item: str
    time: int
    type: str = "view"
    negative: bool = False
    row: int = -1


def quantile(times, q):
    """Return the quantile of times with linear interpolation, exactly."""
    times = sorted(times)
    place = Fraction(str(q)) * (len(times) - 1)
    below = times[int(place)]
    above = times[min(int(place) + 1, len(times) - 1)]
    return below + (place - int(place)) * (above - below)


def sequences(events):
    """Return {user: events in time order}, users by first appearance, ties as in the file."""
    users = {}
    for event in events:
        users.setdefault(event.user, []).append(event)
    return {user: sorted(own, key=lambda event: event.time) for user, own in users.items()}


def rejections(ordered):
    """Return {user: [(row of a rejection, number of the user's events before it)]}."""
    return {
        user: [
            (event.row, sum(not other.negative for other in own[:place]))
            for place, event in enumerate(own)
            if event.negative
        ]
        for user, own in ordered.items()
    }


def without_rejections(ordered):
    return {user: [event for event in own if not event.negative] for user, own in ordered.items()}


def leave_last_out(ordered, test_items):
    """Return {user: part of each event}."""
    parts = {}
    for user, own in ordered.items():
        if len(own) >= 3:
            n_test = min(test_items, len(own) - 2)
            parts[user] = ["train"] * (len(own) - n_test - 1) + ["valid"] + ["test"] * n_test
        else:
            parts[user] = ["train", "test"][: len(own)]
    return parts


def by_time(ordered, split, moments, valid_users=()):
    """Return {user: part of each event, None if unused}; `moments`: date -> first millisecond."""

    def is_before(time, at, times):
        return time < moments[at] if isinstance(at, str) else time <= quantile(times, at)

    times = [event.time for own in ordered.values() for event in own]
    early = [time for time in times if is_before(time, split.at, times)]

    def part_of(event):
        if split.until is not None and not is_before(event.time, split.until, times):
            return None
        if not is_before(event.time, split.at, times):
            return "test"
        if split.valid == "users":
            return "valid" if event.user in valid_users else "train"
        if split.valid == "time" and not is_before(event.time, split.valid_at, early):
            return "valid"
        return "train"

    parts = {user: [part_of(event) for event in own] for user, own in ordered.items()}
    if split.valid == "last":
        hold_out_last(parts)
    return parts


def hold_out_last(parts):
    for own in parts.values():
        if own.count("train") >= 2:
            own[max(place for place, part in enumerate(own) if part == "train")] = "valid"


def by_ratio(ordered, split):
    parts = {}
    for user, own in ordered.items():
        n_test, n_valid = (
            int(Fraction(str(ratio)) * len(own)) for ratio in (split.test_ratio, split.valid_ratio)
        )
        n_train = len(own) - n_valid - n_test
        parts[user] = ["train"] * n_train + ["valid"] * n_valid + ["test"] * n_test
    return parts


def rows_of(ordered, parts):
    """Return {part: {user: rows of its events}}, without users that have none there."""
    result = {}
    for part in PARTS:
        rows = {
            user: [event.row for event, of in zip(own, parts[user], strict=True) if of == part]
            for user, own in ordered.items()
        }
        result[part] = {user: own for user, own in rows.items() if own}
    return result


# --- targets --------------------------------------------------------------------------------------


class State(NamedTuple):
    """A state with its targets: user, number of events of history, (row, repeated, cold) each."""

    user: str
    end: int
    targets: tuple


def states_of(users, split, part, repeats):
    """Return the states of a part of a split log, and the counts of what is left out.

    `users` is {user: (train, valid, test)}, three lists of events in order.
    """
    segment = PARTS.index(part)
    in_train = {event.item for parts in users.values() for event in parts[0]}
    sequences, steps = {}, {}
    for user, parts in users.items():
        start = sum(len(events) for events in parts[:segment])
        sequences[user] = [event for events in parts[: segment + 1] for event in events]
        steps[user] = steps_of(sequences[user], start, split)
    if split.target == "random":
        counts = [len(own) for own in steps.values() if own]
        draws = iter(np.random.default_rng(split.split_seed).integers(counts))
        steps = {user: own and [own[next(draws)]] for user, own in steps.items()}
    states, excluded = [], Counter()
    for user, end, targets in [(user, *step) for user, own in steps.items() for step in own]:
        seen = {event.item for event in sequences[user][:end]}
        kept = []
        for event in first_of_each_item(targets):
            repeated, cold = event.item in seen, event.item not in in_train
            reason = reason_against(split, repeats, users[user][0], end, repeated, cold)
            excluded[reason] += 1
            if not reason:
                kept.append((event.row, repeated, cold))
        if kept:
            states.append(State(user, end, tuple(kept)))
    del excluded[None]
    return states, dict(excluded)


def first_of_each_item(events):
    items = {}
    for event in events:
        items.setdefault(event.item, event)
    return items.values()


def steps_of(events, start, split):
    """Return [(end of history, candidate events)] of a user for one kind of target.

    The evaluated part begins at event number `start`.
    """

    def first_of_tie(place):
        while split.ties == "group" and place and events[place - 1].time == events[place].time:
            place -= 1
        return place

    places = [
        place
        for place in range(start, len(events))
        if not split.target_events or events[place].type in split.target_events
    ]
    if not places:
        return []
    if split.target == "all":
        return [(first_of_tie(start), [events[place] for place in places])]
    steps = {}
    for place in places:
        steps.setdefault(first_of_tie(place), []).append(events[place])
    steps = list(steps.items())
    return {"first": steps[:1], "last": steps[-1:]}.get(split.target, steps)


def reason_against(split, repeats, train, end, repeated, cold):
    """Return why a target is left out; None if it is not."""
    if end < split.min_history:
        return "without history"
    if split.cold_users == "drop" and not train:
        return "cold users"
    if split.cold == "drop" and cold:
        return "cold items"
    if repeats == "new" and repeated:
        return "repeated items"
    if repeats == "repeat" and not repeated:
        return "new items"
    return None
