"""Convert dates and numbers of any unit to milliseconds since 1970 UTC."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import polars as pl

from recoach.data.interactions import LongArray
from recoach.errors import DataError

Conversion: TypeAlias = Callable[[pl.Expr], pl.Expr]
"""Converts the values of a column; what cannot be converted becomes null."""

_DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
_ZONED_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
_FIRST_MILLISECOND, _LAST_MILLISECOND = -62_135_596_800_000, 253_402_300_799_999
"""Of the years 1 to 9999."""
_UNITS = ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3))
"""(limit, milliseconds per unit): smaller numbers are seconds (1e11 s is the year 5138),
milliseconds, microseconds; larger ones are nanoseconds."""


def timestamp_conversion(sample: pl.Series, where: str) -> Conversion:
    """Return how to read a column of timestamps, by its type and its first value.

    Dates become int64 milliseconds, numbers float64 in their unit (see `milliseconds_per_unit`).
    `sample` holds the first value or none. DataError, about the column `where`, if its type cannot
    be a time.
    """
    dtype = sample.dtype
    if dtype.is_numeric():
        return lambda column: column.cast(pl.Float64)
    if dtype in (pl.Date, pl.Datetime):
        return lambda column: column.dt.epoch("ms")
    if dtype != pl.String:
        raise DataError(f"{where} holds {dtype}, which cannot be a time. Use numbers or ISO dates.")
    if sample.cast(pl.Float64, strict=False).null_count() == 0:
        return lambda column: column.cast(pl.Float64, strict=False)
    return _parse_dates


def outside_years(times: pl.Expr, scale: float) -> pl.Expr:
    """Return which times, `scale` milliseconds each, lie outside the years 1 to 9999."""
    milliseconds = times.cast(pl.Float64) * scale
    return (milliseconds < _FIRST_MILLISECOND) | (milliseconds > _LAST_MILLISECOND)


def to_milliseconds(times: pl.Series, scale: float) -> LongArray:
    """Return int64[N] milliseconds of times with `scale` milliseconds per unit."""
    values = times.to_numpy()
    if not times.dtype.is_float():
        return values.astype(np.int64)
    return np.round(values * scale).astype(np.int64)


def milliseconds_per_unit(typical_time: float) -> float:
    """Return the milliseconds per unit of times of this magnitude (s, ms, us or ns since 1970)."""
    return next((scale for limit, scale in _UNITS if typical_time < limit), 1e-6)


def _parse_dates(column: pl.Expr) -> pl.Expr:
    text = column.str.strip_chars().str.replace("T", " ", literal=True)
    parsed = [
        text.str.to_datetime(date_format, strict=False, time_unit="ms")
        for date_format in (*_DATE_FORMATS, *_ZONED_FORMATS)
    ]
    return pl.coalesce([dates.dt.epoch("ms") for dates in parsed])
