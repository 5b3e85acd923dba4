"""Otto: a JSON object a line with a session and its events."""

import json
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from recoach.data.readers.jsonl import diagnose_jsonl
from recoach.data.readers.lines import numbered_lines, table_of_lines
from recoach.data.readers.named import has_keys
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile
from recoach.errors import DataError, clipped

_EVENT = pl.Struct({"aid": pl.Int64, "ts": pl.Int64, "type": pl.String})
_SESSION = pl.Struct({"session": pl.Int64, "events": pl.List(_EVENT)})


def open_otto(file: LogFile) -> Table:
    """Open `otto-recsys-train.jsonl`: sessions are the users, types are clicks, carts, orders."""
    rows = (
        numbered_lines(file)
        .select("number", record=pl.col("line").str.json_decode(_SESSION))
        .unnest("record")
        .filter(pl.col("events").list.len().fill_null(1) > 0)
        .explode("events")
        .unnest("events")
        .rename({"session": "user_id", "aid": "item_id", "ts": "timestamp", "type": "event_type"})
    )
    table = table_of_lines(file, rows, "session and its events: item, milliseconds, type")
    return replace(table, diagnose=lambda: _diagnose(file))


def is_otto(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is a JSON object with a session and its events."""
    return has_keys(lines[0], {"session", "events"})


def _diagnose(file: LogFile) -> None:
    """Raise a DataError for the first line that is no session with a list of events."""
    diagnose_jsonl(file)
    for number, line in numbered_lines(file).collect().iter_rows():
        events = json.loads(line).get("events")
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise DataError(
                f"{file.name}:{number}: events is no list of objects "
                f"({clipped(repr(events), 80)}). "
                'Write {"aid": ..., "ts": ..., "type": ...} for each.'
            )
