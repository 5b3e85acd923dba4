"""Find the unit of times written as plain numbers, and convert exact times to milliseconds.

Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, whichever makes their
median the most recent time, or dates written as digits (20220421). Numbers that fit neither are
rejected one by one; see `TimeUnit.problems`.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from recoach.data.interactions import LongArray
from recoach.errors import DataError

_FIRST_MILLISECOND, _LAST_MILLISECOND = -30_610_224_000_000, 253_402_300_799_999
"""Of the years 1000 to 9999; a year of two digits is earlier."""
_UNITS = ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3))
"""(limit, milliseconds per unit): smaller numbers are seconds (1e11 s is the year 5138),
milliseconds, microseconds; larger ones are nanoseconds."""
_SCALES = (1e3, 1.0, 1e-3, 1e-6)
_EPOCH = (1e11, 4.2e12)
"""The milliseconds of 1973 to 2103: numbers in this range count from 1970, smaller ones may be
steps of a simulation."""
_GAP = 10
"""A time that is so many times lower than all that count from 1970 does not count from there."""
_DIGIT_DATES = {8: "YYYYMMDD", 10: "YYYYMMDDHH", 12: "YYYYMMDDHHMM", 14: "YYYYMMDDHHMMSS"}
"""Number of digits -> how a date is written with them."""
_FIRST_YEAR, _LAST_YEAR = 1900, 2100
_MONTH_DIGITS = 6
_AMBIGUOUS = {4: (1950, 2035), _MONTH_DIGITS: (195001, 203512)}
"""Number of digits -> the years or months that could also be a few seconds since 1970."""


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """What the exact times of one column are.

    Attributes:
        scale: milliseconds per unit; not used for dates.
        digits: the number of digits of dates such as 20220421; 0 for other times.
        is_float: whether the exact times are floats.
        has_epoch: whether the median lies in 1973 to 2103: the times count from 1970.
        all_epoch: whether the lowest time above 1 does: 0 and -1 are then markers of missing times.
        from_values: whether the scale was found from the values.
        lowest_epoch: the lowest time in 1973 to 2103, in milliseconds; None without one.
    """

    scale: float
    digits: int = 0
    is_float: bool = False
    has_epoch: bool = False
    all_epoch: bool = False
    from_values: bool = False
    lowest_epoch: float | None = None

    @property
    def name(self) -> str:
        """How dates are written as digits, "" for other times."""
        return _DIGIT_DATES.get(self.digits, "")

    @property
    def finer_than_milliseconds(self) -> bool:
        """Whether two different times can become the same millisecond."""
        return not self.digits and (self.is_float or self.scale < 1)

    def to_milliseconds(self, times: pl.Expr) -> pl.Expr:
        """Return Int64 milliseconds since 1970 UTC; null for a date that does not exist.

        Whole numbers of a finer unit are cut to the millisecond, floats are rounded (half to even).
        """
        if self.digits:
            return _dates_of_digits(times, self.digits)
        if self.is_float:
            return (times * self.scale).round(mode="half_to_even").cast(pl.Int64, strict=False)
        if self.scale < 1:
            return times // round(1 / self.scale)
        return times * round(self.scale)

    def problems(self, times: pl.Expr) -> dict[str, pl.Expr]:
        """Return what is wrong with a time -> which times have this problem."""
        if self.digits:
            is_no_date = _dates_of_digits(times, self.digits).is_null()
            return {f", which is no date of the form {self.name}": is_no_date}
        milliseconds = times.cast(pl.Float64) * self.scale
        outside = ~milliseconds.is_between(_FIRST_MILLISECOND, _LAST_MILLISECOND)
        problems = {}
        if self.has_epoch and self.all_epoch:
            problems[", a marker of a missing time"] = (times == 0) | (times == -1)
        if self.has_epoch and self.from_values:
            others = [milliseconds * (scale / self.scale) for scale in _SCALES]
            is_epoch_in_another = pl.any_horizontal(other.is_between(*_EPOCH) for other in others)
            outside |= ~milliseconds.is_between(*_EPOCH) & is_epoch_in_another
            outside |= (milliseconds > _EPOCH[1]) | _is_day_of_digits(times)
            if self.lowest_epoch is not None:
                outside |= (times > 1) & (milliseconds < self.lowest_epoch / _GAP)
        reason = " and is in another unit than most"
        problems[reason if self.from_values else ", which is no year from 1000 to 9999"] = outside
        return problems


def find_unit(times: pl.LazyFrame, unit: float | None, where: str) -> TimeUnit:
    """Return what the exact times in the column `timestamp` are.

    `unit` is the milliseconds per unit, None where it has to be found from the values; 0 and -1,
    which mark missing times, do not count for it. DataError, about the column `where`, for numbers
    that can be years or months as well as seconds.
    """
    time = pl.col("timestamp")
    is_float = times.collect_schema()["timestamp"].is_float()
    is_marker = (time == 0) | (time == -1)
    found = times.select(
        time.filter(~is_marker).cast(pl.Float64).abs().median().fill_null(0.0).alias("median"),
        time.filter(time > 1).min().alias("lowest"),
    )
    median, lowest = found.collect(engine="streaming").row(0)
    if unit is None:
        digits = _digits_of_dates(times, median, where)
        if digits:
            return TimeUnit(1.0, digits, is_float)
    scale = milliseconds_per_unit(median) if unit is None else unit
    milliseconds = time.cast(pl.Float64) * scale
    epoch = times.select(milliseconds.filter(milliseconds.is_between(*_EPOCH)).min())
    return TimeUnit(
        scale,
        is_float=is_float,
        has_epoch=_is_epoch(median * scale),
        all_epoch=lowest is not None and _is_epoch(lowest * scale),
        from_values=unit is None,
        lowest_epoch=epoch.collect(engine="streaming").item(),
    )


def milliseconds_per_unit(typical_time: float) -> float:
    """Return the milliseconds per unit of times of this magnitude (s, ms, us or ns since 1970)."""
    return next((scale for limit, scale in _UNITS if typical_time < limit), 1e-6)


def finer_order(exact: pl.Series, milliseconds: pl.Series) -> LongArray | None:
    """Return the rows in order of time where the order of the file is lost in milliseconds.

    Rows of one millisecond keep the order of the file later on. Where the exact times say otherwise
    all rows are put in order of time; None where they do not.
    """
    coarse, fine = milliseconds.to_numpy(), exact.to_numpy()
    order = np.argsort(coarse, kind="stable")
    tied = np.diff(coarse[order]) == 0
    if not (tied & (np.diff(fine[order]) < 0)).any():
        return None
    return np.lexsort((fine, coarse))


def _is_epoch(milliseconds: float) -> bool:
    return _EPOCH[0] <= milliseconds <= _EPOCH[1]


def _digits_of_dates(times: pl.LazyFrame, median: float, where: str) -> int:
    """Return the number of digits of dates such as 20220421; 0 where the numbers are none."""
    digits = len(str(round(median)))
    time = pl.col("timestamp")
    if digits in _AMBIGUOUS:
        first, last = _AMBIGUOUS[digits]
        is_date = time.is_between(first, last)
        if digits == _MONTH_DIGITS:
            is_date &= (time % 100).is_between(1, 12)
        if times.select(is_date.all()).collect(engine="streaming").item():
            kind = "months" if digits == _MONTH_DIGITS else "years"
            raise DataError(
                f"{where}: numbers such as {median:.0f} can be {kind} as well as seconds since "
                "1970. Write ISO dates (2022-04-21), or pass --column timestamp= to leave the "
                "column out."
            )
        return 0
    if digits not in _DIGIT_DATES or not _FIRST_YEAR <= median / 10 ** (digits - 4) <= _LAST_YEAR:
        return 0
    share = _dates_of_digits(time, digits).is_not_null().mean()
    return digits if times.select(share).collect(engine="streaming").item() > 0.5 else 0


def _is_day_of_digits(times: pl.Expr) -> pl.Expr:
    """Return which numbers can be days such as 20220421."""
    day, month, year = times % 100, times // 100 % 100, times // 10_000
    in_range = year.is_between(_FIRST_YEAR, _LAST_YEAR)
    return in_range & month.is_between(1, 12) & day.is_between(1, 31)


def _dates_of_digits(times: pl.Expr, digits: int) -> pl.Expr:
    """Return Int64 milliseconds of numbers such as 20220421, null where there is no such date."""
    text = times.cast(pl.Int64, strict=False).cast(pl.String)
    has_hour_only = digits == len("YYYYMMDDHH")
    padded = text + "00" if has_hour_only else text
    date_format = "%Y%m%d%H%M%S"[: digits - 2 + 2 * has_hour_only]
    dates = padded.str.to_datetime(date_format, strict=False, time_unit="ms")
    is_whole = times == times.floor()
    is_date = is_whole & (text.str.len_bytes() == digits)
    is_date &= dates.dt.year().is_between(_FIRST_YEAR, _LAST_YEAR)
    return pl.when(is_date).then(dates.dt.epoch("ms"))
