"""The committed results: records of runs as two Parquet files, and back.

`runs.parquet` has one row per run, stage and metric, for analysis with any data frame library.
`details.parquet` has one row per run with the rest of its record, each top-level key a column of
JSON. Together they hold the record of a run (`results.json`) without loss.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from recoach.data.readers.table import POLARS_ERRORS
from recoach.errors import RunError
from recoach.experiments.run_folder import RETRAINED, write_frame

PROFILE: Final = "quick"
"""The profile of the committed runs."""
RUNS: Final = "runs.parquet"
DETAILS: Final = "details.parquet"

_PARTS: Final = ("valid", "test", "lists")
_TRAINING: Final = ("steps", "best_step", "seconds", "share")
_COUNTS: Final = ("steps", "best_step")
_RUNS_SCHEMA: Final = {
    "group": pl.String,
    "log": pl.String,
    "cell": pl.String,
    "seed": pl.Int64,
    "model": pl.String,
    "stage": pl.String,
    "part": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "config_hash": pl.String,
    "data_split": pl.String,
    "ranking": pl.String,
    "mask_seen": pl.String,
    "selection": pl.String,
    "recoach": pl.String,
    "torch": pl.String,
    "python": pl.String,
}
_KEYS: Final = (
    *("format", "name", "suite", "dataset", "model", "seed", "seeds", "runs", "settings"),
    *("protocol", "models", "policies", "comparisons", "diagnostics", "config", "environment"),
)
"""Keys of a record in the order of its JSON; a new key follows them."""

Record = dict[str, Any]


class RunKey(NamedTuple):
    """Identifies a committed record."""

    group: str
    """A key of `GROUPS`, or `simulator`."""
    log: str
    cell: str
    seed: int | None
    """None: computed over several seeds from values of single users for every metric, which are
    committed for the primary metric only."""


def write_results(folder: Path, records: Mapping[RunKey, Record]) -> None:
    """Write both Parquet files; a file whose content would stay the same is left alone."""
    for name, frame in zip((RUNS, DETAILS), to_frames(records), strict=True):
        path = folder / name
        if not path.exists() or not pl.read_parquet(path).equals(frame):
            write_frame(path, frame)


def read_results(folder: Path) -> dict[RunKey, Record]:
    """Return the records of both Parquet files; none where there are no files.

    Raises:
        RunError: a file cannot be read.
    """
    paths = [folder / RUNS, folder / DETAILS]
    if not any(path.exists() for path in paths):
        return {}
    try:
        runs, details = (pl.read_parquet(path) for path in paths)
    except (OSError, *POLARS_ERRORS) as error:
        raise RunError(
            f"{folder}: {RUNS} and {DETAILS} cannot be read: {error}. Restore both."
        ) from error
    return from_frames(runs, details)


def to_frames(records: Mapping[RunKey, Record]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows of `runs.parquet` and `details.parquet`, sorted by key."""
    ordered = sorted(records.items(), key=lambda item: (*item[0][:3], item[0].seed or -1))
    metrics = [row for key, record in ordered for row in _metric_rows(key, record)]
    keys = dict.fromkeys(_KEYS) | dict.fromkeys(name for _, record in ordered for name in record)
    texts = [
        {
            name: json.dumps(value, ensure_ascii=False)
            for name, value in _without_metrics(record).items()
        }
        for _, record in ordered
    ]
    rows = [text | key._asdict() for text, (key, _) in zip(texts, ordered, strict=True)]
    schema = dict.fromkeys((*RunKey._fields, *keys), pl.String) | {"seed": pl.Int64}
    return pl.DataFrame(metrics, schema=_RUNS_SCHEMA), pl.DataFrame(rows, schema=schema)


def from_frames(runs: pl.DataFrame, details: pl.DataFrame) -> dict[RunKey, Record]:
    """Return the records that `to_frames` wrote."""
    records: dict[RunKey, Record] = {}
    names = dict.fromkeys(_KEYS) | dict.fromkeys(details.columns)
    for row in details.iter_rows(named=True):
        key = RunKey(*(row[name] for name in RunKey._fields))
        records[key] = {
            name: row[name] if name == "seed" else json.loads(row[name])
            for name in names
            if name not in ("group", "log", "cell") and row[name] is not None
        }
    for row in runs.iter_rows(named=True):
        key = RunKey(*(row[name] for name in RunKey._fields))
        stage, metric, value = _stages(records[key])[row["stage"]], row["metric"], row["value"]
        if row["part"] == "training":
            stage[metric] = int(value) if metric in _COUNTS else value
        else:
            stage[row["part"]][metric] = value
    return records


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a hash of a run's resolved settings without the seed, the same for all its seeds."""
    settings = {name: value for name, value in config.items() if name != "seed"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _metric_rows(key: RunKey, record: Record) -> Iterator[dict[str, Any]]:
    if key.seed is None:
        return
    protocol, environment = record["protocol"], record["environment"]
    versions = environment.get("versions", {})
    same = key._asdict() | {
        "model": record["model"],
        "config_hash": config_hash(record["config"]),
        "data_split": protocol.get("split"),
        "ranking": protocol.get("ranking"),
        "mask_seen": protocol.get("mask_seen"),
        "selection": protocol.get("selection"),
        "recoach": versions.get("recoach"),
        "torch": versions.get("torch"),
        "python": environment.get("python"),
    }
    for stage, results in _stages(record).items():
        parts: dict[str, Record] = {part: results[part] for part in _PARTS if part in results}
        parts["training"] = {name: results[name] for name in _TRAINING if name in results}
        for part, metrics in parts.items():
            for metric, value in metrics.items():
                yield same | {"stage": stage, "part": part, "metric": metric, "value": value}


def _stages(record: Record) -> dict[str, Record]:
    """Return the results of each stage, those trained again under a name of their own."""
    again = record.get("retrained", {}).get("models", {})
    models: dict[str, Record] = record.get("models", {})
    return models | {f"{stage}{RETRAINED}": results for stage, results in again.items()}


def _without_metrics(record: Record) -> Record:
    """Return a record whose metrics are empty places, to be filled from `runs.parquet`."""
    rest = copy.deepcopy(record)
    for results in _stages(rest).values():
        results |= {name: {} for name in _PARTS if name in results}
        results |= {name: None for name in _TRAINING if name in results}
    return rest
