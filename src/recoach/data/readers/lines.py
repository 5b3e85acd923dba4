"""Text of one interaction a line, without quotes: split at a separator of any length."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile, diagnose_encoding
from recoach.errors import DataError, clipped

SKIPPED = ("-", "_")
"""Names of values that are not read."""

WHITESPACE = " "
"""The separator that stands for any number of blanks and tabs."""

SAMPLE_LINES = 1000


@dataclass(frozen=True)
class LineLayout:
    """The layout of a file without quotes whose lines have the same number of values.

    Attributes:
        description: the values of a line, such as "user::item::rating::seconds".
        separator: text between two values; `WHITESPACE` is any number of blanks and tabs.
        names: name of each value in Recoach; `-` is a value that is not read.
        patterns: name -> regular expression that the whole value matches in every line; the
            separator must then stand for itself in regular expressions, as `,` and `::` do.
        convert: name -> expression over the values that replaces or adds a column.
    """

    description: str
    separator: str
    names: tuple[str, ...]
    patterns: Mapping[str, str] = field(default_factory=dict)
    convert: Mapping[str, pl.Expr] = field(default_factory=dict)

    def matches(self, lines: Sequence[str]) -> bool:
        """Return whether all lines have this layout; False without a line."""
        return bool(lines) and all(self._matches(line) for line in lines)

    def open(self, file: LogFile, *, header_lines: int = 0) -> Table:
        """Open a file of this layout.

        Raises:
            DataError: a line has another number of values, or a value that does not match.
        """
        rows = self.rows(file, header_lines=header_lines).with_columns(**self.convert)
        return table_of_lines(file, rows, self.description)

    def rows(self, file: LogFile, *, header_lines: int = 0) -> pl.LazyFrame:
        """Return the number of each line and its named values, as text; DataError as `open`."""
        values = split_lines(file, self.separator, len(self.names), header_lines)
        accepted = pl.col("complete")
        if self.patterns:
            accepted = pl.col("line").str.contains(self._line_pattern())
        check_lines(file, values, accepted, self.description)
        columns = {
            name: pl.col(f"value_{index}")
            for index, name in enumerate(self.names)
            if name not in SKIPPED
        }
        return values.select("number", **columns)

    def _line_pattern(self) -> str:
        """Return the regular expression of a line whose values match."""
        other = ".*" if len(self.separator) > 1 else f"[^{self.separator}]*"
        values = (f"(?:{self.patterns.get(name, other)})" for name in self.names)
        return f"^{self.separator.join(values)}$"

    def _matches(self, line: str) -> bool:
        return re.match(self._line_pattern(), line) is not None


def to_iso(text: pl.Expr, time_format: str) -> pl.Expr:
    """Return times of a format as ISO 8601 in UTC; text of another format stays as it is."""
    times = text.str.to_datetime(time_format, strict=False, time_unit="ms")
    return pl.coalesce(times.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), text)


def read_sample(file: LogFile) -> list[str]:
    """Return the first lines that are not blank, at most `SAMPLE_LINES`.

    Raises:
        DataError: the file cannot be read, is empty or starts with a blank line.
    """
    first_line = file.first_line
    with convert_read_errors(file.name, lambda: diagnose_encoding(file)):
        lines = file.lines().slice(1, SAMPLE_LINES - 1).collect()["line"]
    return [first_line, *(line for line in lines if line.strip())]


def utf8_or_latin1(file: LogFile) -> LogFile:
    """Return the file, read as Latin-1 where it is not UTF-8."""
    try:
        diagnose_encoding(file)
    except DataError:
        return LogFile(file.path, "latin-1")
    return file


def split_line(line: str, separator: str) -> list[str]:
    """Return the values of a line without quotes."""
    return line.split() if separator == WHITESPACE else line.split(separator)


def numbered_lines(file: LogFile, header_lines: int = 0) -> pl.LazyFrame:
    """Return number (from 1) and text of each line that is not blank, as `number` and `line`."""
    lines = file.lines().with_row_index("number", offset=1).slice(header_lines)
    return lines.filter(pl.col("line").str.strip_chars() != "")


def split_lines(
    file: LogFile, separator: str, n_values: int, header_lines: int = 0
) -> pl.LazyFrame:
    """Return number, line, value_0 ... and `complete`, whether the line has `n_values` values."""
    line = pl.col("line")
    if separator == WHITESPACE:
        line, separator = line.str.strip_chars().str.replace_all(r"\s+", "\t"), "\t"
    names = [f"value_{index}" for index in range(n_values)]
    values = line.str.split_exact(separator, n_values).struct.rename_fields([*names, "rest"])
    complete = pl.col(names[-1]).is_not_null() & pl.col("rest").is_null()
    return (
        numbered_lines(file, header_lines)
        .with_columns(values=values)
        .unnest("values")
        .with_columns(complete=complete)
    )


def check_lines(file: LogFile, lines: pl.LazyFrame, accepted: pl.Expr, expected: str) -> None:
    """Raise a DataError for the first line that is not accepted; `expected` describes a line."""
    with convert_read_errors(file.name, lambda: diagnose_encoding(file)):
        rejected = lines.filter(~accepted).select("number", "line").head(1).collect()
    if len(rejected):
        raise DataError(
            f"{file.name}:{rejected['number'][0]}: the line is not {expected} "
            f"({clipped(repr(rejected['line'][0]))}). Correct the line, or choose another --format."
        )


def table_of_lines(file: LogFile, frame: pl.LazyFrame, layout: str) -> Table:
    """Return a table whose rows are found by their column `number`, the line in the file."""
    names = tuple(name for name in frame.collect_schema().names() if name != "number")
    return Table(
        file.name,
        frame.select(names),
        names,
        locate_lines(file, frame),
        lambda: diagnose_encoding(file),
        layout=layout,
    )


def locate_lines(file: LogFile, frame: pl.LazyFrame) -> Callable[[int], str]:
    """Return a function from a row of a frame with `number` to `FILE:LINE`."""

    def locate(row: int) -> str:
        number = frame.select("number").slice(row, 1).collect(engine="streaming")["number"][0]
        return f"{file.name}:{number}"

    return locate
