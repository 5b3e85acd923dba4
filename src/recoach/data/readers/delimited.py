"""Delimited text: CSV and TSV with a header, quoted values allowed."""

import contextlib
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recoach.data.readers.table import Table, short_reason
from recoach.data.readers.text import LogFile, diagnose_encoding, scan_lines
from recoach.errors import DataError, clipped

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


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
    """Open delimited text; DataError if its header has one column only or a column twice.

    `header` names the columns of a file without a header; `layout` then says so. With
    `typed_header`, names carry types (`user_id:token`) and values are never quoted, as in RecBole's
    files.
    """
    path = file.path
    names = list(header) or header_names(file, separator)
    header_lines = 0 if header else 1
    if typed_header:
        names = [name.split(":")[0] for name in names]
    _check_header(file.name, names, separator)
    quoted = not typed_header
    frame = pl.scan_csv(
        path,
        separator=separator,
        skip_lines=header_lines,
        has_header=False,
        quote_char='"' if quoted else None,
        schema=dict.fromkeys(names, pl.String),
        glob=False,
    )
    return Table(
        file.name,
        frame,
        tuple(names),
        lambda row: (
            f"{file.name}:{_line_number(path, row + header_lines, separator, quoted=quoted)}"
        ),
        lambda: _diagnose(path, separator, len(names)),
        skip_blank=True,
        layout=layout,
    )


def find_separator(line: str) -> str:
    """Return the separator that occurs most often in a line."""
    return max(SEPARATORS, key=line.count)


def header_names(file: LogFile, separator: str) -> list[str]:
    """Return the column names in the first line; DataError if it cannot be split into names."""
    try:
        names = next(csv.reader([file.first_line], delimiter=separator))
    except csv.Error as error:
        raise DataError(
            f"{file.name}:1: the line is not a header ({error}). Write the names of the columns."
        ) from None
    return [name.strip() for name in names]


def _check_header(label: str, names: list[str], separator: str) -> None:
    if len(names) == 1:
        raise DataError(
            f"{label}:1: only one column ({clipped(repr(names[0]))}) when the line is split at "
            f"{SEPARATORS[separator]}. Separate the columns by commas, tabs, semicolons or |."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"{label}:1: column {clipped(repr(repeated[0]))} occurs twice. Rename or remove one."
        )


def _line_number(path: Path, row: int, separator: str, *, quoted: bool) -> int:
    """Return the line (from 1) on which row `row` of the file ends, a header being row 0.

    Quoted values may hold line breaks.
    """
    if not quoted:
        return row + 1
    reader = _csv_reader(path, separator)
    with contextlib.suppress(csv.Error):  # the reader stops at the row or just before it
        for _ in range(row + 1):
            next(reader, None)
    return int(reader.line_num)


def _csv_reader(path: Path, separator: str) -> Any:  # noqa: ANN401 - csv does not export its type
    lines = scan_lines(path, "utf8-lossy").collect()["line"]
    return csv.reader((f"{line}\n" for line in lines), delimiter=separator)


def _diagnose(path: Path, separator: str, n_columns: int) -> None:
    """Raise a DataError for the first line that is not UTF-8, badly quoted or too long."""
    diagnose_encoding(path)
    reader = _csv_reader(path, separator)
    try:
        long_row = next((values for values in reader if len(values) > n_columns), None)
    except csv.Error as error:
        raise DataError(
            f"{path.name}:{reader.line_num}: the line cannot be read ({short_reason(error)}). "
            "Quote the values that contain quotes or line breaks."
        ) from None
    if long_row is not None:
        raise DataError(
            f"{path.name}:{reader.line_num}: {len(long_row)} values, but the header has "
            f"{n_columns} columns. Quote the values that contain {SEPARATORS[separator]}."
        )
