"""A log as a lazy table of named columns, before its columns have a meaning."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl

from recoach.errors import DataError, clipped

POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises for damaged files; some of its decoders panic."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a log and how to find them in their file.

    Attributes:
        label: the name of the file, or "frame", for error messages.
        frame: the rows in file order; text formats hold strings, nothing is parsed.
        names: the name of each column of `frame`, in order.
        locate: row number from 0 -> "a.csv:7" or "a.parquet, row 7", for error messages.
        diagnose: raises a DataError with the cause of a failed read if it finds one.
        check_types: raises a DataError if the named column mixes numbers and text.
        check_used: raises a DataError if one of the named columns cannot be read as it is.
        n_rows: the number of rows, counted apart from `frame`; None where it is not counted.
        layout: what the file was taken for, such as "a sequence file: user item item ..."; empty
            where a header names the columns.
    """

    label: str
    frame: pl.LazyFrame
    names: tuple[str, ...]
    locate: Callable[[int], str]
    diagnose: Callable[[], None] = lambda: None
    check_types: Callable[[str], None] = lambda _: None
    check_used: Callable[[Sequence[str]], None] = lambda _: None
    n_rows: int | None = None
    layout: str = ""


@contextmanager
def convert_read_errors(label: str, diagnose: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Raise one DataError for any error of polars or of the disk.

    Args:
        label: the name of the file.
        diagnose: raises a DataError with the cause if it finds one; it may fail on the same bytes.
    """
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(empty_file_message(label)) from None
    except OSError as error:
        raise DataError(
            f"{label}: cannot be read ({short_reason(error)}). Check that the file is complete and "
            "that you may read it."
        ) from None
    except POLARS_ERRORS as error:
        try:
            with contextlib.suppress(OSError, *POLARS_ERRORS):
                diagnose()
        except DataError as cause:
            raise cause from None
        raise DataError(
            f"{label}: cannot be read ({short_reason(error)}). Check that the file is complete and "
            "has the format of its suffix."
        ) from None


def check_row_count(table: Table, n_read: int) -> None:
    """Raise a DataError if the rows that were read are not as many as were counted."""
    if table.n_rows not in (None, n_read):
        raise DataError(
            f"{table.label}: {n_read:,} rows were read, but the file has {table.n_rows:,}. Write "
            "the file again, with quotes around all values."
        )


def check_dtypes(label: str, schema: pl.Schema, used: Sequence[str]) -> None:
    """Raise a DataError if one of the columns holds lists, objects or bytes."""
    for name in used:
        dtype = schema[name]
        if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
            raise DataError(
                f"{label}: column {clipped(repr(name))} holds {clipped(str(dtype), 80)}, which "
                "cannot be an id, a number or a time. Use text, numbers or dates."
            )


def empty_file_message(label: str) -> str:
    """Return the error message for a file without content."""
    return f"{label}: the file is empty. Write one line for each interaction."


def short_reason(error: Exception) -> str:
    """Return the first line of another library's error message, at most 120 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.split(r"\n|\(set |Set ", str(error))[0].strip().rstrip(".")[:120]
