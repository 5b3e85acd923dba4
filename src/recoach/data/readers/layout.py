"""Recognise the layout of text from its content: separator, header, sequences of items.

What cannot be decided is refused: a wrong reading would turn times, ratings or places into items.
"""

import csv
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import polars as pl

from recoach.data.columns import is_usual_name
from recoach.data.readers.lines import WHITESPACE, split_line
from recoach.data.readers.table import convert_read_errors
from recoach.data.readers.text import LogFile, diagnose_encoding
from recoach.errors import DataError, clipped

TABLE_SEPARATORS = ("\t", ",", ";", "|", "::", WHITESPACE)
"""Separators of tables; where several fit, the one with the most values, the first among equals."""

NAME_COLUMNS = "Name the columns with --columns user_id,item_id,... (- skips one)"
HEADER_OR_COLUMNS = f"{NAME_COLUMNS}, or write a header."
SEQUENCE_OR_COLUMNS = (
    "If each line is 'user item item ...', use --format sequence; if each line is one interaction, "
    f"{NAME_COLUMNS[0].lower()}{NAME_COLUMNS[1:]}."
)

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?/\d\d?/\d{4}( .*)?|\d\d?:\d\d(:\d\d.*)?")
_DECIMAL = re.compile(r"[-+]?\d+\.\d+")
_PAIR = re.compile(r"\d+:-?\d+(\.\d+)?")
_EPOCH = re.compile(r"\d{9,10}|\d{13}")
_FEW = 10
"""A column with at most so many different numbers may hold ratings or counts."""
_ENOUGH_LINES = 3
"""Fewer lines may start with the number of their values by chance."""
_MANY_COLUMNS = 5
"""Fewer columns of numbers may be those of a table: a row number, users, items, categories."""


_MAGIC = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x04": "a Python pickle",
    b"SQLite": "an SQLite database",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"ARROW1": "an Arrow file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
}
_PARQUET = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Return whether a file starts as Parquet files do."""
    return _first_bytes(path).startswith(_PARQUET)


def check_text(file: LogFile) -> None:
    """Raise a DataError for files that are known not to be the text of a log."""
    start = _first_bytes(file.path)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is not None:
        raise DataError(f"{file.name}: this is {kind}. Unpack it, or convert it to CSV or Parquet.")
    line = file.first_line.lower().lstrip()
    if line.startswith(("<!doctype", "<html", "<?xml")):
        raise DataError(f"{file.name}:1: this is a web page or XML, not a log. Download it again.")
    if line.startswith("sep="):
        raise DataError(
            f"{file.name}:1: line 1 is Excel's note of the separator ({line!r}). Remove it."
        )
    if line.startswith("version https://git-lfs"):
        raise DataError(
            f"{file.name}:1: this is a pointer of Git LFS, not the file. Run git lfs pull."
        )


def check_comment(file: LogFile) -> None:
    """Raise a DataError if line 1 starts as a comment."""
    if file.first_line.startswith(("#", "%", "//")):
        line = clipped(repr(file.first_line), 80)
        raise DataError(f"{file.name}:1: line 1 is a comment ({line}). Remove it.")


def find_separator(lines: Sequence[str], is_header: Callable[[list[str]], bool]) -> str | None:
    """Return the separator of a table; None if no separator gives two values or more.

    A separator that makes line 1 a header is taken; otherwise one that gives all lines the same
    number of values.
    """
    rows = {separator: split_values(lines, separator) for separator in TABLE_SEPARATORS}
    regular = [key for key, values in rows.items() if len({len(row) for row in values}) == 1]
    with_header = [
        key
        for key, values in rows.items()
        if _is_header(values[0], is_header) and (key != WHITESPACE or key in regular)
    ]
    usable = [key for key in with_header or regular if len(rows[key][0]) > 1]
    if WHITESPACE in usable and len(usable) > 1:
        usable.remove(WHITESPACE)  # blanks also stand within values
    return max(usable, key=lambda key: len(rows[key][0]), default=None)


def split_values(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Return the values of each line; quotes are read where the separator is one character."""
    if separator == WHITESPACE or len(separator) > 1:
        return [split_line(line, separator) for line in lines]
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error:
        return [line.split(separator) for line in lines]


def check_header(
    file: LogFile, rows: Sequence[Sequence[str]], is_header: Callable[[list[str]], bool]
) -> None:
    """Raise a DataError if line 1 has no usual column name and looks like data.

    Args:
        file: the file, for the message.
        rows: the values of the first lines.
        is_header: whether names have the columns that are needed.
    """
    if not _is_header(rows[0], is_header) and _looks_like_data(rows):
        raise DataError(
            f"{file.name}:1: line 1 looks like data ({clipped(repr(file.first_line))}). "
            f"{HEADER_OR_COLUMNS}"
        )


def find_header(rows: Sequence[Sequence[str]], is_header: Callable[[list[str]], bool]) -> bool:
    """Return whether line 1 is certainly a header, by usual names or by types."""
    if _is_header(rows[0], is_header):
        return True
    if any(map(_is_value, rows[0])):
        return False
    below = list(zip(*rows[1:], strict=False))
    return any(all(map(_is_value, values)) for values in below)


def is_sequence_file(file: LogFile, lines: Sequence[str]) -> bool:
    """Return whether a file without a table is one of sequences (`user item item ...`).

    False if the first values are no users, because they repeat. Lines must have different numbers
    of values, or else items that occur in several columns.

    Raises:
        DataError: values look like times, decimals or lists, or every line has the same number of
            values and could be one interaction.
    """
    check_comment(file)
    tokens = [line.split() for line in lines]
    _reject_header(file, tokens)
    _reject_values(file, tokens)
    _reject_counts(file, tokens)
    text = pl.col("line").str.strip_chars().str.replace_all(r"\s+", " ")
    rows = file.lines().select(text=text).filter(pl.col("text") != "")
    values = pl.col("text").str.count_matches(" ", literal=True) + 1
    with convert_read_errors(file.name, lambda: diagnose_encoding(file)):
        shortest, longest, n_lines, n_users = (
            rows.select(
                shortest=values.min(),
                longest=values.max(),
                lines=pl.len(),
                users=pl.col("text").str.split(" ").list.first().n_unique(),
            )
            .collect(engine="streaming")
            .row(0)
        )
    if longest == 1:
        raise DataError(
            f"{file.name}:1: one value a line ({clipped(repr(lines[0]))}). Write a user and an "
            "item for each interaction, separated by a comma or a tab."
        )
    if shortest == longest and not _share_items(tokens):
        raise DataError(
            f"{file.name}: each line has {longest} values, and line 1 names no user and item (map "
            f"other names with --column user_id=NAME item_id=NAME). {SEQUENCE_OR_COLUMNS}"
        )
    return bool(n_users == n_lines)


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        return b""  # reading the lines reports it


def _is_header(names: Sequence[str], is_header: Callable[[list[str]], bool]) -> bool:
    stripped = [name.strip().strip('"') for name in names]
    return is_header(stripped) or any(is_usual_name(name) for name in stripped)


def _is_value(text: str) -> bool:
    """Return whether a text is a number or a date, which no column is called."""
    stripped = text.strip()
    return bool(_NUMBER.fullmatch(stripped) or _DATE.fullmatch(stripped))


def _looks_like_data(rows: Sequence[Sequence[str]]) -> bool:
    if any(map(_is_value, rows[0])):
        return True
    columns = zip(rows[0], zip(*rows[1:], strict=False), strict=False)
    return any(first and first in values for first, values in columns)


def _reject_values(file: LogFile, tokens: Sequence[Sequence[str]]) -> None:
    """Raise a DataError for the first value that no item of a sequence has."""
    for number, line in enumerate(tokens, 1):
        for token in line:
            kind = _kind_of_other_value(token)
            if kind:
                raise DataError(
                    f"{file.name}: {clipped(repr(token))} in line {number} looks like {kind}, and "
                    f"the file has no header. {SEQUENCE_OR_COLUMNS}"
                )
    rows = [line[1:] for line in tokens if len(line) > 1]
    for start in (0, 1):
        if rows and all(len(row) % 2 == 0 and _are_times(row[start::2]) for row in rows):
            raise DataError(
                f"{file.name}: every second value looks like a time. Write one interaction a line: "
                "user_id,item_id,timestamp."
            )


def _reject_header(file: LogFile, tokens: Sequence[Sequence[str]]) -> None:
    """Raise a DataError if line 1 has names of columns, or words where all below are numbers."""
    named = any(map(is_usual_name, tokens[0]))
    below = [token for line in tokens[1:] for token in line]
    words = not any(map(_NUMBER.fullmatch, tokens[0]))
    if named or (words and below and all(map(_NUMBER.fullmatch, below))):
        line = clipped(repr(file.first_line), 80)
        raise DataError(
            f"{file.name}:1: line 1 looks like a header ({line}), but other lines do not have "
            "as many values. Give each line a value for each column, or remove line 1."
        )


def _reject_counts(file: LogFile, tokens: Sequence[Sequence[str]]) -> None:
    """Raise a DataError if each line has the number of its items, as in `user 3 item item item`."""
    if len(tokens) < _ENOUGH_LINES or len({len(line) for line in tokens}) == 1:
        return
    for index, place in enumerate(("first", "second")):
        if all(len(line) > 1 and line[index] == str(len(line) - index - 1) for line in tokens):
            raise DataError(
                f"{file.name}: the {place} value of each line is the number of values after it. "
                "Remove it, so that each line is 'user item item ...', or use --format sequence if "
                "it is an id."
            )


def _kind_of_other_value(token: str) -> str:
    if _DATE.fullmatch(token):
        return "a time"
    if _DECIMAL.fullmatch(token):
        return "a decimal number"
    if re.search(r"[,;|\[\](){}]|::|.:$", token) or _PAIR.fullmatch(token):
        return "several values"
    return ""


def _are_times(values: Sequence[str]) -> bool:
    return all(map(_EPOCH.fullmatch, values)) and all(
        int(earlier) <= int(later) for earlier, later in pairwise(values)
    )


def _share_items(tokens: Sequence[Sequence[str]]) -> bool:
    """Return whether the columns after the first hold the same items, not ratings or times."""
    columns = [set(values) for values in zip(*(line[1:] for line in tokens), strict=True)]
    all_numbers = all(all(map(_NUMBER.fullmatch, values)) for values in columns)
    if len(columns) < (_MANY_COLUMNS if all_numbers else 2):
        return False
    for index, values in enumerate(columns):
        others = set().union(*columns[:index], *columns[index + 1 :])
        few_numbers = len(values) <= _FEW and all(map(_NUMBER.fullmatch, values))
        if few_numbers or 2 * len(values & others) < len(values):
            return False
    return True
