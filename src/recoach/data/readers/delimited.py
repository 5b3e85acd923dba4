"""Delimited text: CSV and TSV with a header, quoted values allowed."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial

import polars as pl

from recoach.data.readers.rows import SEPARATORS, RowLayout, separator_name, survey, write_regular
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile, diagnose_encoding
from recoach.errors import DataError, clipped

_SURPLUS = "\n"
"""Name of the column after a separator at the end of each line, which no header has."""


def open_csv(file: LogFile) -> Table:
    """Open a file whose values are separated by commas, tabs or semicolons."""
    return open_delimited(file, find_separator(file.first_line))


def open_tsv(file: LogFile) -> Table:
    """Open a file whose values are separated by tabs."""
    return open_delimited(file, "\t")


def open_delimited(
    file: LogFile,
    separator: str,
    *,
    header: Sequence[str] = (),
    layout: str = "",
    typed_header: bool = False,
) -> Table:
    """Open delimited text with one value for each column in every line.

    A separator at the end of every line is no column. Blank lines, and lines of separators only,
    are skipped.

    Args:
        file: the text.
        separator: one character.
        header: the columns of a file without a header, "-" for columns without a name.
        layout: what the file was taken for, where it has no header.
        typed_header: names carry types (`user_id:token`) and values are never quoted, as in
            RecBole's files.

    Raises:
        DataError: the header has one column only or a column twice; a line has too many or too few
            values, or a quote that is not closed; the file cannot be read.
    """
    names = list(header) or header_names(file, separator)
    if typed_header:
        names = [name.split(":")[0] for name in names]
    names = [
        f"column {number}" if name in ("", "-") else name for number, name in enumerate(names, 1)
    ]
    _check_header(file.name, names, separator)
    header_lines = 0 if header else 1
    surplus = [_SURPLUS] * _has_surplus_separator(file, separator, header_lines, len(names))
    row_layout = RowLayout(
        file.name, separator, len(names + surplus), header_lines, quoted=not typed_header
    )
    frame, n_rows, line_number = _scan_rows(file, row_layout, names + surplus)
    if surplus:
        _check_surplus(frame, row_layout, line_number)
        frame = frame.drop(_SURPLUS)
    return Table(
        file.name,
        frame,
        tuple(names),
        lambda row: f"{file.name}:{line_number(row)}",
        n_rows=n_rows,
        layout=layout,
    )


def _scan_rows(
    file: LogFile, layout: RowLayout, names: Sequence[str]
) -> tuple[pl.LazyFrame, int, Callable[[int], int]]:
    """Return the rows, all columns as text, their number, and from row number to line number."""
    scan = partial(
        pl.scan_csv,
        separator=layout.separator,
        has_header=False,
        quote_char='"' if layout.quoted else None,
        schema=dict.fromkeys(names, pl.String),
        glob=False,
    )
    text_path = file.text_path.absolute()
    with convert_read_errors(file.name, lambda: diagnose_encoding(file)):
        found = survey(file.lines(), layout)
        if found.is_regular:
            frame = scan(text_path, skip_lines=layout.header_lines)
            if found.has_blank_lines:
                frame = frame.head(found.n_rows)
            return frame, found.n_rows, lambda row: row + layout.header_lines + 1
        with file.temporary_file() as target:
            text = io.TextIOWrapper(target, encoding="utf-8", newline="")
            n_rows, numbers = write_regular(file.lines(), layout, text)
            text.flush()
            text.detach()
    return scan(target.name), n_rows, numbers.of


def _has_surplus_separator(file: LogFile, separator: str, header_lines: int, n_names: int) -> bool:
    """Return whether the first row has one value more than the header, an empty one at its end."""
    with convert_read_errors(file.name):
        rows = file.lines().slice(header_lines)
        first = "".join(
            rows.filter(pl.col("line").str.strip_chars() != "").head(1).collect()["line"]
        )
    try:
        values = next(csv.reader([first], delimiter=separator))
    except (csv.Error, StopIteration):
        return False
    return len(values) == n_names + 1 and not values[-1]


def _check_surplus(
    frame: pl.LazyFrame, layout: RowLayout, line_number: Callable[[int], int]
) -> None:
    filled = frame.select(_SURPLUS).with_row_index().filter(pl.col(_SURPLUS).is_not_null())
    for (row,) in filled.select("index").head(1).collect(engine="streaming").iter_rows():
        raise DataError(
            f"{layout.label}:{line_number(row)}: {layout.n_columns} values, but there are "
            f"{layout.n_columns - 1} columns. "
            f"Quote the values that contain {separator_name(layout.separator)}."
        )


def find_separator(line: str) -> str:
    """Return the separator that occurs most often in a line."""
    return max(SEPARATORS, key=line.count)


def header_names(file: LogFile, separator: str) -> list[str]:
    """Return the column names in the first line; DataError if it cannot be split into names."""
    try:
        names = next(csv.reader([file.first_line], delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{file.name}:1: the line is not a header ({error}). Write the names of the columns."
        ) from None
    return [name.strip() for name in names]


def _check_header(label: str, names: list[str], separator: str) -> None:
    if len(names) == 1:
        raise DataError(
            f"{label}:1: only one column ({clipped(repr(names[0]))}) when the line is split at "
            f"{separator_name(separator)}. Separate the columns by commas, tabs, semicolons or |."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"{label}:1: column {clipped(repr(repeated[0]))} occurs twice. Rename or remove one."
        )
