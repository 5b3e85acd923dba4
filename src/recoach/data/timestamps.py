"""Timestamps as people write them become milliseconds since 1970 UTC."""

from collections.abc import Callable

import numpy as np
import polars as pl

from recoach.data.interactions import LongArray
from recoach.errors import DataError

_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
_ZONED = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
YEARS = (-62_135_596_800_000, 253_402_300_799_999)
"""Milliseconds of the years 1 to 9999."""
_UNITS = ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3))
"""Below this size a number is seconds (1e11 s: the year 5138), ms, us; above it is ns."""


def moments(sample: pl.Series, where: str) -> Callable[[pl.Expr], pl.Expr]:
    """Return how to read a column, judging by its type and its first value.

    Dates become int64 milliseconds, numbers float64 of any unit (see `scale_of`); what
    cannot be read becomes null. DataError for a type that is no time.

    Args:
        sample: the first value of the column, or nothing.
        where: file and column, for the message.
    """
    dtype = sample.dtype
    if dtype.is_numeric():
        return lambda column: column.cast(pl.Float64)
    if dtype in (pl.Date, pl.Datetime):
        return lambda column: column.dt.epoch("ms")
    if dtype != pl.String:
        raise DataError(f"{where} holds {dtype} and cannot be a time; use numbers or ISO dates")
    if sample.cast(pl.Float64, strict=False).null_count() == 0:
        return lambda column: column.cast(pl.Float64, strict=False)
    return _iso


def beyond(times: pl.Expr, scale: float) -> pl.Expr:
    """Return where times are in no year from 1 to 9999, as when units are mixed."""
    moments = times.cast(pl.Float64) * scale
    return (moments < YEARS[0]) | (moments > YEARS[1])


def to_milliseconds(times: pl.Series, scale: float) -> LongArray:
    """Return int64[N] milliseconds of a column whose scale is known."""
    values = times.to_numpy()
    if not times.dtype.is_float():
        return values.astype(np.int64)
    return np.round(values * scale).astype(np.int64)


def scale_of(size: float) -> float:
    """Return by how much times of a typical size are to be multiplied to be milliseconds."""
    return next((scale for limit, scale in _UNITS if size < limit), 1e-6)


def _iso(column: pl.Expr) -> pl.Expr:
    text = column.str.strip_chars().str.replace("T", " ", literal=True)
    naive = [text.str.to_datetime(form, strict=False, time_unit="ms") for form in _DATES]
    zoned = [text.str.to_datetime(form, strict=False, time_unit="ms") for form in _ZONED]
    return pl.coalesce([moment.dt.epoch("ms") for moment in naive + zoned])
