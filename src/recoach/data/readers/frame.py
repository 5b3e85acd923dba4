"""Data frames in memory: pandas, polars, arrow and whatever else narwhals reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import polars as pl

from recoach.data.readers.table import POLARS_ERRORS, Table, check_dtypes, short_reason
from recoach.errors import DataError, clipped

_LIBRARY_ERRORS = (
    *(ArithmeticError, AttributeError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError),
)
"""What pandas, arrow and the code behind a lazy frame raise."""


def open_frame(source: Any) -> Table:  # noqa: ANN401 - any frame that narwhals reads
    """Return a frame as a table.

    Columns that polars cannot hold, such as a pandas column of numbers and text, are refused only
    where they are used. Names that are no text, such as numbers, become text. The levels of a
    pandas index that have names are columns too.

    Raises:
        DataError: it is not a frame, its rows cannot be computed, or two columns have one name.
    """
    kind = f"{type(source).__module__}.{type(source).__name__}"
    try:
        frame, problems = _to_polars(source)
    except DataError:
        raise
    except (*_LIBRARY_ERRORS, *POLARS_ERRORS) as error:
        raise DataError(
            f"{kind}: cannot be used as a log ({short_reason(error)}). Pass a path or a pandas, "
            "polars or arrow frame."
        ) from None
    return Table(
        "frame",
        frame.lazy(),
        tuple(frame.columns),
        lambda row: f"frame, row {row + 1}",
        check_used=lambda used: _check_used(frame, used, problems),
    )


def _to_polars(source: Any) -> tuple[pl.DataFrame, dict[str, str]]:  # noqa: ANN401 - see open_frame
    """Return the frame, and column name -> what is wrong with it, for each that has no values."""
    if nw.dependencies.is_pandas_like_dataframe(source):
        named_levels = [name for name in source.index.names if name not in (None, *source.columns)]
        source = source.reset_index(level=named_levels) if named_levels else source
        values = [source.iloc[:, position] for position in range(len(source.columns))]
        return _from_columns(list(zip(_column_names(source.columns), values, strict=True)))
    if nw.dependencies.is_pyarrow_table(source):
        _column_names(source.column_names)
    frame = nw.from_native(source)
    eager = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
    try:
        return eager.to_polars(), {}
    except (*_LIBRARY_ERRORS, *POLARS_ERRORS):  # one of the columns
        native = [(name, nw.to_native(eager[name])) for name in eager.columns]
        return _from_columns(native)


def _column_names(columns: Sequence[Any]) -> list[str]:
    """Return names as text; DataError if two are the same."""
    names = [
        ".".join(str(part) for part in name if part != "") if isinstance(name, tuple) else str(name)
        for name in columns
    ]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"frame: column {clipped(repr(repeated[0]))} occurs twice. Rename or remove one."
        )
    return names


def _from_columns(columns: Sequence[tuple[str, Any]]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Convert each column by itself; those that fail become null."""
    series: dict[str, pl.Series] = {}
    problems: dict[str, str] = {}
    for name, values in columns:
        try:
            column = nw.from_native(values, series_only=True).to_polars()
        except (*_LIBRARY_ERRORS, *POLARS_ERRORS) as error:
            problems[name] = short_reason(error)
            column = pl.repeat(None, len(values), dtype=pl.Null, eager=True)
        series[name] = column.alias(name)
    return pl.DataFrame(series), problems


def _check_used(frame: pl.DataFrame, used: Sequence[str], problems: Mapping[str, str]) -> None:
    for name in used:
        if name in problems:
            raise DataError(
                f"frame: column {clipped(repr(name))} cannot be read ({problems[name]}). Give it "
                "one type: text, numbers or dates."
            )
    check_dtypes("frame", frame.schema, used)
