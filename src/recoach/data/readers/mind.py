"""MIND's `behaviors.tsv`: impressions of news, of which some are clicked."""

from collections.abc import Sequence

import polars as pl

from recoach.data.readers.lines import LineLayout, table_of_lines, to_iso
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_LAYOUT = LineLayout(
    "impression, user, time, history, news with -0 or -1 (tabs)",
    "\t",
    ("impression_id", "user_id", "timestamp", "history", "news"),
    {
        "impression_id": r"\d+",
        "user_id": r"U\d+",
        "timestamp": r"\d\d?/\d\d?/\d{4} \d\d?:\d\d:\d\d [AP]M",
        "news": r"N\d+-[01]( N\d+-[01])*",
    },
)


def open_mind(file: LogFile) -> Table:
    """Open impressions: each click is an interaction, with its impression and position from 1.

    News that were shown and not clicked, and the clicks before the first impression (`history`,
    which have no times), are not taken.

    Raises:
        DataError: a line is no impression, or the clicks are not marked, as in MIND's test set.
    """
    news = pl.col("news").str.split(" ")
    rows = (
        _LAYOUT.rows(file)
        .with_columns(item_id=news, position=pl.int_ranges(1, news.list.len() + 1))
        .explode("item_id", "position")
        .filter(pl.col("item_id").str.ends_with("-1"))
        .select(
            "number",
            "user_id",
            pl.col("item_id").str.strip_suffix("-1"),
            to_iso(pl.col("timestamp"), "%m/%d/%Y %I:%M:%S %p"),
            "impression_id",
            "position",
        )
    )
    return table_of_lines(file, rows, "clicked news of impressions; others and history not taken")


def is_mind(_: str, lines: Sequence[str]) -> bool:
    """Return whether all lines are impressions with marked clicks."""
    return _LAYOUT.matches(lines)
