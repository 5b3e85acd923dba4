"""Book ratings: Goodreads and Book-Crossing, where a rating of 0 means that none was given."""

import re
from collections.abc import Sequence

import polars as pl

from recoach.data.readers.jsonl import open_jsonl
from recoach.data.readers.lines import (
    check_lines,
    numbered_lines,
    table_of_lines,
    to_iso,
    utf8_or_latin1,
)
from recoach.data.readers.named import has_keys, select_columns
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_GOODREADS_TIME = "%a %b %d %H:%M:%S %z %Y"
_BX_NAMES = ("User-ID", "ISBN", "Book-Rating")
_BX_LINE = r'^"?(?P<user_id>\d+)"?[;,]"?(?P<item_id>.+?)"?[;,]"?(?P<rating>\d+)"?$'


def open_goodreads(file: LogFile) -> Table:
    """Open `goodreads_interactions_*.json` or `goodreads_reviews_*.json`.

    The time is `date_added`. The event type is rating where one is given, else read or shelf.
    """
    table = open_jsonl(file)
    unrated = pl.lit("shelf")
    if "is_read" in table.names:
        unrated = pl.when(pl.col("is_read") == "true").then(pl.lit("read")).otherwise(unrated)
    columns = {
        "user_id": pl.col("user_id"),
        "item_id": pl.col("book_id"),
        "timestamp": to_iso(pl.col("date_added"), _GOODREADS_TIME),
        "rating": pl.col("rating"),
        "event_type": pl.when(pl.col("rating") != "0").then(pl.lit("rating")).otherwise(unrated),
    }
    needed = ("user_id", "book_id", "date_added", "rating")
    return select_columns(table, needed, columns, "user, book, date added, rating (0: none)")


def is_goodreads(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is a JSON object with the keys of Goodreads."""
    return has_keys(lines[0], {"user_id", "book_id", "date_added"})


def open_book_crossing(file: LogFile) -> Table:
    """Open `BX-Book-Ratings.csv`, in Latin-1 or UTF-8.

    The event type is explicit where a rating is given, implicit where it is 0.
    """
    file = utf8_or_latin1(file)
    lines = numbered_lines(file, header_lines=1)
    values = lines.with_columns(fields=pl.col("line").str.extract_groups(_BX_LINE)).unnest("fields")
    check_lines(file, values, pl.col("user_id").is_not_null(), '"user";"ISBN";"rating"')
    kind = pl.when(pl.col("rating") == "0").then(pl.lit("implicit")).otherwise(pl.lit("explicit"))
    rows = values.select("number", "user_id", "item_id", "rating", event_type=kind)
    return table_of_lines(file, rows, "user, ISBN, rating (0: none, event type implicit)")


def is_book_crossing(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is the header of Book-Crossing's ratings."""
    return tuple(name.strip('"') for name in re.split("[;,]", lines[0])) == _BX_NAMES
