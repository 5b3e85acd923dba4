"""Read the columns that a log may have beside users, items and times.

Each is read in two steps. `reading` converts values in the streaming pass, so that a missing value
differs from one that cannot be read; `finish` gives the column its final type.
"""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from recoach.data.ids import MISSING_MARKERS, id_conversion
from recoach.data.timestamps import Conversion

NUMBER_COLUMNS = ("rating", "value", "propensity", "position")
TEXT_COLUMNS = ("event_type", "session_id", "impression_id")
OPTIONAL_COLUMNS = (*NUMBER_COLUMNS, *TEXT_COLUMNS, "negative")
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_MARKER_SPELLINGS = sorted(
    {spelling for text in MISSING_MARKERS for spelling in (text, text.upper(), text.capitalize())}
    | {"NaN", "NaT", "\\N"}
)
_INT32 = (-(2**31), 2**31 - 1)


class OptionalColumn(NamedTuple):
    """How an optional column is read.

    Attributes:
        is_bad: converted values -> whether they cannot be used; a missing value can, except as a
            rating or an event type.
        finish: converted values -> values of the final type, null where missing.
        remedy: what to write instead of a bad value.
    """

    is_bad: Conversion
    finish: Conversion
    remedy: str


def _not_a_number(column: pl.Expr) -> pl.Expr:
    return column.is_null() | column.is_infinite()


def _not_a_probability(column: pl.Expr) -> pl.Expr:
    return _not_a_number(column) | (column.is_not_nan() & ((column <= 0) | (column > 1)))


def _not_a_position(column: pl.Expr) -> pl.Expr:
    is_position = (column == column.floor()) & column.is_between(*_INT32)
    return _not_a_number(column) | (column.is_not_nan() & ~is_position)


def _as_number(dtype: type[pl.DataType]) -> Conversion:
    return lambda column: column.fill_nan(None).cast(dtype)


def _as_text(column: pl.Expr) -> pl.Expr:
    return pl.when(~is_marker(column)).then(column)


_KEPT: Callable[[pl.Expr], pl.Expr] = lambda column: column  # noqa: E731
_READINGS = {
    "rating": OptionalColumn(
        lambda column: ~column.is_finite().fill_null(value=False),
        _as_number(pl.Float32),
        "Write a finite number",
    ),
    "value": OptionalColumn(_not_a_number, _as_number(pl.Float32), "Write a number"),
    "propensity": OptionalColumn(
        _not_a_probability, _as_number(pl.Float32), "Write a number above 0 and at most 1"
    ),
    "position": OptionalColumn(_not_a_position, _as_number(pl.Int32), "Write a whole number"),
    "event_type": OptionalColumn(
        lambda column: column.is_null() | is_marker(column), _KEPT, "Write the type of each event"
    ),
    "session_id": OptionalColumn(lambda column: column.is_null(), _as_text, "Write an id"),
    "impression_id": OptionalColumn(lambda column: column.is_null(), _as_text, "Write an id"),
    "negative": OptionalColumn(
        lambda column: column.is_null(), _KEPT, "Write true or false, or 1 or 0"
    ),
}


def reading(column: str) -> OptionalColumn:
    """Return how an optional column is checked and finished."""
    return _READINGS[column]


def conversion(column: str, dtype: pl.DataType, *, markers: bool = False) -> Conversion | None:
    """Return the first step of reading a column of this type; None if the type is of no use.

    What cannot be read becomes null. A missing value becomes NaN in a column of numbers, "" in one
    of text, false in `negative`. With `markers`, which takes longer, text such as NA is a missing
    number.
    """
    is_text = dtype in (pl.String, pl.Categorical, pl.Enum)
    is_flag = dtype in (pl.Boolean, pl.Null)
    if column in NUMBER_COLUMNS:
        if is_text:
            return _number_or_marker if markers else _number_of_text
        return _number if dtype.is_numeric() or is_flag else None
    if column == "negative":
        return _flag if is_text or is_flag or dtype.is_numeric() else None
    to_id = (lambda values: values) if is_flag else id_conversion(dtype)
    if to_id is None:
        return None
    return lambda values: pl.when(values.is_null()).then(pl.lit("")).otherwise(_text(to_id(values)))


def is_marker(text: pl.Expr) -> pl.Expr:
    """Return which texts mark a missing value in any of the usual spellings."""
    return text.is_in(["", *_MARKER_SPELLINGS])


def _text(values: pl.Expr) -> pl.Expr:
    return values.cast(pl.String, strict=False).str.strip_chars()


def _number(values: pl.Expr) -> pl.Expr:
    return values.cast(pl.Float64).fill_null(float("nan"))


def _number_of_text(values: pl.Expr) -> pl.Expr:
    number = _text(values).cast(pl.Float64, strict=False)
    return pl.when(values.is_null()).then(float("nan")).otherwise(number)


def _number_or_marker(values: pl.Expr) -> pl.Expr:
    is_missing = values.is_null() | is_marker(_text(values))
    return pl.when(is_missing).then(float("nan")).otherwise(_number_of_text(values))


def _flag(values: pl.Expr) -> pl.Expr:
    text = _text(values).str.to_lowercase()
    is_false = values.is_null() | text.is_in(_FALSE) | is_marker(text)
    return pl.when(text.is_in(_TRUE)).then(True).when(is_false).then(False)
