"""The results of a run: metrics with their protocol, values per user, lists of a few users."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from recoach.data.dataset import Dataset
from recoach.data.split import leaked_share
from recoach.data.targets import Part, Targets, cold_targets_of, targets_of
from recoach.evaluation.evaluator import Evaluation, evaluate_targets, top_lists
from recoach.experiments.budget import training_budgets
from recoach.experiments.cold_items import cold_item_results
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.constraint_results import constraint_results
from recoach.experiments.measures import (
    LIST_LENGTH,
    beyond_accuracy,
    comparisons,
    mean_intervals,
    strata_metrics,
)
from recoach.experiments.resolved import resolved_settings
from recoach.experiments.run_folder import RETRAINED, RunFolder, environment
from recoach.models.base import Recommender
from recoach.models.registry import MODELS, build_model
from recoach.training.callbacks import TrainResult
from recoach.training.config import FinetuneConfig
from recoach.training.health import health_warnings

FORMAT = 1
_EXAMPLE_USERS = 6

StageName = Literal["base", "tuned", "control"]
"""The trained models of a run: base, fine-tuned, and after continued supervised training."""

_DIAGNOSTICS = (
    "log_ratio/abs_mean",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "temperature",
    "importance_sampling_ratio/ess",
    "target_clamped",
    "q_outside",
)
"""Logged values of fine-tuning that results hold, besides the distance from the base."""


class TrainedModel(NamedTuple):
    """A model of a run and the result of its training."""

    model: Recommender
    result: TrainResult


class TrainedStages(NamedTuple):
    """The models of a run, and the dataset whose train part all of them were trained on."""

    dataset: Dataset
    models: Mapping[StageName, TrainedModel]


class _Evaluated(NamedTuple):
    """The models of a run, with popularity and other references, and their evaluations."""

    dataset: Dataset
    models: dict[str, Recommender]
    evaluations: dict[str, dict[Part, Evaluation]]
    lists: dict[str, np.ndarray]
    """int64[B, 10], the list of each model for each test state."""

    @property
    def tests(self) -> dict[str, Evaluation]:
        return {name: parts["test"] for name, parts in self.evaluations.items()}


def write_results(
    folder: RunFolder,
    config: ExperimentConfig,
    selected: TrainedStages,
    retrained: TrainedStages | None = None,
) -> dict[str, Any]:
    """Write results.json, per_user.parquet and lists.json of a run; return the first's content.

    Args:
        folder: of the run.
        config: its settings.
        selected: the models that validation selected.
        retrained: the models that were trained again on train and validation. They are evaluated on
            the same test targets.
    """
    dataset, repeats = selected.dataset, config.evaluation.repeats
    parts: list[Part] = ["valid", "test"] if len(dataset.valid.values) else ["test"]
    targets = {part: targets_of(dataset, part, repeats) for part in parts}
    evaluated = _evaluate(selected, targets, config)
    results: dict[str, Any] = {
        "format": FORMAT,
        "name": folder.path.name,
        "dataset": _dataset_summary(dataset),
        "model": config.model_name,
        "seed": config.seed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "protocol": _protocol(config, evaluated, is_retrained=retrained is not None),
        **_model_results(evaluated, selected, config.finetune.metric),
    }
    for stage, budget in training_budgets(folder, selected.models).items():
        results["models"][stage]["budget"] = budget
    frames = [_per_user(evaluated)]
    best = evaluated
    if retrained is not None:
        targets = {"test": cold_targets_of(targets["test"], retrained.dataset)}
        best = _evaluate(retrained, targets, config)
        results["retrained"] = _model_results(best, retrained, config.finetune.metric)
        for stage, budget in training_budgets(folder, retrained.models, retrained=True).items():
            results["retrained"]["models"][stage]["budget"] = budget
        frames.append(_per_user(best, ending=RETRAINED))
    results |= {
        "served": _served(results["models"], config.finetune),
        "diagnostics": _diagnostics(
            folder.metrics(), dataset.n_items, getattr(config.finetune, "beta", 0.0)
        ),
        "resolved": resolved_settings(config, dataset, folder.metrics(), _tuned(selected)),
        "config": config.tables(),
        "environment": environment(),
    }
    bounds = constraint_results(config.finetune, best.dataset, best.models, best.tests, best.lists)
    results |= {"constraints": bounds} if bounds and "tuned" in best.models else {}
    folder.write_frame("per_user.parquet", pl.concat(frames))
    titles = folder.titles(dataset).to_list()
    folder.write_json("lists.json", _lists(config, best, titles))
    folder.write_json("results.json", results)
    return results


def _tuned(stages: TrainedStages) -> Recommender | None:
    trained = stages.models.get("tuned")
    return None if trained is None else trained.model


def _evaluate(
    stages: TrainedStages, targets: Mapping[Part, Targets], config: ExperimentConfig
) -> _Evaluated:
    """Evaluate the models of a run and the references that need no training."""
    dataset = stages.dataset
    references = ["popularity"]
    if targets["test"].repeated.any():
        references.append("repeat_last")
    models = {name: build_model(name, dataset) for name in references if name in MODELS}
    models |= {stage: trained.model for stage, trained in stages.models.items()}
    evaluations = {
        name: {
            part: evaluate_targets(model, dataset, targets[part], ks=config.evaluation.ks)
            for part in targets
        }
        for name, model in models.items()
    }
    lists = {
        name: top_lists(model, dataset, targets["test"], LIST_LENGTH)
        for name, model in models.items()
    }
    return _Evaluated(dataset, models, evaluations, lists)


def _model_results(evaluated: _Evaluated, stages: TrainedStages, primary: str) -> dict[str, Any]:
    """Return the part of the record on the models of one dataset."""
    tests = evaluated.tests
    return {
        "models": {
            name: _metrics(evaluated.evaluations[name], stages.models.get(name))  # type: ignore[call-overload]
            | {"intervals": mean_intervals(tests[name].metrics, tests[name].users)}
            | beyond_accuracy(tests[name], evaluated.dataset, evaluated.lists, name)
            | strata_metrics(tests[name])
            | _cold_items(name, evaluated)
            for name in evaluated.models
        },
        "comparisons": comparisons(tests, primary),
    }


def _cold_items(name: str, evaluated: _Evaluated) -> dict[str, Any]:
    model, test = evaluated.models[name], evaluated.tests[name]
    has_ndcg = "ndcg@10" in test.metrics
    return cold_item_results(model, evaluated.dataset, test) if has_ndcg else {}


def _metrics(
    evaluations: Mapping[Part, Evaluation], trained: TrainedModel | None
) -> dict[str, Any]:
    """Return the metrics of a model by split, and the steps and seconds of its training."""
    summary: dict[str, Any] = {
        split: {name: round(value, 6) for name, value in evaluation.means().items()}
        for split, evaluation in evaluations.items()
    }
    summary["seen_masked"] = evaluations["test"].protocol["seen_masked_for_this_model"]
    if trained is not None:
        result = trained.result
        summary |= {"steps": result.steps, "best_step": result.best_step}
        summary["seconds"] = round(result.seconds, 1)
        if result.share is not None:
            summary["share"] = result.share
    return summary


def _served(models: Mapping[str, Mapping[str, Any]], args: FinetuneConfig) -> str:
    """Return the stage whose model is served by default: the best on validation.

    Of equal ones it is the fine-tuned model, then the base. Without validation metrics, and where
    `select` asks for fine-tuned weights whatever validation says, it is the fine-tuned model, or
    the base of a run without one.
    """
    stages = [stage for stage in ("tuned", "base", "control") if stage in models]
    values = [models[stage].get("valid", {}).get(args.metric) for stage in stages]
    if args.select != "best" or None in values:
        return stages[0]
    return max(stages, key=lambda stage: float(models[stage]["valid"][args.metric]))


def _dataset_summary(dataset: Dataset) -> dict[str, Any]:
    n_interactions = sum(len(part.values) for part in (dataset.train, dataset.valid, dataset.test))
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": n_interactions,
        "average_length": round(n_interactions / dataset.n_users, 3),
        "density": n_interactions / (dataset.n_users * dataset.n_items),
    }


def _protocol(
    config: ExperimentConfig, evaluated: _Evaluated, *, is_retrained: bool
) -> dict[str, Any]:
    dataset, base = evaluated.dataset, evaluated.tests["base"]
    protocol = base.protocol
    keys = (
        *("ranking", "repeats", "ties", "n_users", "n_states", "n_targets", "n_items"),
        *("repeated_targets", "cold_targets", "excluded", "ks"),
    )
    return {
        "split": dataset.split.kind,
        "split_settings": dataset.split.model_dump(mode="json", exclude_none=True),
        "leaked_targets": leaked_share(dataset),
        **{key: protocol[key] for key in keys},
        "selection": _selection(config.finetune),
        "primary": config.finetune.metric,
        "retrained": is_retrained,
        "control_missing": _why_no_control(config, evaluated),
        "interval": "95 %, paired bootstrap over users"
        if protocol["n_states"] == protocol["n_users"]
        else "95 %, paired cluster bootstrap by user",
    }


def _selection(args: FinetuneConfig) -> str:
    """Return what selects the weights of the fine-tuned model, for reports."""
    rule = "the last step" if args.select == "last" else f"valid/{args.metric}"
    if args.start == "scratch":
        return f"{rule}, fine-tuning starts from fresh weights and the base is no candidate"
    return f"{rule}, step 0 a candidate" if args.select == "best" else rule


def _why_no_control(config: ExperimentConfig, evaluated: _Evaluated) -> str | None:
    """Return why a fine-tuned model is not compared to continued training; None if it is."""
    if "tuned" not in evaluated.models or "control" in evaluated.models:
        return None
    if not config.evaluation.control:
        return "evaluation.control is off"
    return "the model has no loss of its own to continue with"


def _per_user(evaluated: _Evaluated, ending: str = "") -> pl.DataFrame:
    """Return the test metrics of every state: a user and the number of events before it."""
    frames = []
    for name, evaluation in evaluated.tests.items():
        users = evaluated.dataset.user_ids.gather(evaluation.users)
        states = {
            "user_id": users,
            "model": pl.repeat(name + ending, len(users), eager=True),
            "history": evaluation.targets.ends,
        }
        values = {metric: v.astype(np.float32) for metric, v in evaluation.metrics.items()}
        frames.append(pl.DataFrame(states | values))
    return pl.concat(frames)


def _lists(
    config: ExperimentConfig, evaluated: _Evaluated, titles: list[str]
) -> list[dict[str, Any]]:
    """Return histories and lists of a few users, sampled by the seed and not by their results."""
    dataset, models, tests = evaluated.dataset, evaluated.models, evaluated.tests
    targets = tests["base"].targets
    sampled = np.random.default_rng(config.seed).permutation(len(targets.users))[:_EXAMPLE_USERS]
    examples = np.zeros(len(targets.users), dtype=np.bool_)
    examples[sampled] = True
    place = np.cumsum(examples) - 1
    names = [name for name in ("base", "tuned") if name in models]
    lists = {
        name: top_lists(models[name], dataset, targets.select(examples), LIST_LENGTH)
        for name in names
    }
    first = np.cumsum(targets.counts) - targets.counts
    rows = []
    for index in sampled:
        user, end = int(targets.users[index]), int(targets.ends[index])
        row: dict[str, Any] = {
            "user": dataset.user_ids[user],
            "history": [titles[i] for i in targets.past.row(user)[:end][-10:]],
            "target": titles[int(targets.items[first[index]])],
        }
        for name in names:
            row[name] = [titles[i] for i in lists[name][place[index]] if i >= 0]
            row[f"{name}_rank"] = int(min(tests[name].ranks[first[index]], dataset.n_items))
        rows.append(row)
    return rows


def _diagnostics(rows: Sequence[Mapping[str, Any]], n_items: int, beta: float) -> dict[str, Any]:
    """Return the first and last logged GRPO metrics, the validation curve and health warnings."""
    tuned = [row for row in rows if row["stage"] == "tuned"]
    if not tuned:
        return {}
    ends = {"first": next((row for row in tuned if row["step"] > 0), tuned[0]), "last": tuned[-1]}
    diagnostics: dict[str, Any] = {
        end: {
            name: round(float(value), 6)
            for name, value in row.items()
            if name in _DIAGNOSTICS or name.startswith("drift/")
        }
        for end, row in ends.items()
    }
    metric = "valid/ndcg@10"
    curve = [[int(row["step"]), round(float(row[metric]), 6)] for row in tuned if metric in row]
    warnings = health_warnings(ends["last"], {**ends["first"], **tuned[0]}, n_items, beta)
    return diagnostics | {"curve": curve} | ({"concerns": warnings} if warnings else {})
