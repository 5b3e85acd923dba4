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

from recoach.data.files import read_parquet
from recoach.evaluation.crossed_effects import crossed_log_ratio, user_means
from recoach.evaluation.estimates import Estimate, detectable_effect, equivalence
from recoach.evaluation.significance import holm_p_values
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.reproduction.ladder_cells import MODELS, PROTOCOLS, RATES, Rung, rungs_of

METRIC: Final = "ndcg@10"
REFERENCE: Final = "recipe"
MARGIN: Final = 0.01
"""The relative difference below which two models count as equivalent, fixed before any run."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A rung with one learning rate: its finished runs by seed."""

    rate: float
    runs: Mapping[int, RunFolder]


@dataclass(frozen=True, slots=True)
class Selected:
    """A model of the trial that validation selected."""

    rung: str
    stage: str
    rate: float
    trials: int
    valid: float
    """Validation metric, averaged over the seeds that all trials have."""
    runs: Mapping[int, RunFolder]


def contrasts(
    trials: Mapping[str, Sequence[Trial]], rungs: Mapping[str, Rung]
) -> list[dict[str, Any]]:
    """Return a row for each model of each rung, compared with the recipe.

    Args:
        trials: the trials of each rung that has any; nothing is compared without the recipe.
        rungs: all of them by name; tells which have a control.

    Returns:
        Rows with rung, stage, rate, number of trials, validation and test means and seeds; and,
        under `recipe_against`, the relative difference of the recipe (`value`, `low`, `high`), the
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
            "rate": one.rate,
            "trials": one.trials,
            "valid": round(one.valid, 6),
            "test": round(float(_values(one, sorted(one.runs)).mean()), 6),
            "seeds": sorted(one.runs),
        }
        seeds = sorted(set(one.runs) & set(reference.runs)) if reference else []
        if reference is not None and one is not reference and seeds:
            ours, theirs = _values(reference, seeds), _values(one, seeds)
            row["recipe_against"] = _compare(crossed_log_ratio(ours, theirs), seeds)
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
        before, after = name.split("*")
        runs = {}
        for path in sorted(folder.glob(f"{name}/results.json")):
            seed = path.parent.name.removeprefix(before).removesuffix(after)
            if seed.isdecimal():
                runs[int(seed)] = RunFolder(path.parent)
        if runs:
            found.append(Trial(rate, runs))
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
    return Selected(rung, stage, trial.rate, len(trials), means[best], trial.runs)


def _valid(run: RunFolder, stage: str) -> float:
    return float(run.read_json("results.json")["models"][stage]["valid"][METRIC])


def _values(model: Selected, seeds: Sequence[int]) -> np.ndarray:
    """Return float[U, S], the metric of each user and seed; of the model trained again, if any."""
    frames = [_states(model.runs[seed], model.stage) for seed in seeds]
    values = np.stack([frame[METRIC].to_numpy().astype(np.float64) for frame in frames], axis=1)
    return user_means(values, frames[0]["user_id"].rank("dense").to_numpy())


def _states(run: RunFolder, stage: str) -> pl.DataFrame:
    """Return the test metrics of a model by state, sorted; of the model trained again, if any."""
    frame = read_parquet(run.path / "per_user.parquet")
    retrained = f"{stage}{RETRAINED}"
    name = retrained if (frame["model"] == retrained).any() else stage
    return frame.filter(pl.col("model") == name).sort("user_id", "history")


def _compare(log_ratio: Estimate, seeds: Sequence[int]) -> dict[str, Any]:
    detectable = detectable_effect(log_ratio.standard_error, log_ratio.degrees_of_freedom)
    same = equivalence(log_ratio, margin=MARGIN)
    return {
        "value": round(float(np.expm1(log_ratio.value)), 6),
        "low": round(float(np.expm1(log_ratio.low)), 6),
        "high": round(float(np.expm1(log_ratio.high)), 6),
        "p_value": round(log_ratio.p_value, 6),
        "detectable": round(float(np.expm1(detectable)), 6),
        "equivalence_p_value": round(same.p_value, 6),
        "log_ratio": round(log_ratio.value, 8),
        "standard_error": round(log_ratio.standard_error, 8),
        "seeds": list(seeds),
    }
