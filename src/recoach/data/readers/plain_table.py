"""Tables in text: the separator is found in the file, or the columns are named by the user."""

from collections.abc import Callable, Sequence

from recoach.data.columns import USUAL_NAMES, is_usual_name
from recoach.data.readers.delimited import open_delimited
from recoach.data.readers.layout import (
    TABLE_SEPARATORS,
    check_comment,
    check_header,
    find_separator,
    split_values,
)
from recoach.data.readers.lines import SKIPPED, WHITESPACE, LineLayout, read_sample
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile
from recoach.errors import DataError, clipped, suggestion

_WORDS = {
    ",": "commas",
    "\t": "tabs",
    ";": "semicolons",
    "|": "vertical bars",
    "::": "double colons",
    WHITESPACE: "blanks",
}


def open_plain_table(
    file: LogFile, is_header: Callable[[list[str]], bool] = lambda _: False
) -> Table:
    """Open a table with a header; the separator is the one that the header or all lines have.

    Raises:
        DataError: line 1 looks like data, or there is one column only.
    """
    lines = read_sample(file)
    separator = find_separator(lines, is_header)
    if separator is None:
        check_comment(file)
        return open_delimited(file, ",")  # raises: only one column
    check_header(file, split_values(lines, separator), is_header)
    if len(separator) == 1 and separator != WHITESPACE:
        return open_delimited(file, separator)
    names = tuple(split_values(lines[:1], separator)[0])
    description = f"{len(names)} values separated by {_WORDS[separator]}"
    return LineLayout(description, separator, names).open(file, header_lines=1)


def open_headerless(file: LogFile, header: Sequence[str]) -> Table:
    """Open a table without a header, whose columns are `header`; `-` and `_` are not read.

    Raises:
        DataError: a name is unknown or occurs twice, line 1 is a header, or no separator gives
            every line as many values as there are names.
    """
    _check_names(header)
    lines = read_sample(file)
    separator = _separator_for(file, lines, len(header))
    first = [value.strip().lower() for value in split_values(lines[:1], separator)[0]]
    named = next((value for value in first if is_usual_name(value)), None)
    if named is not None:
        raise DataError(
            f"{file.name}:1: line 1 is a header with the column {named!r}, and --columns names the "
            "columns of a file without one. Use --column user_id=NAME item_id=NAME, or remove the "
            "line."
        )
    taken = ", ".join("-" if name in SKIPPED else name for name in header)
    description = f"{taken} separated by {_WORDS[separator]}"
    if len(separator) > 1 or separator == WHITESPACE:
        return LineLayout(description, separator, tuple(header)).open(file)
    names = [f"(skipped {n})" if name in SKIPPED else name for n, name in enumerate(header, 1)]
    return open_delimited(file, separator, header=names, layout=description)


def _check_names(header: Sequence[str]) -> None:
    for name in header:
        if name in SKIPPED:
            continue
        if name not in USUAL_NAMES:
            raise DataError(
                f"--columns: {name!r} is not a column of Recoach. "
                f"{suggestion(name, USUAL_NAMES)} - skips a column."
            )
        if list(header).count(name) > 1:
            raise DataError(f"--columns: {name} occurs twice. Name each column once, or - to skip.")


def _separator_for(file: LogFile, lines: Sequence[str], n_columns: int) -> str:
    for separator in TABLE_SEPARATORS:
        if all(len(values) == n_columns for values in split_values(lines, separator)):
            return separator
    separator = find_separator(lines, lambda _: False) or ","
    rows = split_values(lines, separator)
    number, values = next(
        (number, values) for number, values in enumerate(rows, 1) if len(values) != n_columns
    )
    raise DataError(
        f"{file.name}: --columns names {n_columns} columns, but interaction {number} has "
        f"{len(values)} value{'s' * (len(values) > 1)} separated by {_WORDS[separator]} "
        f"({clipped(repr(lines[number - 1]))}). Name every column in the file's order; - skips one."
    )
