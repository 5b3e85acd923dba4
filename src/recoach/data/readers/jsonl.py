"""JSON Lines: one object a line."""

import glob
import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile, diagnose_encoding, scan_lines
from recoach.errors import DataError, clipped


def open_jsonl(file: LogFile) -> Table:
    """Open a JSON Lines file; the keys of the first object are the columns.

    Raises:
        DataError: the first line is not a JSON object.
    """
    path = file.path
    first_record = _parse(file.name, 1, file.first_line)
    return Table(
        file.name,
        pl.scan_ndjson(glob.escape(str(path)), schema=dict.fromkeys(first_record, pl.String)),
        tuple(first_record),
        lambda row: f"{file.name}:{_line_number(path, row)}",
        lambda: diagnose_jsonl(path),
        lambda name: _check_types(path, name, first_record[name]),
    )


def _line_number(path: Path, row: int) -> int:
    blank = pl.col("line").str.strip_chars() == ""
    lines = scan_lines(path).with_row_index().filter(~blank).slice(row, 1).collect()
    return int(lines["index"][0]) + 1


def _parse(label: str, line_number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(
            f"{label}:{line_number}: the line is not a JSON object ({line[:40]!r}). Write one "
            "object a line."
        )
    return record


def diagnose_jsonl(path: Path) -> None:
    """Raise a DataError for the first line that is not UTF-8 or not a JSON object."""
    diagnose_encoding(path)
    for number, line in enumerate(scan_lines(path).collect()["line"], 1):
        if line.strip():
            _parse(path.name, number, line)


def _check_types(path: Path, name: str, first_value: object) -> None:
    """Raise a DataError for the first line where `name` is text and was a number, or vice versa."""
    other_kind = r'[^"\sn]' if isinstance(first_value, str) else '"'
    suspect = pl.col("line").str.contains(rf'"{re.escape(name)}"\s*:\s*{other_kind}')
    lines = scan_lines(path).with_row_index().filter(suspect).collect(engine="streaming")
    for index, line in lines.iter_rows():
        value = _parse(path.name, index + 1, line).get(name)
        if value is not None and isinstance(value, str) != isinstance(first_value, str):
            raise DataError(
                f"{path.name}:{index + 1}: {name} is {clipped(repr(value))}, but "
                f"{clipped(repr(first_value))} in line 1. Write numbers or text throughout, not "
                "both."
            )
