"""Statistics of a log as papers report them: counts, average length, density, dates."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import polars as pl

from recoach.data.interactions import Interactions
from recoach.data.read_report import utc_day


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of one log, a row of a paper's table of datasets.

    Attributes:
        users: number of users.
        items: number of items.
        interactions: number of rows, repeated pairs included.
        average_length: interactions per user.
        density: interactions / (users * items), in 0..1 where no pair repeats.
        first: UTC day of the earliest interaction; None without times.
        last: UTC day of the latest interaction; None without times.
        repeated_pairs: rows after the first of their (user, item) pair.
        ties: share of rows whose user and time another row has too; None without times.
        sessions: number of distinct session ids; None without sessions.
        events: event type -> number of rows, in the order of the types; empty without event types.
    """

    users: int
    items: int
    interactions: int
    average_length: float
    density: float
    first: date | None
    last: date | None
    repeated_pairs: int
    ties: float | None = None
    sessions: int | None = None
    events: Mapping[str, int] = field(default_factory=dict)


def describe(interactions: Interactions) -> Statistics:
    """Return the log's statistics; averages of an empty log are 0."""
    users, items, rows = interactions.n_users, interactions.n_items, len(interactions)
    pairs = interactions.users.astype(np.int64) * items + interactions.items
    times = interactions.times if rows else None
    statistics = from_counts(
        (users, items, rows),
        None if times is None else (int(times.min()), int(times.max())),
        pl.Series(pairs).n_unique(),
    )
    ties = None
    if times is not None:
        ties, _ = count_equal_rows(pl.LazyFrame({"user": interactions.users, "time": times}))
    sessions = interactions.columns.get("session_id")
    return dataclasses.replace(
        statistics,
        ties=ties,
        sessions=None if sessions is None else sessions.drop_nulls().n_unique(),
        events=count_events(interactions.columns.get("event_type")),
    )


def count_events(event_types: pl.Series | None) -> dict[str, int]:
    """Return the number of rows of each event type, in the order of the types."""
    if event_types is None or not isinstance(event_types.dtype, pl.Enum):
        return {}
    counts = dict(event_types.cast(pl.String).value_counts().iter_rows())
    return {name: counts.get(name, 0) for name in event_types.dtype.categories}


def count_equal_rows(rows: pl.LazyFrame) -> tuple[float, int]:
    """Return the share of rows that equal another row, and the number that equal an earlier one.

    Rows are compared by 64-bit hashes, 8 bytes a row in memory.
    """
    hashed = rows.select(pl.struct(pl.all()).hash()).collect(engine="streaming").to_series()
    hashes = np.sort(hashed.to_numpy())
    equals_previous = np.zeros(len(hashes) + 1, dtype=np.bool_)
    equals_previous[1:-1] = hashes[1:] == hashes[:-1]
    has_equal = equals_previous[1:] | equals_previous[:-1]
    return float(has_equal.sum()) / len(hashes), int(equals_previous.sum())


def from_counts(
    counts: tuple[int, int, int], time_range: tuple[int, int] | None, n_pairs: int
) -> Statistics:
    """Return the statistics of a log with these counts of users, items and rows.

    `time_range` is in milliseconds; `n_pairs` counts distinct (user, item) pairs.
    """
    users, items, rows = counts
    return Statistics(
        users=users,
        items=items,
        interactions=rows,
        average_length=rows / users if users else 0.0,
        density=rows / (users * items) if rows else 0.0,
        first=None if time_range is None else utc_day(time_range[0]),
        last=None if time_range is None else utc_day(time_range[1]),
        repeated_pairs=rows - n_pairs,
    )
