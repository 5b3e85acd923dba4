"""Join what the finished cells of a suite found, over seeds, users and logs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recoach.evaluation.significance import paired_bootstrap, seeds_interval, verdict
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.gains_cells import GAINS
from recoach.reproduction.paper_cells import SUITES, Cell, Profile, Source

FORMAT = 1
_PAIRS = (("tuned", "base"), ("control", "base"), ("tuned", "control"))
_SEEDS_FOR_AN_INTERVAL = 3


def join(suite: str, profile: Profile, shelf: Path, sources: Sequence[Source]) -> dict[str, Any]:
    """Return the record of a suite from every cell that is finished, whoever ran it and when.

    Args:
        suite: a key of `SUITES` or `GAINS`.
        profile: whose cells.
        shelf: the folder with a folder for each log, and in it one for each cell and seed.
        sources: logs that come first; the shelf's others follow by name.
    """
    names = [source.name for source in sources]
    others = sorted(
        path.name for path in shelf.iterdir() if path.is_dir() and path.name not in names
    )
    data = {}
    for source in [*sources, *(Source(name, "") for name in others)]:
        every = (SUITES | GAINS)[suite](source, profile, 0)
        cells = {
            cell.name: _over_seeds(folders)
            for cell in every
            if (folders := _finished(shelf / source.name, cell))
        }
        if cells:
            described = [cell.pop("dataset") for cell in cells.values()]
            data[source.name] = {"cells": cells, "dataset": described[0]}
    seeds = {
        seed
        for found in data.values()
        for cell in found["cells"].values()
        for seed in cell["seeds"]
    }
    return {
        "format": FORMAT,
        "suite": suite,
        "profile": profile,
        "seeds": sorted(seeds),
        "data": data,
    }


def _finished(folder: Path, cell: Cell) -> list[RunFolder]:
    """Return the finished runs of a cell, a seed each."""
    places = [path.parent for path in folder.glob(f"{cell.name}-*/results.json")]
    seeds = {path: path.name.removeprefix(f"{cell.name}-") for path in places}
    return [RunFolder(path) for path in sorted(places) if seeds[path].isdecimal()]


def _over_seeds(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Return means, deviations and comparisons of one cell over its seeds."""
    records = [folder.read_json("results.json") for folder in folders]
    first = records[0]
    stages = list(first["models"])
    return {
        "dataset": first["dataset"],
        "model": first["model"],
        "protocol": first["protocol"],
        "seeds": [record["seed"] for record in records],
        "models": {stage: _statistics(records, stage) for stage in stages},
        "comparisons": _compared(folders, records),
        "users_averaged": _whole(folders),
        "diagnostics": _diagnostics(records),
        "config": {k: v for k, v in first["config"].items() if k != "seed"},
        "environment": first["environment"],
    }


def _statistics(records: Iterable[Mapping[str, Any]], stage: str) -> dict[str, Any]:
    models = [record["models"][stage] for record in records]
    found: dict[str, Any] = {
        part: {
            name: _mean_and_deviation([m[part][name] for m in models]) for name in models[0][part]
        }
        for part in ("test", "lists")
    }
    for name in ("steps", "best_step", "seconds"):
        if name in models[0]:
            found[name] = [model[name] for model in models]
    buckets = [model["popularity_buckets"] for model in models]
    found["popularity_buckets"] = [
        {name: round(float(np.mean([b[name] for b in same])), 6) for name in same[0]}
        for same in zip(*buckets, strict=True)
    ]
    return found


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 6), "sd": round(spread, 6)}


def _compared(
    folders: Sequence[RunFolder], records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare models over users, and from three seeds on over the seeds.

    Each user's values are averaged over the seeds where they are at hand. Where a seed has only
    its record (it was run elsewhere), the ends of the seeds' own intervals are: as if all seeds
    erred with the same users, which is never narrower.
    """
    stages = list(records[0]["models"])
    rows = _user_by_user(folders, stages) if _whole(folders) else _seed_by_seed(records)
    if len(records) >= _SEEDS_FOR_AN_INTERVAL:
        for row in rows:
            gains = [
                _mean_of(record, row["a"], row) - _mean_of(record, row["b"], row)
                for record in records
            ]
            row["seeds"] = [round(end, 8) for end in seeds_interval(gains)]
    return rows


def _whole(folders: Sequence[RunFolder]) -> bool:
    """Return whether every user's values are at hand, for all seeds."""
    return all((folder.path / "per_user.parquet").exists() for folder in folders)


def _mean_of(record: Mapping[str, Any], stage: str, row: Mapping[str, Any]) -> float:
    mean: float = record["models"][stage]["test"][row["metric"]]
    return mean


def _user_by_user(folders: Sequence[RunFolder], stages: Sequence[str]) -> list[dict[str, Any]]:
    frames = [pl.read_parquet(folder.path / "per_user.parquet") for folder in folders]
    values = (
        pl.concat(frames)
        .group_by("model", "user_id")
        .mean()
        .sort("model", "user_id")
        .partition_by("model", as_dict=True)
    )
    metrics = [name for name in frames[0].columns if name not in ("user_id", "model")]
    found = []
    for a, b in _PAIRS:
        if a in stages and b in stages:
            left, right = values[(a,)], values[(b,)]
            for metric in metrics:
                outcome = paired_bootstrap(left[metric].to_numpy(), right[metric].to_numpy())
                plain = {
                    name: round(value, 8) if isinstance(value, float) else value
                    for name, value in outcome._asdict().items()
                }
                found.append({"a": a, "b": b, "split": "test", "metric": metric} | plain)
    return found


def _seed_by_seed(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kinds = [
        {(row["a"], row["b"], row["metric"]): row for row in record["comparisons"]}
        for record in records
    ]
    found = []
    for a, b, metric in kinds[0]:
        if (a, b) in _PAIRS and all((a, b, metric) in kind for kind in kinds):
            same = [kind[a, b, metric] for kind in kinds]
            row = {"a": a, "b": b, "split": "test", "metric": metric}
            for name in ("difference", "low", "high", "relative"):
                row[name] = round(float(np.mean([one[name] for one in same])), 8)
            found.append(row | {"verdict": verdict(row["low"], row["high"])})
    return found


def _diagnostics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means of what GRPO logged, and the first seed's curve; nothing if a seed is silent."""
    told: list[Mapping[str, Any]] = [record.get("diagnostics", {}) for record in records]
    if not all(told):
        return {}
    found: dict[str, Any] = {"curve": told[0]["curve"]}
    for part in ("first", "last"):
        names = [name for name in told[0][part] if all(name in one[part] for one in told)]
        found[part] = {n: round(float(np.mean([one[part][n] for one in told])), 6) for n in names}
    return found
