"""The error message for the first bad value of a column, with its line."""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from recoach.data.readers.table import Table
from recoach.errors import clipped


class BadValue(NamedTuple):
    """What is wrong with the values of a column of Recoach.

    Attributes:
        column: Recoach's name of the column.
        is_bad: which values, an expression over the source's values under Recoach's names.
        remedy: what to do, a sentence.
        reason: what is wrong, to follow "column x is 'value'"; "" where the value says it.
    """

    column: str
    is_bad: pl.Expr
    remedy: str
    reason: str = ""


def first_bad_value(table: Table, columns: Mapping[str, str], bad: BadValue) -> str | None:
    """Return the message for the first bad value; None if there is none.

    `columns` maps Recoach's names of all columns that are read to the names in the source.
    """
    rows = table.frame.select(**{ours: pl.col(name) for ours, name in columns.items()})
    rows = rows.with_row_index()
    first = rows.filter(bad.is_bad).select("index", bad.column).head(1).collect()
    if not len(first):
        return None
    row, values = first["index"][0], first[bad.column]
    # Python has no date after the year 9999: the message then quotes the number of the timestamp.
    value = (values.to_physical() if values.dtype.is_temporal() else values)[0]
    source_name = columns[bad.column]
    name = source_name if source_name == bad.column else f"{source_name} ({bad.column})"
    is_empty = value is None or (isinstance(value, str) and not value.strip())
    problem = "is empty" if is_empty else f"is {clipped(repr(value))}{bad.reason}"
    return f"{table.locate(row)}: column {name} {problem}. {bad.remedy}"
