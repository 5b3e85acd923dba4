"""Sequence files: a user and the user's items on each line, separated by spaces or tabs."""

import polars as pl

from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile, diagnose_encoding, scan_lines


def open_sequence(file: LogFile) -> Table:
    """Open a sequence file; lines without items are skipped.

    Raises:
        DataError: the first line is blank or cannot be read.
    """
    file.first_line  # noqa: B018 - raises for empty and unreadable files
    tokens = pl.col("line").str.replace_all(r"\s+", " ").str.strip_chars().str.split(" ")
    frame = (
        scan_lines(file.path)
        .select(tokens=tokens)
        .select(user_id=pl.col("tokens").list.first(), item_id=pl.col("tokens").list.slice(1))
        .filter(pl.col("item_id").list.len() > 0)
        .explode("item_id")
    )
    return Table(
        file.name,
        frame,
        ("user_id", "item_id"),
        lambda row: f"{file.name}, interaction {row + 1}",
        lambda: diagnose_encoding(file.path),
    )
