"""Compare the recipe with every rung of the ladder, each with the learning rate it does best with.

The learning rate is selected on validation; only then are test values of users compared, with users
and seeds as crossed random effects.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from recoach.evaluation.estimates import detectable_effect, equivalence
from recoach.evaluation.significance import holm_p_values
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.reproduction.ladder_cells import MODELS, PROTOCOLS, RATES, Rung, rungs_of
from recoach.reproduction.user_values import (
    STORED_VALUES,
    CellComparison,
    CellModel,
    compare_cells,
    read_user_values,
    user_values,
)

_METRIC: Final = "ndcg@10"
REFERENCE: Final = "recipe"
MARGIN: Final = 0.01
"""The relative difference below which two models count as equivalent, fixed before any run."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A rung with one learning rate: its finished runs by seed."""

    rate: float
    cell: str
    """The name of its run folders without the seed."""
    runs: Mapping[int, RunFolder]


@dataclass(frozen=True, slots=True)
class Selected:
    """A model of the trial that validation selected."""

    rung: str
    stage: str
    trial: Trial
    trials: int
    valid: float
    """Validation metric, averaged over the seeds that all trials have."""
    values: pl.DataFrame
    """The rows of `user_values` of the model; of the one that was trained again, if any."""

    @property
    def seeds(self) -> list[int]:
        """The seeds with values of users."""
        return sorted(self.values["seed"])

    @property
    def model(self) -> CellModel:
        """The model's name in `values`."""
        return CellModel(self.trial.cell, self.values["stage"][0])


def contrasts(
    trials: Mapping[str, Sequence[Trial]], rungs: Mapping[str, Rung]
) -> list[dict[str, Any]]:
    """Return a row for each model of each rung, compared with the recipe.

    Args:
        trials: the trials of each rung that has any; nothing is compared without the recipe.
        rungs: all of them by name; tells which have a control.

    Returns:
        Rows with rung, stage, rate, number of trials, validation and test means, seeds, and the
        multiply-adds and seconds of the training (None where they are not known); and, under
        `recipe_against`, the relative difference of the recipe (`value`, `low`, `high`), the
        p-values, raw and adjusted by Holm over the rows, the detectable effect and whether the two
        are equivalent within `MARGIN`. The comparison is over the seeds that both have.
    """
    selected = [
        _select(name, stage, trials[name])
        for name in rungs
        if trials.get(name)
        for stage in _stages(name, rungs[name])
    ]
    by_name = {(one.rung, one.stage): one for one in selected}
    reference = by_name.get((REFERENCE, "tuned"))
    rows, compared = [], []
    for one in selected:
        row: dict[str, Any] = {
            "rung": one.rung,
            "stage": one.stage,
            "rate": one.trial.rate,
            "trials": one.trials,
            "valid": round(one.valid, 6),
            "test": round(float(one.values["values"].list.mean().mean()), 6),  # type: ignore[arg-type]
            "seeds": one.seeds,
            "multiply_adds": _mean_budget(one, "multiply_adds"),
            "seconds": _mean_budget(one, "seconds"),
        }
        is_other = reference is not None and one is not reference
        if reference is not None and is_other and set(one.seeds) & set(reference.seeds):
            values = pl.concat([reference.values, one.values])
            row["recipe_against"] = _numbers(compare_cells(values, reference.model, one.model))
            compared.append(row["recipe_against"])
        rows.append(row)
    for row, p_value in zip(compared, holm_p_values([r["p_value"] for r in compared]), strict=True):
        row["holm"] = round(p_value, 6)
    return rows


def log_contrasts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each model and protocol, by "model-protocol", from the runs of a log."""
    rows = {}
    for model, protocol in itertools.product(MODELS, PROTOCOLS):
        rungs = rungs_of(model)
        trials = {
            name: trials_in(folder, f"{model}-{name}-{{rate}}-{protocol}-{{seed}}", RATES)
            for name in rungs
        }
        if any(trials.values()):
            rows[f"{model}-{protocol}"] = contrasts(trials, rungs)
    return rows


def trials_in(folder: Path, pattern: str, rates: Sequence[float]) -> list[Trial]:
    """Return the trials of a rung that have finished runs.

    Args:
        folder: holds the run folders.
        pattern: their names, with `{rate}` and `{seed}`.
        rates: the learning rates.
    """
    found = []
    for rate in rates:
        name = pattern.format(rate=f"{rate:g}", seed="*")
        cell = name.removesuffix("-*")
        before, after = name.split("*")
        runs = {}
        for path in sorted(folder.glob(f"{name}/results.json")):
            seed = path.parent.name.removeprefix(before).removesuffix(after)
            if seed.isdecimal():
                runs[int(seed)] = RunFolder(path.parent)
        if runs:
            found.append(Trial(rate, cell, runs))
    return found


def _stages(name: str, rung: Rung) -> list[str]:
    """Return the models of a rung's runs that are compared; most rungs have the recipe's base."""
    stages = ["tuned", "control"] if rung.has_control else ["tuned"]
    return ["base", *stages] if name == REFERENCE or rung.pretrain else stages


def _select(rung: str, stage: str, trials: Sequence[Trial]) -> Selected:
    """Return the trial with the best mean validation metric over the seeds that all have."""
    seeds = sorted(set.intersection(*(set(trial.runs) for trial in trials)))
    means = [float(np.mean([_valid(trial.runs[s], stage) for s in seeds])) for trial in trials]
    best = int(np.argmax(means)) if seeds else 0
    trial = trials[best]
    return Selected(rung, stage, trial, len(trials), means[best], _values_of(trial, stage))


def _valid(run: RunFolder, stage: str) -> float:
    return float(run.read_json("results.json")["models"][stage]["valid"][_METRIC])


def _mean_budget(one: Selected, name: str) -> float | None:
    """Return the mean over seeds of a count of the budget, of the training on train alone."""
    models = [run.read_json("results.json")["models"][one.stage] for run in one.trial.runs.values()]
    counts = [model.get("budget", {}).get(name) for model in models]
    return None if None in counts else float(np.mean(counts))


def _values_of(trial: Trial, stage: str) -> pl.DataFrame:
    """Return the values of users by seed; of the model that was trained again, if any."""
    frames = [_run_values(run, trial.cell, seed) for seed, run in trial.runs.items()]
    values = pl.concat(frames)
    retrained = values.filter(stage=f"{stage}{RETRAINED}")
    return retrained if len(retrained) else values.filter(stage=stage)


def _run_values(run: RunFolder, cell: str, seed: int) -> pl.DataFrame:
    """Return the values of a run's users, from its folder or from the file beside it."""
    if (run.path / "per_user.parquet").exists():
        return user_values(run, cell)
    return read_user_values(run.path.parent / STORED_VALUES).filter(cell=cell, seed=seed)


def _numbers(comparison: CellComparison) -> dict[str, Any]:
    ratio = comparison.log_ratio
    detectable = detectable_effect(ratio.standard_error, ratio.degrees_of_freedom)
    return {
        "value": round(float(np.expm1(ratio.value)), 6),
        "low": round(float(np.expm1(ratio.low)), 6),
        "high": round(float(np.expm1(ratio.high)), 6),
        "p_value": round(ratio.p_value, 6),
        "detectable": round(float(np.expm1(detectable)), 6),
        "equivalence_p_value": round(equivalence(ratio, margin=MARGIN).p_value, 6),
        "log_ratio": round(ratio.value, 8),
        "standard_error": round(ratio.standard_error, 8),
        "seeds": list(comparison.seeds),
    }
