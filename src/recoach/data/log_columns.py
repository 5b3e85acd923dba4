"""Optional columns of a log beside users and items: one polars series each, as long as the rows."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

Columns = Mapping[str, pl.Series]
"""Name of a column of `COLUMN_TYPES` -> its values, one for each row."""

COLUMN_TYPES: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "timestamp": pl.Int64,  # milliseconds since 1970 UTC
    "event_type": pl.Enum,  # the categories in their declared order
    "rating": pl.Float32,
    "value": pl.Float32,  # price, revenue, quantity: what an event is worth
    "session_id": pl.String,
    "propensity": pl.Float32,  # probability that the item was shown, in 0..1
    "impression_id": pl.String,
    "position": pl.Int32,  # of the item within its impression
    "negative": pl.Boolean,  # the user rejected the item: dislike, skip, return
}
"""Type of each optional column; the order is that of files and messages."""


def take(columns: Columns, rows: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> Columns:
    """Return the rows that a mask selects (bool[N]), or those of int[n] indices, in their order."""
    if rows.dtype == np.bool_:
        mask = pl.Series(rows)
        return {name: values.filter(mask) for name, values in columns.items()}
    return {name: values.gather(rows) for name, values in columns.items()}


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Return the rows of several parts one after another, of the columns that all parts have.

    Categories of event types that differ are joined in order of first appearance.
    """
    shared = [name for name in COLUMN_TYPES if parts and all(name in part for part in parts)]
    return {name: _concatenate([part[name] for part in parts]) for name in shared}


def with_missing(columns: Columns, names_of: Columns, n_rows: int) -> Columns:
    """Return the columns and, for each other one of `names_of`, `n_rows` missing values."""
    missing = {
        name: pl.Series(like.name, [None], dtype=like.dtype).new_from_index(0, n_rows)
        for name, like in names_of.items()
        if name not in columns
    }
    return {**columns, **missing}


def _concatenate(series: Sequence[pl.Series]) -> pl.Series:
    types = [values.dtype for values in series if isinstance(values.dtype, pl.Enum)]
    if len(set(types)) > 1:
        categories = pl.concat([dtype.categories for dtype in types])
        joined = pl.Enum(categories.unique(maintain_order=True))
        series = [values.cast(pl.String).cast(joined) for values in series]
    return pl.concat(series)
