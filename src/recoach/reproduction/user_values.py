"""The primary metric of every user under the models of several runs, and cells compared by it.

A table has one row per cell, seed and stage. Its `values` are in the order of the evaluation and
without the ids of the users; `states` identifies the data and the states they were measured on.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from recoach.data.files import read_parquet
from recoach.errors import RunError
from recoach.evaluation.crossed_effects import crossed_interval, crossed_log_ratio
from recoach.evaluation.estimates import Estimate
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import write_atomically
from recoach.reproduction.record_digest import digest_of

SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "cell": pl.String,
    "seed": pl.Int64,
    "stage": pl.String,
    "metric": pl.String,
    "states": pl.String,
    "run": pl.String,
    "values": pl.List(pl.Float32),
}
STORED_VALUES: Final = "user_values.parquet"
"""File in the folder of a log's runs with the values of runs that have no per_user.parquet."""
_COMPRESSION_LEVEL: Final = 19  # of zstd: a third smaller than its default


class CellModel(NamedTuple):
    """A model of a cell."""

    cell: str
    stage: str


class CellComparison(NamedTuple):
    """Two models compared over users and seeds, both crossed random effects."""

    seeds: tuple[int, ...]
    """The seeds that both cells have."""
    difference: Estimate
    log_ratio: Estimate
    """Of the means; see `crossed_log_ratio`."""


def user_values(run: RunFolder, cell: str) -> pl.DataFrame:
    """Return the rows of a finished run, one per model in its per_user.parquet.

    A user with several states has the mean of them.

    Args:
        run: its folder, with results.json and per_user.parquet.
        cell: the name of its cell.

    Raises:
        RunError: a file is missing or damaged.
    """
    record = run.read_json("results.json")
    frame = read_parquet(run.path / "per_user.parquet")
    metric = record["protocol"].get("primary", "ndcg@10")
    rows = []
    for (stage,), states in frame.group_by("model", maintain_order=True):
        by_user = states.group_by("user_id", maintain_order=True).agg(pl.col(metric).mean())
        rows.append(
            {
                "cell": cell,
                "seed": record["seed"],
                "stage": stage,
                "metric": metric,
                "states": _states_digest(record, states),
                "run": digest_of([record]),
                "values": by_user[metric].to_list(),
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def read_user_values(path: Path) -> pl.DataFrame:
    """Return the rows of a file; none where there is no file."""
    return read_parquet(path) if path.exists() else pl.DataFrame(schema=SCHEMA)


def write_user_values(path: Path, frame: pl.DataFrame) -> None:
    """Write rows as Parquet, sorted; a file whose content would stay the same is left alone."""
    frame = frame.sort("cell", "seed", "stage")
    if read_user_values(path).equals(frame):
        return
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=_COMPRESSION_LEVEL)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def compare_cells(frame: pl.DataFrame, ours: CellModel, theirs: CellModel) -> CellComparison:
    """Compare the models of two cells of a log, by the seeds that both have.

    Args:
        frame: the rows of a log.
        ours: the first model.
        theirs: the second model, with which it is compared.

    Raises:
        RunError: no seed has both models, or they were measured on other users or by another
            metric.
    """
    by_seed = [_by_seed(frame, model) for model in (ours, theirs)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    names = [f"{model.cell} ({model.stage})" for model in (ours, theirs)]
    if not seeds:
        raise RunError(
            f"{names[0]} and {names[1]} have no seed in common: {sorted(by_seed[0])} and "
            f"{sorted(by_seed[1])}. Run both with the same seeds."
        )
    rows = [of_cell[seed] for of_cell in by_seed for seed in seeds]
    if len({(row["metric"], row["states"]) for row in rows}) > 1:
        raise RunError(
            f"{names[0]} and {names[1]} were measured on different users or by different metrics. "
            "Compare cells with the same log, split, [evaluation] and metric."
        )
    our_values, their_values = (
        np.array([of_cell[seed]["values"] for seed in seeds], dtype=np.float64).T
        for of_cell in by_seed
    )
    return CellComparison(
        tuple(seeds),
        crossed_interval(our_values - their_values),
        crossed_log_ratio(our_values, their_values),
    )


def _by_seed(frame: pl.DataFrame, model: CellModel) -> dict[int, dict[str, Any]]:
    rows = frame.filter(cell=model.cell, stage=model.stage)
    return {row["seed"]: row for row in rows.iter_rows(named=True)}


def _states_digest(record: Mapping[str, Any], states: pl.DataFrame) -> str:
    """Return a hash of the data, the targets and the states that a model was evaluated on."""
    protocol = record["protocol"]
    keys = ("ranking", "repeats", "mask_seen", "n_targets")
    settings = [record["dataset"]["fingerprint"], *(protocol.get(key) for key in keys)]
    columns = [name for name in ("user_id", "history") if name in states.columns]
    text = json.dumps(settings) + states.select(columns).write_csv()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
