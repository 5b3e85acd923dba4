"""Run a suite of cells over data sets and seeds, and join what they found.

A cell is a run folder like any other: interrupted suites go on where they were, and every cell
can be looked at, reported and repeated from its own config.toml. Cells whose bases are the same
train it once.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recoach.errors import ConfigError
from recoach.evaluation.significance import paired_bootstrap, seeds_interval, verdict
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.folder import RunFolder
from recoach.experiments.gains import GAINS
from recoach.experiments.record import Stage
from recoach.experiments.stages import Run, Watch, execute, open_run
from recoach.experiments.suites import SUITES, Cell, Profile, Source

FORMAT = 1
_PAIRS = (("tuned", "base"), ("control", "base"), ("tuned", "control"))
_SEEDS_FOR_AN_INTERVAL = 3

Announce = Callable[[str], None]
"""Told the name of every cell before it is run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and where."""

    suite: str
    """A key of `SUITES` or `GAINS`."""
    sources: tuple[Source, ...]
    profile: Profile
    seeds: tuple[int, ...]
    output: Path
    only: tuple[str, ...] = ()
    """Run only cells whose names contain one of these words."""

    def cells(self, source: Source, seed: int) -> list[Cell]:
        """Return the wanted cells of one data set and seed."""
        every = (SUITES | GAINS)[self.suite](source, self.profile, seed)
        return [
            cell for cell in every if not self.only or any(word in cell.name for word in self.only)
        ]

    def folder(self, source: Source, cell: Cell, seed: int) -> RunFolder:
        """Return where a cell runs."""
        return RunFolder(self.shelf / source.name / f"{cell.name}-{seed}")

    @property
    def shelf(self) -> Path:
        """Where the suite's tables lie: beside those it shares runs with."""
        return self.output / ("gains" if self.suite in GAINS else self.profile)


def reproduce(plan: Plan, watch: Watch, announce: Announce) -> dict[str, Any]:
    """Run every cell that is not finished and return the joined record of the suite.

    Raises:
        ConfigError: nothing is left to run, or a cell's settings are wrong.
    """
    if not any(plan.cells(source, seed) for source in plan.sources for seed in plan.seeds):
        raise ConfigError(f"--only {' '.join(plan.only)} leaves no cell of {plan.suite} to run.")
    for source in plan.sources:
        for seed in plan.seeds:
            for cell in plan.cells(source, seed):
                folder = plan.folder(source, cell, seed)
                announce(f"{source.name}: {cell.name}, seed {seed}")
                _run(resolve(cell.tables, f"cell {cell.name}"), folder, watch)
    return joined(plan)


def joined(plan: Plan) -> dict[str, Any]:
    """Return the record of a suite from the cells that are finished, over seeds and users."""
    data: dict[str, Any] = {}
    for source in plan.sources:
        cells: dict[str, Any] = {}
        for cell in plan.cells(source, plan.seeds[0]):
            folders = [plan.folder(source, cell, seed) for seed in plan.seeds]
            finished = [folder for folder in folders if (folder.path / "results.json").exists()]
            if finished:
                cells[cell.name] = _over_seeds(finished)
        data[source.name] = {"cells": cells}
        if cells:
            data[source.name] |= {"dataset": next(iter(cells.values())).pop("dataset")}
            for cell_record in cells.values():
                cell_record.pop("dataset", None)
    return {
        "format": FORMAT,
        "suite": plan.suite,
        "profile": plan.profile,
        "seeds": list(plan.seeds),
        "data": data,
    }


def _run(config: ExperimentConfig, folder: RunFolder, watch: Watch) -> None:
    if folder.finished(config):
        return
    run = open_run(config, folder.path, resume=True, watch=watch)
    if not folder.has("base"):
        _adopt_base(run)
    execute(run)


def _adopt_base(run: Run) -> None:
    """Take over the trained base of a sibling run that has the same."""
    wanted = _base_of(run.config)
    for path in sorted(run.folder.path.parent.iterdir()):
        other = RunFolder(path)
        if path == run.folder.path or not (path / "config.toml").exists():
            continue
        if _base_of(other.config()) == wanted and other.complete("base"):
            target = run.folder.checkpoints("base")
            part = target.with_name(".base.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(other.checkpoints("base"), part)
            part.rename(target)
            for row in other.metrics():
                if row["stage"] == "base":
                    run.folder.append_metrics(
                        "base", {k: v for k, v in row.items() if k != "stage"}
                    )
            return


def _base_of(config: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that a base depends on."""
    tables = config.tables()
    kept = {name: tables[name] for name in ("seed", "data", "model", "pretrain")}
    return kept | {"mask_seen": config.evaluation.mask_seen}


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
        "diagnostics": _diagnostics(folders),
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
    whole = all((folder.path / "per_user.parquet").exists() for folder in folders)
    rows = _user_by_user(folders, list(records[0]["models"])) if whole else _seed_by_seed(records)
    if len(records) >= _SEEDS_FOR_AN_INTERVAL:
        for row in rows:
            gains = [
                _mean_of(record, row["a"], row) - _mean_of(record, row["b"], row)
                for record in records
            ]
            row["seeds"] = [round(end, 8) for end in seeds_interval(gains)]
    return rows


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


_LOGGED = (
    "log_ratio/abs_mean",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "temperature",
)


def _diagnostics(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Return what GRPO logged: means of its first stretch and the curve on validation."""
    stage: Stage = "tuned"
    curves = [[row for row in folder.metrics() if row["stage"] == stage] for folder in folders]
    if not all(curves):
        return {}
    firsts = [next((row for row in rows if row["step"] > 0), rows[0]) for rows in curves]
    lasts = [rows[-1] for rows in curves]
    names = [name for name in _LOGGED if all(name in row for row in firsts)]
    drifts = sorted(name for name in lasts[0] if name.startswith("drift/"))
    return {
        "first": {n: round(float(np.mean([row[n] for row in firsts])), 6) for n in names},
        "last": {n: round(float(np.mean([row[n] for row in lasts])), 6) for n in [*names, *drifts]},
        "curve": [[int(row["step"]), round(float(row["valid/ndcg@10"]), 6)] for row in curves[0]],
    }
