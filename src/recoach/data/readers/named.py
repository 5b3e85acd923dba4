"""Known data sets whose header, or whose JSON keys, name the columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from recoach.data.readers.table import Table, convert_read_errors
from recoach.errors import DataError, listed


def select_columns(
    table: Table,
    needed: Sequence[str],
    columns: Mapping[str, pl.Expr],
    layout: str,
    *,
    where: pl.Expr | None = None,
) -> Table:
    """Return a table with columns of Recoach, computed from the columns of a data set.

    Args:
        table: the file with the names of its header.
        needed: the names that the data set has.
        columns: name in Recoach -> expression over the names of the file.
        layout: what is taken, for the report.
        where: which rows of the file are taken; None takes all.

    Raises:
        DataError: a needed name is missing.
    """
    missing = [name for name in needed if name not in table.names]
    if missing:
        raise DataError(
            f"{table.label}:1: there is no column {missing[0]!r} among {listed(table.names)}. This "
            "is no file of the data set that --format names; leave the option out."
        )
    with convert_read_errors(table.label, table.diagnose):
        table.check_used(needed)
    taken = replace(table, names=tuple(columns), layout=layout, check_used=lambda _: None)
    if where is None:
        return replace(taken, frame=table.frame.select(**columns))
    rows = table.frame.with_row_index().filter(where)

    def locate(row: int) -> str:
        return table.locate(rows.select("index").slice(row, 1).collect()["index"][0])

    return replace(taken, frame=rows.select(**columns), locate=locate, n_rows=None)


def has_keys(line: str, keys: set[str]) -> bool:
    """Return whether a line is a JSON object with these keys."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and keys <= set(record)
