"""Sequence files: a line of items for each user or session, separated by blanks or tabs."""

import polars as pl

from recoach.data.readers.lines import locate_lines, numbered_lines
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile, check_control_characters, diagnose_encoding


def open_sequence(file: LogFile) -> Table:
    """Open a file of lines `user item item ...`; lines without items are skipped.

    Raises:
        DataError: the first line is blank or cannot be read.
    """
    user, items = pl.col("values").list.first(), pl.col("values").list.slice(1)
    return _open(file, user, items, "sequences: user item item ... in each line")


def open_sessions(file: LogFile) -> Table:
    """Open a file of lines `item item ...`, each a session named by file and line: `test:1`.

    Raises:
        DataError: the first line is blank or cannot be read.
    """
    session = pl.concat_str(pl.lit(f"{file.path.name.split('.')[0]}:"), pl.col("number"))
    return _open(file, session, pl.col("values"), "sessions: item item ... in each line, no users")


def _open(file: LogFile, user: pl.Expr, items: pl.Expr, layout: str) -> Table:
    file.first_line  # noqa: B018 - raises for empty and unreadable files
    with convert_read_errors(file.name, lambda: diagnose_encoding(file)):
        check_control_characters(file)
    values = pl.col("line").str.replace_all(r"\s+", " ").str.strip_chars().str.split(" ")
    rows = (
        numbered_lines(file)
        .with_columns(values=values)
        .select("number", user_id=user, item_id=items)
        .filter(pl.col("item_id").list.len() > 0)
        .explode("item_id")
    )
    locate = locate_lines(file, rows)
    return Table(
        file.name,
        rows.select("user_id", "item_id"),
        ("user_id", "item_id"),
        locate,
        layout=layout,
    )
