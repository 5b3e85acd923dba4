"""Aggregate the finished runs of a suite over seeds, users and logs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recoach.data.files import read_parquet
from recoach.evaluation.significance import paired_bootstrap, seeds_interval, verdict
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.ladder_contrasts import log_contrasts
from recoach.reproduction.paper_cells import Cell, Profile, Source
from recoach.reproduction.record_digest import digest_of
from recoach.reproduction.suites import cells_of

FORMAT = 1
_PAIRS = (("tuned", "base"), ("control", "base"), ("tuned", "control"))
_MIN_SEEDS_FOR_INTERVAL = 3


def aggregate(
    suite: str, profile: Profile, folder: Path, sources: Sequence[Source]
) -> dict[str, Any]:
    """Return the aggregated record of a suite: every finished run in a folder, grouped by cell.

    Args:
        suite: a suite of `GROUPS`.
        profile: the budget of the cells.
        folder: holds one folder for each log, and in it one run folder for each cell and seed.
        sources: the logs that come first; other logs found in the folder follow by name.
    """
    names = [source.name for source in sources]
    others = sorted(
        path.name for path in folder.glob("*") if path.is_dir() and path.name not in names
    )
    data = {}
    for source in [*sources, *(Source(name, "") for name in others)]:
        cells = {
            cell.name: _over_seeds(runs, comparisons_file(folder, source.name, cell.name))
            for cell in cells_of(suite, source, profile, 0)
            if (runs := _finished_runs(folder / source.name, cell))
        }
        if cells:
            datasets = [cell.pop("dataset") for cell in cells.values()]
            data[source.name] = {"cells": cells, "dataset": datasets[0]}
            if suite == "ladder":
                data[source.name]["contrasts"] = log_contrasts(folder / source.name)
    seeds = {
        seed for log in data.values() for cell in log["cells"].values() for seed in cell["seeds"]
    }
    return {
        "format": FORMAT,
        "suite": suite,
        "profile": profile,
        "seeds": sorted(seeds),
        "data": data,
    }


def comparisons_file(folder: Path, log: str, cell: str) -> Path:
    """Return the file with a cell's comparisons over users, for runs without per-user values."""
    return folder / log / f"{cell}.comparisons.json"


def _finished_runs(folder: Path, cell: Cell) -> list[RunFolder]:
    """Return the finished runs of a cell, one per seed."""
    paths = [path.parent for path in folder.glob(f"{cell.name}-*/results.json")]
    seeds = {path: path.name.removeprefix(f"{cell.name}-") for path in paths}
    return [RunFolder(path) for path in sorted(paths) if seeds[path].isdecimal()]


def _over_seeds(runs: Sequence[RunFolder], stored: Path) -> dict[str, Any]:
    """Return means, standard deviations and comparisons of one cell over its seeds."""
    records = [run.read_json("results.json") for run in runs]
    first = records[0]
    comparisons, users_averaged = _compare(runs, records, stored)
    return {
        "dataset": first["dataset"],
        "model": first["model"],
        "protocol": first["protocol"],
        "seeds": [record["seed"] for record in records],
        "models": _all_statistics(records),
        "comparisons": comparisons,
        "users_averaged": users_averaged,
        "diagnostics": _diagnostics(records),
        "config": {k: v for k, v in first["config"].items() if k != "seed"},
        "environment": first["environment"],
    } | (
        {"retrained": _all_statistics([record["retrained"] for record in records])}
        if all("retrained" in record for record in records)
        else {}
    )


def _all_statistics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the statistics of each model over the records of several seeds.

    What the record of a seed lacks, such as a metric of a later version, is left out.
    """
    models = [record["models"] for record in records]
    return {stage: _statistics([one[stage] for one in models]) for stage in _common(models)}


def _common(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that all tables have, in the order of the first."""
    return [name for name in tables[0] if all(name in table for table in tables)]


def _statistics(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    statistics: dict[str, Any] = {}
    for part in ("test", "lists"):
        if all(part in model for model in models):
            values = [model[part] for model in models]
            names = _common(values)
            statistics[part] = {n: _mean_and_deviation([one[n] for one in values]) for n in names}
    for name in ("steps", "best_step", "seconds", "budget"):
        if all(name in model for model in models):
            statistics[name] = [model[name] for model in models]
    statistics["strata"] = _mean_strata([model.get("strata", {}) for model in models])
    buckets = [model.get("popularity_buckets", []) for model in models]
    # Without those of a seed there are none.
    statistics["popularity_buckets"] = [_means(same) for same in zip(*buckets, strict=False)]
    return statistics


def _mean_strata(models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the mean of each value of each stratum over several seeds."""
    means: dict[str, dict[str, dict[str, float]]] = {}
    for kind in _common(models):
        kinds = [model[kind] for model in models]
        means[kind] = {name: _means([one[name] for one in kinds]) for name in _common(kinds)}
    return means


def _means(strata: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each number; intervals, which are of one seed, are left out."""
    return {
        name: round(float(np.mean([one[name] for one in strata])), 6)
        for name in _common(strata)
        if not isinstance(strata[0][name], list | Mapping)
    }


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 6), "sd": round(deviation, 6)}


def _compare(
    runs: Sequence[RunFolder], records: Sequence[Mapping[str, Any]], stored: Path
) -> tuple[list[dict[str, Any]], bool]:
    """Return the comparisons of a cell's models, and whether users were averaged over seeds."""
    rows = _compare_users(runs, records, stored)
    if rows is None:
        return _with_seed_intervals(_average_intervals(records), records), False
    return _with_seed_intervals(rows, records), True


def _compare_users(
    runs: Sequence[RunFolder], records: Sequence[Mapping[str, Any]], stored: Path
) -> list[dict[str, Any]] | None:
    """Compare the models user by user, each user's values averaged over the seeds.

    Returns None where the values of single users are missing for a seed, unless `stored` holds
    what was computed from them for these very runs.
    """
    if all((run.path / "per_user.parquet").exists() for run in runs):
        return _bootstrap_users(runs, _common([record["models"] for record in records]))
    if stored.exists():
        content = json.loads(stored.read_text(encoding="utf-8"))
        if content["runs"] == digest_of(records):
            comparisons: list[dict[str, Any]] = content["comparisons"]
            return comparisons
    return None


def _bootstrap_users(runs: Sequence[RunFolder], stages: Sequence[str]) -> list[dict[str, Any]]:
    frames = [read_parquet(run.path / "per_user.parquet") for run in runs]
    # Runs of earlier versions have fewer columns. A user may have several states, in them only one.
    columns = [n for n in frames[0].columns if all(n in frame.columns for frame in frames)]
    frames = [frame.select(columns) for frame in frames]
    state = [name for name in ("user_id", "history") if name in frames[0].columns]
    values = (
        pl.concat(frames)
        .group_by("model", *state)
        .mean()
        .sort("model", *state)
        .partition_by("model", as_dict=True)
    )
    metrics = [name for name in frames[0].columns if name not in ("model", *state)]
    rows = []
    for a, b in _PAIRS:
        if a in stages and b in stages:
            left, right = values[(a,)], values[(b,)]
            users = left["user_id"]
            clusters = None if users.is_unique().all() else users.rank("dense").to_numpy()
            for metric in metrics:
                result = paired_bootstrap(
                    left[metric].to_numpy(), right[metric].to_numpy(), clusters=clusters
                )
                row = {"a": a, "b": b, "split": "test", "metric": metric}
                rows.append(row | result.to_record(8))
    return rows


def _average_intervals(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the ends of the intervals of the seeds.

    This assumes that all seeds err on the same users, so the interval is never narrower than that
    of the averaged users.
    """
    by_seed = [
        {(row["a"], row["b"], row["metric"]): row for row in record["comparisons"]}
        for record in records
    ]
    rows = []
    for a, b, metric in by_seed[0]:
        if (a, b) in _PAIRS and all((a, b, metric) in seed for seed in by_seed):
            same = [seed[a, b, metric] for seed in by_seed]
            row = {"a": a, "b": b, "split": "test", "metric": metric}
            for name in ("difference", "low", "high", "relative"):
                values = [one[name] for one in same]
                row[name] = None if None in values else round(float(np.mean(values)), 8)
            rows.append(row | {"verdict": verdict(row["low"], row["high"])})
    return rows


def _with_seed_intervals(
    rows: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Add Student's interval over the seeds' differences to each row, from three seeds on."""
    if len(records) < _MIN_SEEDS_FOR_INTERVAL:
        return [dict(row) for row in rows]
    with_intervals = []
    for row in rows:
        metric = row["metric"]
        differences = [
            record["models"][row["a"]]["test"][metric] - record["models"][row["b"]]["test"][metric]
            for record in records
        ]
        ends = [round(end, 8) for end in seeds_interval(differences)]
        with_intervals.append({**row, "seeds": ends})
    return with_intervals


def _diagnostics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means of what was logged in fine-tuning, and the first seed's validation curve.

    Empty where a seed has no diagnostics; a quantity that a seed did not log is left out.
    """
    logged: list[Mapping[str, Any]] = [record.get("diagnostics", {}) for record in records]
    if not all(logged):
        return {}
    means: dict[str, Any] = {"curve": logged[0]["curve"]}
    for part in ("first", "last"):
        names = [name for name in logged[0][part] if all(name in one[part] for one in logged)]
        means[part] = {n: round(float(np.mean([one[part][n] for one in logged])), 6) for n in names}
    return means
