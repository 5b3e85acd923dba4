"""The figures by which papers describe a log: counts, average length, density, dates."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from recoach.data.interactions import Interactions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Statistics:
    """One row of a data table.

    Attributes:
        users: how many users.
        items: how many items.
        interactions: how many rows, repeats included.
        average_length: interactions a user.
        density: interactions / (users * items), in 0..1 where no pair repeats.
        first: UTC day of the earliest interaction; None without times.
        last: UTC day of the latest interaction; None without times.
        repeated_pairs: rows beyond the first of their (user, item) pair.
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
    span = None if times is None else (int(times.min()), int(times.max()))
    return from_counts((users, items, rows), span, pl.Series(pairs).n_unique())


def from_counts(
    counts: tuple[int, int, int], span: tuple[int, int] | None, pairs: int
) -> Statistics:
    """Return the statistics of a log that somebody has counted.

    Args:
        counts: users, items and rows.
        span: the earliest and the latest time, in milliseconds; None without times.
        pairs: distinct (user, item) pairs.
    """
    users, items, rows = counts
    return Statistics(
        users=users,
        items=items,
        interactions=rows,
        average_length=rows / users if users else 0.0,
        density=rows / (users * items) if rows else 0.0,
        first=None if span is None else _day(span[0]),
        last=None if span is None else _day(span[1]),
        repeated_pairs=rows - pairs,
    )


def _day(milliseconds: int) -> date:
    return (_EPOCH + timedelta(milliseconds=milliseconds)).date()
