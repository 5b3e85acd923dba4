"""Reads the files of a run folder that its report is made of, and checks them."""

import json
from pathlib import Path
from typing import Any, Final, TypeVar

from recoach.errors import RunError
from recoach.report.tables import MODELS

Json = TypeVar("Json", dict[str, Any], list[Any])

FORMAT: Final = 1
REQUIRED: Final = {
    "name": str,
    "dataset": dict,
    "model": str,
    "protocol": dict,
    "models": dict,
}
COMPARISON_KEYS: Final = frozenset(
    ("a", "b", "split", "metric", "relative", "low", "high", "p_value", "verdict")
)


def read_text(path: Path) -> str:
    """Return the text of a file; RunError if it is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: the file is missing. Name the folder of a finished run."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot read the file ({error}).") from error


def parse_json(path: Path, text: str, kind: type[Json], line: int | None = None) -> Json:
    """Return a JSON text of a file as `kind`, dict or list; RunError names the line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path}:{line or error.lineno}: not valid JSON ({error.msg}). Run the experiment "
            "again."
        ) from error
    if not isinstance(value, kind):
        name = "object" if kind is dict else "list"
        raise RunError(f"{path}: expected a JSON {name}, found {type(value).__name__}.")
    return value


def read_results(path: Path) -> dict[str, Any]:
    """Read results.json and check the keys that every report needs."""
    record: dict[str, Any] = parse_json(path, read_text(path), dict)
    if record.get("format") != FORMAT:
        raise RunError(
            f"{path}: format {record.get('format')!r} is not supported, only {FORMAT}. "
            "Another version of recoach wrote the file. Run the experiment again."
        )
    for key, kind in REQUIRED.items():
        if not isinstance(record.get(key), kind):
            raise RunError(f"{path}: {key!r} is missing or not a {kind.__name__}.")
    if "base" not in record["models"]:
        raise RunError(f"{path}: 'models' has no 'base'. Pretrain the run first.")
    for index, entry in enumerate(record.get("comparisons", [])):
        if missing := sorted(COMPARISON_KEYS - set(entry)):
            raise RunError(f"{path}: comparisons[{index}] lacks {', '.join(missing)}.")
    return record


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without its blank lines."""
    rows = {
        number: parse_json(path, line, dict, number)
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip()
    }
    for number, row in rows.items():
        if not {"stage", "step"} <= row.keys():
            raise RunError(f"{path}:{number}: a row needs the keys 'stage' and 'step'.")
    return list(rows.values())


def read_lists(path: Path) -> list[dict[str, Any]]:
    """Read lists.json; users without a list of the fine-tuned model have only the base's."""
    entries: list[Any] = parse_json(path, read_text(path), list)
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"user", "history", "target", "base"} <= set(entry):
            raise RunError(f"{path}: entry {index} needs the keys user, history, target and base.")
    return [
        {
            "user": entry["user"],
            "history": entry["history"],
            "target": entry["target"],
            "lists": [
                (MODELS[key], entry[key], entry.get(f"{key}_rank"))
                for key in ("base", "tuned")
                if entry.get(key) is not None
            ],
        }
        for entry in entries
    ]
