"""Statistics of a log as papers report them: counts, average length, density, dates."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from recoach.data.interactions import Interactions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    """

    users: int
    items: int
    interactions: int
    average_length: float
    density: float
    first: date | None
    last: date | None
    repeated_pairs: int


def describe(interactions: Interactions) -> Statistics:
    """Return the log's statistics; averages of an empty log are 0."""
    users, items, rows = interactions.n_users, interactions.n_items, len(interactions)
    pairs = interactions.users.astype(np.int64) * items + interactions.items
    times = interactions.times if rows else None
    time_range = None if times is None else (int(times.min()), int(times.max()))
    return from_counts((users, items, rows), time_range, pl.Series(pairs).n_unique())


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
        first=None if time_range is None else _utc_day(time_range[0]),
        last=None if time_range is None else _utc_day(time_range[1]),
        repeated_pairs=rows - n_pairs,
    )


def _utc_day(milliseconds: int) -> date:
    return (_EPOCH + timedelta(milliseconds=milliseconds)).date()
