"""JSON Lines: one object a line."""

import glob
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import polars as pl

from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile, check_control_characters, diagnose_encoding
from recoach.errors import DataError, clipped

_STRING = r'"(?:[^"\\]|\\.)*"'
_SCALAR = rf'\s*(?:{_STRING}|[^"\\{{}}\[\],:]+)\s*'
_OBJECT = rf"\s*\{{\s*(?:{_STRING}\s*:{_SCALAR}(?:,\s*{_STRING}\s*:{_SCALAR})*)?\}}\s*"
_ARRAY = rf"\s*\[\s*(?:(?:{_SCALAR}|{_OBJECT})(?:,(?:{_SCALAR}|{_OBJECT}))*)?\]\s*"
_SIMPLE_VALUE = f"(?:{_SCALAR}|{_OBJECT}|{_ARRAY})"
_MAX_PATTERN_KEYS = 64
"""More keys make the pattern of a line too large."""


def open_jsonl(file: LogFile) -> Table:
    """Open a JSON Lines file; the keys of all its objects are the columns.

    Raises:
        DataError: the first line is not a JSON object, or the file cannot be read.
    """
    if file.first_line.lstrip().startswith("["):
        raise DataError(
            f"{file.name}:1: the file is a JSON array. Write one object a line, without brackets "
            "around and commas between them."
        )
    first_record = _parse(file.name, 1, file.first_line)
    with convert_read_errors(file.name, lambda: diagnose_jsonl(file)):
        others = file.lines().with_row_index("number", 1)
        others = others.filter(~pl.col("line").str.contains(_simple_line(first_record)))
        texts = others.select(key=pl.col("line").str.extract_all(rf"{_STRING}\s*:"))
        keys = texts.explode("key").unique().collect(engine="streaming")["key"]
        names = (*first_record, *_later_keys(file, keys.drop_nulls().to_list(), first_record))
    return Table(
        file.name,
        _scan(file, names),
        names,
        lambda row: f"{file.name}:{_line_number(file, row)}",
        lambda: diagnose_jsonl(file),
        lambda name: _check_types(file, name, first_record.get(name)),
        check_used=lambda used: _check_repeated_keys(file, others, used) if len(keys) else None,
    )


def _scan(file: LogFile, names: Sequence[str]) -> pl.LazyFrame:
    # polars has no option to take the characters of a pattern as those of a name
    path = glob.escape(str(file.text_path.absolute()))
    return pl.scan_ndjson(path, schema=dict.fromkeys(names, pl.String))


def _later_keys(
    file: LogFile, other_keys: Sequence[str], first_record: dict[str, Any]
) -> list[str]:
    """Return the keys with a value in some object that the first object lacks, sorted.

    `other_keys` are candidates: quoted, with the colon behind them.
    """
    candidates: set[str] = set()
    for key in other_keys:
        try:
            candidates.add(json.loads(key.rstrip(": \t"), strict=False))
        except ValueError:
            continue  # text between two strings
    later = sorted(candidates - set(first_record))
    if not later:
        return []
    # Keys of nested objects and text that looks like a key have no value at the top.
    numbered = {name: f"{number}" for number, name in enumerate(later)}
    has_value = _scan(file, later).select(
        pl.col(name).is_not_null().any().alias(number) for name, number in numbered.items()
    )
    flags = has_value.collect(engine="streaming").row(0, named=True)
    return [name for name, number in numbered.items() if flags[number]]


def _simple_line(first_record: dict[str, Any]) -> str:
    """Return the regular expression of a line with these keys, once each and in order.

    It does not match all such lines: values are nested once at most.
    """
    if not 0 < len(first_record) <= _MAX_PATTERN_KEYS:
        return r"^\s*$"
    pairs = (
        rf"\s*{re.escape(json.dumps(key, ensure_ascii=False))}\s*:{_SIMPLE_VALUE}"
        for key in first_record
    )
    return rf"^\s*(?:\{{{','.join(pairs)}\}}\s*)?$"


def _line_number(file: LogFile, row: int) -> int:
    blank = pl.col("line").str.strip_chars() == ""
    lines = file.lines().with_row_index().filter(~blank).slice(row, 1).collect()
    return int(lines["index"][0]) + 1


def _parse(label: str, line_number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_reject_constant)
    except _NotInJSONError as error:
        raise DataError(
            f"{label}:{line_number}: the line holds {error}, which is not in JSON. Write null."
        ) from None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(
            f"{label}:{line_number}: the line is not a JSON object ({line[:40]!r}). Write one "
            "object a line."
        )
    return record


class _NotInJSONError(Exception):
    """A word such as NaN, which Python writes and reads as if it were JSON."""


def _reject_constant(word: str) -> NoReturn:
    raise _NotInJSONError(word)


def diagnose_jsonl(file: LogFile) -> None:
    """Raise a DataError for the first line that is not UTF-8 or not a JSON object."""
    diagnose_encoding(file)
    check_control_characters(file)
    for number, line in enumerate(file.lines().collect()["line"], 1):
        if line.strip():
            _parse(file.name, number, line)


def _check_repeated_keys(file: LogFile, others: pl.LazyFrame, names: Sequence[str]) -> None:
    """Raise a DataError for the first object that has one of these keys with two values."""
    patterns = [rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:" for name in names]
    is_suspect = pl.any_horizontal(
        pl.col("line").str.count_matches(pattern) > 1 for pattern in patterns
    )
    for number, line in others.filter(is_suspect).collect(engine="streaming").iter_rows():
        values: dict[str, Any] = {}
        for key, value in _top_level_pairs(line):
            if key in names and values.setdefault(key, value) != value:
                raise DataError(
                    f"{file.name}:{number}: the key {clipped(repr(key))} occurs twice. Rename or "
                    "remove one."
                )


def _top_level_pairs(line: str) -> list[tuple[str, Any]]:
    try:
        pairs = json.loads(line, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return []
    return pairs if isinstance(pairs, list) else []


def _check_types(file: LogFile, name: str, first_value: object) -> None:
    """Raise a DataError for the first line where `name` is no text or number, or another kind.

    The first value, that of the first line unless it is None, decides between text and numbers.
    """
    key = rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:\s*"
    lines = file.lines().with_row_index("number", 1)
    first_number = 1
    if first_value is None:
        has_value = lines.filter(pl.col("line").str.contains(rf"{key}[^\sn]"))
        for number, line in has_value.collect(engine="streaming").iter_rows():
            first_number, first_value = number, _parse(file.name, number, line).get(name)
            if first_value is not None:
                break
    _check_is_id(file.name, first_number, name, first_value)
    other_kind = r'[^"\sn]' if isinstance(first_value, str) else r'["{\[tf]'
    suspects = lines.filter(pl.col("line").str.contains(key + other_kind))
    for number, line in suspects.collect(engine="streaming").iter_rows():
        value = _parse(file.name, number, line).get(name)
        _check_is_id(file.name, number, name, value)
        if value is not None and isinstance(value, str) != isinstance(first_value, str):
            raise DataError(
                f"{file.name}:{number}: {name} is {clipped(repr(value))}, but "
                f"{clipped(repr(first_value))} in line {first_number}. Write numbers or text "
                "throughout, not both."
            )


def _check_is_id(label: str, number: int, name: str, value: object) -> None:
    if isinstance(value, list | dict | bool):
        raise DataError(
            f"{label}:{number}: {name} is {clipped(repr(value))}, which is no id. Write text or a "
            "whole number."
        )
