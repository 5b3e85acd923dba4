"""The Netflix prize: ratings in blocks under a line with the item, such as `1:`."""

import re
from collections.abc import Sequence

import polars as pl

from recoach.data.readers.lines import check_lines, numbered_lines, table_of_lines
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_ITEM = r"^(\d+):\s*$"
_RATING = r"^(?P<user_id>\d+),(?P<rating>[1-5]),(?P<timestamp>\d{4}-\d\d-\d\d)\s*$"
_LAYOUT = "blocks of user,rating,date under the item, such as '1:'"


def open_netflix(file: LogFile) -> Table:
    """Open `combined_data_1.txt` or `mv_0000001.txt`; line 1 names the first item."""
    line = pl.col("line")
    lines = numbered_lines(file)
    accepted = line.str.contains(_RATING) | line.str.contains(_ITEM)
    starts = (pl.col("number") > 1) | line.str.contains(_ITEM)
    check_lines(file, lines, accepted & starts, f"one of {_LAYOUT}")
    rows = (
        lines.with_columns(item_id=line.str.extract(_ITEM).forward_fill())
        .filter(line.str.contains(_RATING))
        .with_columns(fields=line.str.extract_groups(_RATING))
        .unnest("fields")
        .select("number", "user_id", "item_id", "rating", "timestamp")
    )
    return table_of_lines(file, rows, _LAYOUT)


def is_netflix(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 names an item and all others name one or are ratings."""
    return bool(re.match(_ITEM, lines[0])) and all(
        re.match(_RATING, line) or re.match(_ITEM, line) for line in lines
    )
