"""Read columns of times: typed dates, dates as text, and numbers whose unit is found later.

A time is first read exactly: as a whole number of nanoseconds, microseconds, milliseconds or
seconds, or as a float. `time_units` finds the unit of plain numbers and converts to milliseconds.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import polars as pl

from recoach.errors import DataError

Conversion: TypeAlias = Callable[[pl.Expr], pl.Expr]
"""Converts the values of a column; what cannot be converted becomes null."""

SAMPLE_ROWS = 1000
"""The rows from whose values the format of a column is found."""


class TimeReading(NamedTuple):
    """One way to read a column of times.

    Attributes:
        convert: values -> exact times, Int64 or Float64, null where a value has another format.
        unit: milliseconds per unit of the exact times; None for plain numbers.
        name: the format for messages, such as "day/month/year"; "" where it needs no mention.
        has_zone: values -> whether each names its time zone; None where all or none do.
    """

    convert: Conversion
    unit: float | None
    name: str = ""
    has_zone: Conversion | None = None


_UNITS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0}
_ISO_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
_ZONED_ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
_SINGLE_FORMATS = (
    *("%Y-%m-%d %H:%M:%S", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f"),
    *("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f"),
    *("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S UTC"),
    *("%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S"),
    *("%Y%m%dT%H%M%S", "%Y%m%dT%H%M%S%#z", "%m %d, %Y", "%d-%b-%Y", "%d/%b/%Y:%H:%M:%S %z"),
    *("%B %d, %Y", "%d %B %Y", "%B %d, %Y %I:%M:%S %p", "Posted %B %d, %Y."),
    *("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z"),
)
"""Formats that are taken if they fit the whole sample, the most frequent first."""
_DAY_AND_MONTH = r"^(\d{1,2})([/.-])(\d{1,2})[/.-]\d{4}"
_TAILS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_NANOSECOND_RANGE = (-9_223_372_036_854_775, 9_223_372_036_854_775)
"""The microseconds whose nanoseconds an Int64 can hold."""


def time_readings(raw: pl.LazyFrame, where: str) -> list[TimeReading]:
    """Return the ways to read the column `timestamp`, best first.

    The first reading without missing values is right; if there is none, values are bad. The order
    of day and month is found from all rows, everything else from the first `SAMPLE_ROWS`.

    Raises:
        DataError: about the column `where`: its type cannot be a time, or nothing tells the day
            from the month.
    """
    sample = raw.head(SAMPLE_ROWS).select("timestamp").collect()["timestamp"].drop_nulls()
    dtype = sample.dtype
    if dtype.is_integer():
        return [TimeReading(lambda column: column.cast(pl.Int64, strict=False), None)]
    if dtype.is_numeric():
        return [TimeReading(lambda column: column.cast(pl.Float64, strict=False), None)]
    if dtype == pl.Date:
        return [TimeReading(lambda column: column.cast(pl.Datetime("ms")).to_physical(), 1.0)]
    if isinstance(dtype, pl.Datetime):
        return [TimeReading(lambda column: column.to_physical(), _UNITS[dtype.time_unit])]
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise DataError(
            f"{where} holds {dtype}, which cannot be a time. Use numbers or ISO dates, or pass "
            "--column timestamp= to leave the column out."
        )
    return _text_readings(raw, sample.cast(pl.String).str.strip_chars(), where)


def _text_readings(raw: pl.LazyFrame, sample: pl.Series, where: str) -> list[TimeReading]:
    whole = TimeReading(lambda column: _text(column).cast(pl.Int64, strict=False), None)
    decimal = TimeReading(lambda column: _text(column).cast(pl.Float64, strict=False), None)
    iso = [_iso_reading(unit) for unit in ("ns", "us")]
    n_values = len(sample)
    if not n_values:
        return [whole, decimal, *iso]
    if _count(sample, decimal):
        n_whole, n_decimal, n_iso = (_count(sample, way) for way in (whole, decimal, iso[1]))
        if n_decimal >= n_iso:
            return [whole, decimal] if n_whole == n_decimal else [decimal]
    if 2 * sample.str.contains(_DAY_AND_MONTH).sum() > n_values:
        return [_day_and_month_reading(raw, sample, where)]
    for date_format in _SINGLE_FORMATS:
        reading = _format_reading(date_format)
        if _count(sample, reading) == n_values:
            return [reading, *iso] if date_format.startswith("%Y-") else [reading]
    others = [_format_reading(date_format) for date_format in _SINGLE_FORMATS]
    best = max([*iso[:1], *others], key=lambda reading: _count(sample, reading))
    return iso if best is iso[0] else [best]


def _count(sample: pl.Series, reading: TimeReading) -> int:
    """Return the number of values that a reading can convert."""
    name = sample.name
    return int(sample.to_frame().select(reading.convert(pl.col(name)).count()).item())


def _text(column: pl.Expr) -> pl.Expr:
    return column.cast(pl.String).str.strip_chars()


def _format_reading(date_format: str, name: str = "") -> TimeReading:
    """Return the reading of one format; fractions of a second are kept to the nanosecond."""
    unit = "ns" if "%.f" in date_format else "us"

    def convert(column: pl.Expr) -> pl.Expr:
        return _parse(_text(column), (date_format,), unit)

    return TimeReading(convert, _UNITS[unit], name)


def _iso_reading(unit: str) -> TimeReading:
    """Return the reading of all ISO 8601 formats, mixed, with and without a zone."""

    def normalized(column: pl.Expr) -> pl.Expr:
        text = _text(column).str.replace(r"\s*(?:UTC|GMT)$", "Z")
        return text.str.replace("T", " ", literal=True)

    def convert(column: pl.Expr) -> pl.Expr:
        return _parse(normalized(column), (*_ISO_FORMATS, *_ZONED_ISO_FORMATS), unit)

    def has_zone(column: pl.Expr) -> pl.Expr:
        return normalized(column).str.contains(r":\S*\s*(?:[zZ]|[+-]\d\d:?(?:\d\d)?)$")

    return TimeReading(convert, _UNITS[unit], has_zone=has_zone)


def _parse(text: pl.Expr, formats: tuple[str, ...], unit: str) -> pl.Expr:
    """Return Int64 microseconds, or nanoseconds, of text in any of the formats."""
    parsed = [
        text.str.to_datetime(date_format, strict=False, time_unit="us").dt.epoch("us")
        for date_format in formats
    ]
    microseconds = pl.coalesce(parsed)
    if unit == "us":
        return microseconds
    digits = text.str.extract(r"\.\d{6}(\d{1,3})").str.pad_end(3, "0").cast(pl.Int64)
    nanoseconds = microseconds * 1000 + digits.fill_null(0)  # polars reads six digits
    return pl.when(microseconds.is_between(*_NANOSECOND_RANGE, closed="none")).then(nanoseconds)


def _day_and_month_reading(raw: pl.LazyFrame, sample: pl.Series, where: str) -> TimeReading:
    """Return the reading of dates such as 21/04/2022, where a day above 12 decides the order.

    Dates with dots are always day first.
    """
    text = _text(pl.col("timestamp"))
    first, second = (
        text.str.extract(_DAY_AND_MONTH, group).cast(pl.Int64).max() for group in (1, 3)
    )
    highest = raw.select(first=first, second=second).collect(engine="streaming").row(0)
    separator = sample.str.extract(_DAY_AND_MONTH, 2).drop_nulls()[0]
    if separator != "." and max(highest) <= 12:
        raise DataError(
            f"{where}: {sample[0]!r} could be day{separator}month or month{separator}day, and no "
            "value in the file decides. Write ISO dates (2022-04-21), or pass --column timestamp= "
            "to leave the column out."
        )
    day_first = separator == "." or highest[0] > 12
    start = f"%d{separator}%m{separator}%Y" if day_first else f"%m{separator}%d{separator}%Y"
    name = "day, month, year" if day_first else "month, day, year"
    readings = [_format_reading(start + tail, name) for tail in _TAILS]
    return max(readings, key=lambda reading: _count(sample, reading))
