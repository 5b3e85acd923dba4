"""Rows of delimited text: which lines are one row each, and how the other lines are read.

A line is regular if it has one value for each column, each either between quotes, as in RFC 4180,
or without any quote. One pass over the lines counts them. Where all lines are regular, polars reads
the file as it is. Otherwise a copy is written in which every row is regular, and polars reads that;
lines that can be read in several ways are refused.
"""

import csv
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, NoReturn

import polars as pl

from recoach.errors import DataError

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_MAX_PATTERN_COLUMNS = 64
"""More columns make the pattern of a regular line too large."""
_NEVER_MATCHES = r"[^\s\S]"


@dataclass(frozen=True)
class RowLayout:
    """How the lines of a file become rows.

    Attributes:
        label: the file's name, for error messages.
        separator: one character.
        n_columns: the number of values in each row.
        header_lines: 1 if the first line names the columns, else 0.
        quoted: whether quotes around a value are no part of it.
    """

    label: str
    separator: str
    n_columns: int
    header_lines: int = 1
    quoted: bool = True

    @property
    def regular_line(self) -> str:
        """The regular expression of a line that is one row."""
        if self.n_columns > _MAX_PATTERN_COLUMNS:
            return _NEVER_MATCHES
        separator = re.escape(self.separator)
        quotes = '"' if self.quoted else ""
        value = rf"[^{quotes}{separator}\r\x00\x1a]*"
        first = rf"(?:[^{quotes}{separator}\r\x00\x1a\x{{feff}}]{value})?"
        if self.quoted:
            in_quotes = r'"[^"\x00]*(?:""[^"\x00]*)*"'
            first, value = f"(?:{in_quotes}|{first})", f"(?:{in_quotes}|{value})"
        return f"^{first}(?:{separator}{value}){{{self.n_columns - 1}}}$"

    @property
    def filled_line(self) -> str:
        """The regular expression of a line with anything but blanks and separators."""
        return rf"[^\s\x1a{re.escape(self.separator)}]"


class Survey(NamedTuple):
    """Counts of the lines after the header.

    Attributes:
        n_rows: lines that are one row each.
        is_regular: whether no other lines exist but blank ones at the end of the file.
        has_blank_lines: whether blank lines exist.
    """

    n_rows: int
    is_regular: bool
    has_blank_lines: bool


def survey(lines: pl.LazyFrame, layout: RowLayout) -> Survey:
    """Count the regular lines of a file and what else there is."""
    counts = (
        _classified(lines, layout)
        .select(
            n_lines=pl.len(),
            n_regular=pl.col("is_regular").sum(),
            n_blank=pl.col("is_blank").sum(),
            last_regular=pl.col("number").filter(pl.col("is_regular")).max(),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    n_regular, n_blank = int(counts["n_regular"] or 0), int(counts["n_blank"] or 0)
    contiguous = (counts["last_regular"] or layout.header_lines) - layout.header_lines == n_regular
    return Survey(
        n_regular, contiguous and n_regular + n_blank == int(counts["n_lines"]), n_blank > 0
    )


def _classified(lines: pl.LazyFrame, layout: RowLayout) -> pl.LazyFrame:
    """Return number (from 1), line, is_blank and is_regular of each line after the header."""
    line = pl.col("line")
    return (
        lines.with_row_index("number", offset=1)
        .slice(layout.header_lines)
        .with_columns(is_blank=~line.str.contains(layout.filled_line))
        .with_columns(is_regular=line.str.contains(layout.regular_line) & ~pl.col("is_blank"))
    )


class LineNumbers:
    """The line on which each row of a file begins, noted where rows and lines drift apart."""

    def __init__(self) -> None:
        self._first_rows = array("q")  # int64[K] ascending: from here on the difference is another
        self._differences = array("q")  # int64[K]: line number (from 1) less row number (from 0)

    def add(self, row: int, line_number: int) -> None:
        """Note that `row` begins on this line; rows are noted in order."""
        if not self._differences or self._differences[-1] != line_number - row:
            self._first_rows.append(row)
            self._differences.append(line_number - row)

    def of(self, row: int) -> int:
        """Return the line number of a row that was noted or follows one."""
        return row + self._differences[bisect_right(self._first_rows, row) - 1]


def write_regular(
    lines: pl.LazyFrame, layout: RowLayout, target: IO[str]
) -> tuple[int, LineNumbers]:
    """Write a copy without header in which each row is regular.

    Blank lines are left out. Returns the number of rows and where they began.

    Raises:
        DataError: a line holds too many or too few values, a quote is not closed, or a quoted value
            holds lines that look like rows.
    """
    writer = _Writer(layout, target)
    for batch in _classified(lines, layout).collect_batches(
        maintain_order=True, engine="streaming"
    ):
        is_regular, is_blank = (batch[name].to_list() for name in ("is_regular", "is_blank"))
        writer.add(batch["line"].to_list(), is_regular, is_blank)
    writer.close()
    return writer.n_rows, writer.numbers


class _Writer:
    """Writes the rows of consecutive lines, given in batches; a row may extend over batches."""

    def __init__(self, layout: RowLayout, target: IO[str]) -> None:
        self.numbers, self.n_rows = LineNumbers(), 0
        self._layout, self._target = layout, target
        self._lines: list[str] = []  # not written yet: the first one begins a row
        self._number = layout.header_lines + 1  # of the first of them

    def add(self, lines: list[str], is_regular: list[bool], is_blank: list[bool]) -> None:
        n_open = len(self._lines)
        self._lines += lines
        # The lines of an unfinished row are parsed again, now with those that follow.
        others = [0] * bool(n_open) + [
            n_open + index for index, regular in enumerate(is_regular) if not regular
        ]
        position = 0  # of the first line that is not written
        for index in others:
            if index < position:
                continue
            self._write_regular(position, index)
            position = index
            if index >= n_open and is_blank[index - n_open]:
                position += 1
                continue
            row = parse_row(self._lines, index, self._number + index, self._layout)
            if row is None:
                break
            self._write_row(row.values, self._number + index)
            position += row.n_lines
        else:
            self._write_regular(position, len(self._lines))
            position = len(self._lines)
        del self._lines[:position]
        self._number += position

    def close(self) -> None:
        if self._lines:
            _reject_open_quote(self._layout, self._number)

    def _write_regular(self, start: int, end: int) -> None:
        if end > start:
            self._note(self._number + start, end - start)
            self._target.write("\n".join(self._lines[start:end]) + "\n")

    def _write_row(self, values: list[str], number: int) -> None:
        self._note(number, 1)
        written = map(_quote, values) if self._layout.quoted else values
        self._target.write(self._layout.separator.join(written) + "\n")

    def _note(self, number: int, n_rows: int) -> None:
        self.numbers.add(self.n_rows, number)
        self.n_rows += n_rows


class Row(NamedTuple):
    """The values of a row and the number of lines that it takes."""

    values: list[str]
    n_lines: int


def parse_row(lines: list[str], index: int, number: int, layout: RowLayout) -> Row | None:
    r"""Read the row that begins with line `index`, whose number in the file is `number`.

    A row is read as RFC 4180 demands; else with `\"` for a quote inside a value; else, if it is one
    line, as pandas reads it, which leaves quotes inside a value as they are. None if the row does
    not end with the last line.

    Raises:
        DataError: as `write_regular`.
    """
    line = lines[index].removeprefix("\ufeff")
    if "\0" in line:
        _reject(layout, number, "the line holds NUL characters. Save the file as UTF-8 text.")
    if not layout.quoted:
        return Row(_check_count(line.split(layout.separator), number, layout), 1)
    unescaped = line.replace('\\"', '""')
    readings = [_parse_line(text, layout, strict=True) for text in (line, unescaped)]
    is_open = readings[1] is None and _is_open(unescaped, layout)
    if not is_open:
        readings.append(_parse_line(line, layout, strict=False))
    for values in readings:
        if values is not None and len(values) == layout.n_columns:
            return Row(values, 1)
    if unescaped != line and is_open:
        return _parse_lines(lines, index, number, layout, escaped=True)
    values = next((values for values in readings if values is not None), None)
    if values is not None:
        _check_count(values, number, layout)
    return _parse_lines(lines, index, number, layout, escaped=False)


def _parse_line(line: str, layout: RowLayout, *, strict: bool) -> list[str] | None:
    """Return the values of a line; None if it is malformed or its last quote is not closed."""
    reader = _csv_reader((line, ""), line, layout, strict=strict)
    try:
        values = next(reader)
    except csv.Error:
        return None
    return values if reader.line_num == 1 else None


def _csv_reader(
    lines: Iterable[str], first_line: str, layout: RowLayout, *, strict: bool = True
) -> Any:  # noqa: ANN401 - csv does not export its type
    """Return a reader that skips blanks before a value if a quote follows some in `first_line`."""
    skip = re.search(rf'{re.escape(layout.separator)} +"', first_line) is not None
    return csv.reader(lines, delimiter=layout.separator, skipinitialspace=skip, strict=strict)


def _is_open(line: str, layout: RowLayout) -> bool:
    """Return whether a line ends inside a quoted value."""
    try:
        next(_csv_reader((line,), line, layout))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _parse_lines(
    lines: list[str], index: int, number: int, layout: RowLayout, *, escaped: bool
) -> Row | None:
    r"""Read a row with line breaks inside its quoted values; None if the last line is within one.

    If `escaped`, quotes in values are written as `\"`.
    """
    pieces = (f"{lines[position]}\n" for position in range(index, len(lines)))
    if escaped:
        pieces = (piece.replace('\\"', '""') for piece in pieces)
    reader = _csv_reader(pieces, lines[index], layout)
    try:
        values = next(reader)
    except csv.Error as error:
        if "\r" in lines[index]:
            problem = "the line holds a carriage return. Save the file with one kind of line end."
            _reject(layout, number, problem)
        if "unexpected end of data" in str(error):
            return None
        _reject_open_quote(layout, number)
    n_lines = reader.line_num
    for inner in _row_like_lines(lines[index : index + n_lines], layout):
        _reject(
            layout,
            number,
            f"a quote opens a value that extends over line {number + inner}, which looks like a "
            "row of its own. Close the quote, or write quotes inside values twice.",
        )
    return Row(_check_count(values, number, layout), n_lines)


def _row_like_lines(lines: list[str], layout: RowLayout) -> list[int]:
    """Return which lines of a row that extends over several could be rows of their own."""
    before_quote = lines[0].partition('"')[0]
    spaced = any(value[:1] == " " for value in before_quote.split(layout.separator)[1:-1])
    row_like = [_is_row_like(line, layout, spaced=spaced) for line in lines]
    inside = [index for index in range(1, len(lines) - 1) if row_like[index]]
    if not inside and row_like[0] and row_like[-1]:
        return [len(lines) - 1]
    return inside


def _is_row_like(line: str, layout: RowLayout, *, spaced: bool) -> bool:
    """Return whether a line splits into as many values as columns.

    Unless separators are `spaced` in this file, no blank may follow one, as in a sentence.
    """
    values = line.split(layout.separator)
    return (
        len(values) == layout.n_columns
        and bool(values[0].strip())
        and (spaced or all(value == value.strip(" ") for value in values))
    )


def separator_name(separator: str) -> str:
    """Return the word for a separator in messages, such as "commas"."""
    return SEPARATORS.get(separator, repr(separator))


def _check_count(values: list[str], number: int, layout: RowLayout) -> list[str]:
    if len(values) == layout.n_columns:
        return values
    counted = "1 value" if len(values) == 1 else f"{len(values)} values"
    expected = (
        f"the header has {layout.n_columns} columns"
        if layout.header_lines
        else f"{layout.n_columns} columns are named"
    )
    name = separator_name(layout.separator)
    if len(values) > layout.n_columns:
        remedy = f"Quote the values that contain {name}." if layout.quoted else f"Remove {name}."
    else:
        remedy = f"Write all values, missing ones as nothing between {name}."
    return _reject(layout, number, f"{counted}, but {expected}. {remedy}")


def _reject_open_quote(layout: RowLayout, number: int) -> NoReturn:
    problem = (
        "a quote opens a value and is not closed. Close it, or write quotes inside values twice."
    )
    _reject(layout, number, problem)


def _reject(layout: RowLayout, number: int, problem: str) -> NoReturn:
    raise DataError(f"{layout.label}:{number}: {problem}")


def _quote(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if value else ""
