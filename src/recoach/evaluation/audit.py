"""Audit a log before training: what it holds, what each split of it tests, what to look out for."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from recoach.data.interactions import Interactions
from recoach.data.ordered_log import OrderedLog, order_log
from recoach.data.protocol import ByTime, LeaveLastOut
from recoach.data.split import LEAK_QUANTILE, leaked_share, split_ordered_log
from recoach.errors import DataError
from recoach.evaluation.log_audit import (
    BURST,
    OUTLIER,
    Activity,
    Drift,
    Times,
    activity_of,
    drift_of,
    event_counts,
    identical_rows,
    times_of,
)
from recoach.evaluation.split_audit import SplitAudit, audit_split

LEAVE_LAST_OUT: Final = "leave last out"
TIME_TARGETS: Final = ("last", "first", "successive", "all")

# From these shares on there is a sentence about it.
LEAK: Final = 0.2
TIES: Final = 0.1
REPEATS: Final = 0.05
COLD: Final = 0.05
NEW_USERS: Final = 0.2
IDENTICAL: Final = 0.001
LARGEST_ITEM: Final = 0.05
TOP_1: Final = 0.3
DRIFT: Final = 0.1  # of the distance above that of the shuffled log


@dataclass(frozen=True, slots=True)
class Audit:
    """What a log holds and what each split of it tests.

    Attributes:
        users: number of users.
        items: number of items.
        rows: number of rows.
        identical_rows: rows that are equal in all columns to an earlier one.
        repeated_rows: rows whose pair of user and item occurs in an earlier one.
        rejected_rows: rows by which a user rejects an item; None if the log does not say.
        event_types: (event type, rows) in the declared order.
        sessions: number of sessions; None without a column of sessions.
        times: None without times.
        activity: events per user and per item.
        drift: None without times, or with under 100 rows.
        leak: share of the leave-last-out targets before the .9 quantile of time; None without times
            or where leave-last-out is not possible.
        splits: what leave-last-out and the splits by time test.
    """

    users: int
    items: int
    rows: int
    identical_rows: int
    repeated_rows: int
    rejected_rows: int | None
    event_types: tuple[tuple[str, int], ...]
    sessions: int | None
    times: Times | None
    activity: Activity
    drift: Drift | None
    leak: float | None
    splits: tuple[SplitAudit, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """Return what to look out for, one sentence each, the most important first."""
        return tuple(_advice(self))

    @property
    def default_split(self) -> SplitAudit | None:
        """Return the split that `split = "auto"` takes; None if no split is possible."""
        possible = {split.name: split for split in self.splits if not split.problem}
        return possible.get("time, last", possible.get(LEAVE_LAST_OUT))

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers and sentences as values that JSON can hold."""
        return asdict(self) | {"advice": list(self.advice)}


def audit(log: Interactions) -> Audit:
    """Audit a log before training.

    Args:
        log: the log, after the filters to train with.

    Raises:
        DataError: the log has no rows.
    """
    if not len(log):
        raise DataError("The log has no interactions. Use another log or weaker filters.")
    ordered = order_log(log)
    pairs = log.users.astype(np.int64) * log.n_items + log.items
    negative, sessions = (log.columns.get(name) for name in ("negative", "session_id"))
    leak, splits = _splits(ordered)
    return Audit(
        users=log.n_users,
        items=log.n_items,
        rows=len(log),
        identical_rows=identical_rows(log),
        repeated_rows=len(log) - pl.Series(pairs).n_unique(),
        rejected_rows=None if negative is None else int(negative.sum()),
        event_types=event_counts(log),
        sessions=None if sessions is None else sessions.drop_nulls().n_unique(),
        times=times_of(log),
        activity=activity_of(log),
        drift=drift_of(log),
        leak=leak,
        splits=splits,
    )


def _splits(log: OrderedLog) -> tuple[float | None, tuple[SplitAudit, ...]]:
    """Return the leaked share of leave-last-out, and what all splits test."""
    leak, splits = None, []
    try:
        dataset = split_ordered_log(log, LeaveLastOut())
        leak = leaked_share(dataset)
        splits.append(audit_split(dataset, LEAVE_LAST_OUT))
    except DataError as error:
        splits.append(SplitAudit(LEAVE_LAST_OUT, problem=str(error)))
    if log.times is None:
        return leak, tuple(splits)
    names = {f"time, {target}": ByTime(target=target) for target in TIME_TARGETS}
    try:
        dataset = split_ordered_log(log, ByTime())
    except DataError as error:
        problem = str(error)
        return leak, (*splits, *(SplitAudit(name, problem=problem) for name in names))
    by_time = (audit_split(dataset, name, split) for name, split in names.items())
    return leak, (*splits, *by_time)


def _advice(found: Audit) -> Iterator[str]:
    """Yield the sentences whose thresholds are reached."""
    split = found.default_split
    if split is None:
        yield f"No split is possible: {found.splits[0].problem}"
    if found.times is None:
        yield (
            "The log has no times: it can only be split by position, and whether that leaks cannot "
            "be seen. Map the column of times, if there is one, with --column timestamp=NAME."
        )
    if found.leak is not None and found.leak >= LEAK and split and split.name != LEAVE_LAST_OUT:
        yield (
            f"{percent(found.leak)} of the leave-last-out targets lie before the {LEAK_QUANTILE:g} "
            'quantile of time, in the period that a split by time trains on: use split = "time".'
        )
    if split:
        yield from _about_targets(split)
    yield from _about_rows(found)
    yield from _about_users_and_items(found.activity, found.items)
    drift = found.drift
    if drift and drift.distance - drift.shuffled_distance >= DRIFT:
        yield (
            "The items of consecutive tenths of the log differ more (Jensen-Shannon distance "
            f"{drift.distance:.2f}) than after shuffling ({drift.shuffled_distance:.2f}): items "
            "come, go or change in popularity, and only a split by time tests a model on that."
        )


def _about_targets(split: SplitAudit) -> Iterator[str]:
    """Yield the sentences on power, repeated and cold targets of the default split."""
    name, rate = split.best_baseline or ("", 0.0)
    relative = split.relative(split.detectable)
    tuned = split.relative(split.detectable_tuned)
    if relative is not None and tuned is not None:
        yield (
            f"{split.users:,} test users ({split.name}) detect a relative difference of "
            f"{percent(relative)} between two models, and of {percent(tuned)} between a model and "
            f"its fine-tuned version, at the hit rate@10 of {name} ({rate:.4f}): smaller gains "
            "need more data."
        )
    elif split.users:
        yield (
            f"Nothing can be said about what {split.users:,} test users ({split.name}) detect: "
            "no simple baseline hits some of the targets and misses others."
        )
    if split.repeated >= REPEATS:
        yield (
            f"{percent(split.repeated)} of the targets ({split.name}) are items of the user's "
            "history: put repeat-last beside the table, and say whether the task is new items "
            '(repeats = "new") or all (repeats = "all").'
        )
    if split.cold >= COLD:
        yield (
            f"{percent(split.cold)} of the targets ({split.name}) are items without an event "
            "before test, which a model of ids cannot predict: report them apart, or leave them "
            'out with cold = "drop".'
        )
    if split.new >= NEW_USERS:
        yield (
            f"{percent(split.new)} of the test users ({split.name}) have no event before "
            "test: a model with a vector per user knows nothing of them. Use models that read the "
            'history, and target = "successive" to test every event of a session.'
        )


def _about_rows(found: Audit) -> Iterator[str]:
    times = found.times
    if times and times.tied >= TIES:
        unit = times.resolution.removesuffix("s")
        order = f"a {unit}" if unit == "day" else f"the same {unit}"
        yield (
            f"{percent(times.tied)} of the rows share user and {unit} with another one: their "
            f'order within {order} is only that of the file. Report ties = "group" as well.'
        )
    if len(found.event_types) > 1:
        name, rows = max(found.event_types, key=lambda pair: pair[1])
        yield (
            f"{percent(rows / found.rows)} of the rows are {name} events: say which event types "
            "are targets (target_events), and report the metrics of each type."
        )
    if found.identical_rows >= IDENTICAL * found.rows and found.identical_rows:
        yield (
            f"{found.identical_rows:,} rows are equal to an earlier one in all columns: look "
            "whether the export wrote them twice; --dedup first keeps one row of each user and "
            "item."
        )
    if times and times.burst_users:
        yield (
            f"{times.burst_users:,} users have {BURST} events or more within a minute: look "
            "whether they are people."
        )


def _about_users_and_items(activity: Activity, n_items: int) -> Iterator[str]:
    if activity.outliers:
        yield (
            f"{activity.outliers:,} users have {OUTLIER} times as many events as 95 % of the users "
            f"({percent(activity.outlier_rows)} of the rows): look whether they are bots or shared "
            "accounts."
        )
    if activity.largest_item >= LARGEST_ITEM and n_items >= 100:
        yield (
            f"One item has {percent(activity.largest_item)} of the rows: look whether it is an "
            "item, or a start page, a bag or a missing id."
        )
    if activity.top_1 >= TOP_1 and n_items >= 100:
        yield (
            f"The 1 % most popular items have {percent(activity.top_1)} of the rows: put "
            "popularity beside the table, and report recall by popularity of the target."
        )


def percent(share: float) -> str:
    """Return a share as "0 %", "0.04 %", "7.3 %" or "58 %"."""
    value = 100 * share
    if value == 0:
        return "0 %"
    digits = 0 if abs(value) >= 9.95 else 1 if abs(value) >= 0.095 else 2
    return f"{value:.{digits}f} %"
