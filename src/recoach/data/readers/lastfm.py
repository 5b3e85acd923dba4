"""Last.fm 1K: what users listened to, with MusicBrainz ids where they are known."""

import re
from collections.abc import Sequence

import polars as pl

from recoach.data.readers.lines import check_lines, numbered_lines, table_of_lines
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_LINE = (
    rf"^(?P<user>user_\d{{6}})\t(?P<time>\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\t(?:{_UUID})?\t"
    rf"(?P<artist>.*)\t(?P<id>(?:{_UUID})?)\t(?P<title>.*)$"
)


def open_lastfm(file: LogFile) -> Table:
    """Open `userid-timestamp-artid-artname-traid-traname.tsv`.

    An item is a track: its MusicBrainz id, or "artist - track" where it has none. Names may hold
    tabs.
    """
    fields = numbered_lines(file).with_columns(fields=pl.col("line").str.extract_groups(_LINE))
    values = fields.unnest("fields")
    expected = "user, time, artist id, artist, track id, track (tabs)"
    check_lines(file, values, pl.col("user").is_not_null(), expected)
    names = pl.concat_str("artist", pl.lit(" - "), "title")
    rows = values.select(
        "number",
        user_id="user",
        item_id=pl.when(pl.col("id") == "").then(names).otherwise(pl.col("id")),
        timestamp="time",
    )
    return table_of_lines(file, rows, "user, time, track id, or 'artist - track' without an id")


def is_lastfm(_: str, lines: Sequence[str]) -> bool:
    """Return whether all lines are those of Last.fm 1K."""
    return all(re.match(_LINE, line) for line in lines)
