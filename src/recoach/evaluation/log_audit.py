"""What a log holds: repeats, ties, outliers, skew and drift, before it is split."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl
from scipy.spatial.distance import jensenshannon

from recoach.data.interactions import IntArray, Interactions, LongArray
from recoach.data.ordered_log import chronological
from recoach.evaluation.exposure import gini

BURST: Final = 30
"""Events of a user within one minute of the clock from which they are a burst."""
OUTLIER: Final = 10
"""A user is an outlier with this many times the .95 quantile of events per user, ..."""
OUTLIER_EVENTS: Final = 100
"""... and at least this many events."""
TENTHS: Final = 10
_UNITS: Final = (
    ("days", 86_400_000),
    ("hours", 3_600_000),
    ("minutes", 60_000),
    ("seconds", 1000),
    ("milliseconds", 1),
)
_MINUTE: Final = 60_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Times:
    """The times of a log.

    Attributes:
        first: ISO date and time (UTC) of the earliest event.
        last: of the latest event.
        resolution: the largest unit, from days to milliseconds, that all differences are whole
            multiples of.
        tied: share of the rows that share user and time with another row.
        busiest_minute: largest number of events of a user within a minute of the clock; None if
            the resolution is coarser.
        burst_users: users with `BURST` events or more within a minute; None as before.
    """

    first: str
    last: str
    resolution: str
    tied: float
    busiest_minute: int | None
    burst_users: int | None


@dataclass(frozen=True, slots=True)
class Activity:
    """How events are distributed over users and items.

    Attributes:
        lengths: 0, .25, .5, .75, .95 and 1 quantile of the number of events per user.
        single: users with one event.
        outliers: users with `OUTLIER` times the .95 quantile of events or more, at least
            `OUTLIER_EVENTS`.
        outlier_rows: share of the rows that are theirs.
        largest_user: share of the rows that belong to the most active user.
        largest_item: share of the rows that belong to the most popular item.
        gini: Gini coefficient of the events per item.
        top_1: share of the rows that belong to the 1 % most popular items (at least one item).
        top_20: the same for 20 %.
        single_items: items with one event.
        histogram: (smallest length, largest length, users), in classes that double.
        popularity: share of the rows that belong to the 0, 5, 10, ..., 100 % most popular items.
    """

    lengths: tuple[float, ...]
    single: int
    outliers: int
    outlier_rows: float
    largest_user: float
    largest_item: float
    gini: float
    top_1: float
    top_20: float
    single_items: int
    histogram: tuple[tuple[int, int, int], ...]
    popularity: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tenth:
    """A tenth of the rows in the order of time.

    Attributes:
        first: ISO date of its first event.
        new_users: share of its rows whose user has no event in an earlier tenth.
        new_items: share of its rows whose item has no event in an earlier tenth.
        distance: Jensen-Shannon distance (base 2, 0..1) of its items from those of the tenth
            before; None for the first one.
    """

    first: str
    new_users: float
    new_items: float
    distance: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    """How users and items change over time.

    Attributes:
        tenths: the tenths of the log.
        distance: mean distance between consecutive tenths.
        shuffled_distance: the same after the rows are shuffled: the distance without any drift.
    """

    tenths: tuple[Tenth, ...]
    distance: float
    shuffled_distance: float


def times_of(log: Interactions) -> Times | None:
    """Return the times of a log; None without times or rows."""
    if log.times is None or not len(log):
        return None
    order = chronological(log)
    users, times = log.users[order], log.times[order]
    first, last = int(times.min()), int(times.max())
    since = times - first
    name, unit = next(entry for entry in _UNITS if not (since % entry[1]).any())
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.append(False, same) | np.append(same, False)
    bursts = _events_per_minute(users, times) if unit < _MINUTE else None
    return Times(
        first=_iso(first),
        last=_iso(last),
        resolution=name,
        tied=float(tied.mean()),
        busiest_minute=None if bursts is None else int(bursts[1].max()),
        burst_users=None if bursts is None else len(np.unique(bursts[0][bursts[1] >= BURST])),
    )


def activity_of(log: Interactions) -> Activity:
    """Return how the events of a log are distributed; the log has rows."""
    lengths = np.bincount(log.users, minlength=log.n_users)
    counts = np.sort(np.bincount(log.items, minlength=log.n_items))[::-1]
    quantiles = np.quantile(lengths, (0, 0.25, 0.5, 0.75, 0.95, 1))
    outliers = lengths[lengths >= max(OUTLIER * quantiles[4], OUTLIER_EVENTS)]
    cumulative = np.append(0, np.cumsum(counts)) / counts.sum()
    top = [max(1, round(share * len(counts))) for share in (0.01, 0.2)]
    grid = np.round(np.linspace(0, len(counts), 21)).astype(np.int64)
    return Activity(
        lengths=tuple(quantiles.tolist()),
        single=int((lengths == 1).sum()),
        outliers=len(outliers),
        outlier_rows=float(outliers.sum() / lengths.sum()),
        largest_user=float(lengths.max() / lengths.sum()),
        largest_item=float(cumulative[1]),
        gini=gini(counts),
        top_1=float(cumulative[top[0]]),
        top_20=float(cumulative[top[1]]),
        single_items=int((counts == 1).sum()),
        histogram=_histogram(lengths),
        popularity=tuple(cumulative[grid].tolist()),
    )


def drift_of(log: Interactions, seed: int = 0) -> Drift | None:
    """Return how users and items change over time; None without times or with under 100 rows."""
    if log.times is None or len(log) < TENTHS * TENTHS:
        return None
    order = np.argsort(log.times, kind="stable")
    users, items = log.users[order], log.items[order]
    tenth = np.arange(len(order)) * TENTHS // len(order)
    starts = np.searchsorted(tenth, np.arange(TENTHS))
    distances = _distances(items, tenth, log.n_items)
    is_new = [
        _first_tenth(codes, tenth, n)[codes] == tenth
        for codes, n in ((users, log.n_users), (items, log.n_items))
    ]
    new_users, new_items = (
        np.bincount(tenth, weights=rows) / np.bincount(tenth) for rows in is_new
    )
    tenths = tuple(
        Tenth(
            _iso(int(log.times[order[start]]))[:10],
            float(new_users[index]),
            float(new_items[index]),
            distances[index - 1] if index else None,
        )
        for index, start in enumerate(starts)
    )
    shuffled = _distances(np.random.default_rng(seed).permutation(items), tenth, log.n_items)
    return Drift(tenths, float(np.mean(distances)), float(np.mean(shuffled)))


def identical_rows(log: Interactions) -> int:
    """Return the number of rows that are equal in all columns to an earlier one."""
    columns = {"user": pl.Series(log.users), "item": pl.Series(log.items), **log.columns}
    return len(log) - pl.DataFrame(columns).n_unique()


def event_counts(log: Interactions) -> tuple[tuple[str, int], ...]:
    """Return (event type, rows) in the declared order; empty without event types."""
    if "event_type" not in log.columns:
        return ()
    values = log.columns["event_type"]
    counts = dict(values.cast(pl.String).drop_nulls().value_counts().iter_rows())
    names = values.dtype.categories if isinstance(values.dtype, pl.Enum) else sorted(counts)
    return tuple((name, counts.get(name, 0)) for name in names)


def _events_per_minute(users: IntArray, times: LongArray) -> tuple[LongArray, LongArray]:
    """Return the user and the number of events of each minute with events, of an ordered log."""
    minutes = times // _MINUTE
    starts = np.append(True, (users[1:] != users[:-1]) | (minutes[1:] != minutes[:-1]))
    places = np.flatnonzero(starts)
    return users[places].astype(np.int64), np.diff(np.append(places, len(users)))


def _histogram(lengths: LongArray) -> tuple[tuple[int, int, int], ...]:
    classes = np.bincount(np.log2(np.maximum(lengths, 1)).astype(np.int64))
    return tuple((2**k, 2 ** (k + 1) - 1, int(users)) for k, users in enumerate(classes))


def _first_tenth(codes: IntArray, tenth: LongArray, n_codes: int) -> LongArray:
    """Return int64[n_codes], the first tenth in which each code occurs."""
    first = np.full(n_codes, TENTHS)
    first[codes[::-1]] = tenth[::-1]  # the first row is written last
    return first


def _distances(items: IntArray, tenth: LongArray, n_items: int) -> list[float]:
    """Return the distances between the items of consecutive tenths."""
    edges = np.searchsorted(tenth, np.arange(1, TENTHS))
    counts = [np.bincount(part, minlength=n_items) for part in np.split(items, edges)]
    return [float(jensenshannon(before, after, base=2)) for before, after in pairwise(counts)]


def _iso(milliseconds: int) -> str:
    return (_EPOCH + timedelta(milliseconds=milliseconds)).strftime("%Y-%m-%d %H:%M:%S")
