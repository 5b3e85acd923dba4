"""The results of a run: metrics with their protocol, values per user, lists of a few users."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from recoach.data.dataset import Dataset
from recoach.data.queries import Split
from recoach.data.split import leaked_share
from recoach.data.targets import targets_of
from recoach.evaluation.beyond_accuracy import RecommendationLists, list_metrics
from recoach.evaluation.evaluator import Evaluation, evaluate_targets, top_lists
from recoach.evaluation.significance import paired_bootstrap
from recoach.evaluation.strata import Activity, Bucket, activity_groups, popularity_buckets
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.run_folder import RunFolder, environment
from recoach.models.base import Recommender
from recoach.models.registry import build_model
from recoach.training.callbacks import TrainResult
from recoach.training.health import health_warnings

FORMAT = 1
_EXAMPLE_USERS = 6
_LIST_LENGTH = 10
_SPLITS: tuple[Split, ...] = ("valid", "test")

StageName = Literal["base", "tuned", "control"]
"""The trained models of a run: base, fine-tuned, and after continued supervised training."""

_GRPO_METRICS = (
    "log_ratio/abs_mean",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "temperature",
)
"""Metrics of GRPO that results hold, besides the distance of the embeddings from the base."""


class TrainedModel(NamedTuple):
    """A model of a run and the result of its training."""

    model: Recommender
    result: TrainResult


def write_results(
    folder: RunFolder,
    config: ExperimentConfig,
    dataset: Dataset,
    trained: Mapping[StageName, TrainedModel],
) -> dict[str, Any]:
    """Write results.json, per_user.parquet and lists.json of a run; return the first's content."""
    models: dict[str, Recommender] = {"popularity": build_model("popularity", dataset)}
    models |= {stage: trained[stage].model for stage in trained}
    ks, repeats = config.evaluation.ks, config.evaluation.repeats
    targets = {split: targets_of(dataset, split, repeats) for split in _SPLITS}
    evaluations = {
        name: {s: evaluate_targets(model, dataset, targets[s], ks=ks) for s in _SPLITS}
        for name, model in models.items()
    }
    tests = {name: splits["test"] for name, splits in evaluations.items()}
    lists = {
        name: top_lists(model, dataset, targets["test"], _LIST_LENGTH)
        for name, model in models.items()
    }
    results: dict[str, Any] = {
        "format": FORMAT,
        "name": folder.path.name,
        "dataset": _dataset_summary(dataset),
        "model": config.model_name,
        "seed": config.seed,
        "protocol": _protocol(config, dataset, tests),
        "models": {
            name: _metrics(evaluations[name], trained.get(name))  # type: ignore[call-overload]
            | _beyond_accuracy(name, lists, dataset, tests[name])
            for name in models
        },
        "comparisons": _comparisons(tests),
        "diagnostics": _diagnostics(
            folder.metrics(), dataset.n_items, getattr(config.finetune, "beta", 0.0)
        ),
        "config": config.tables(),
        "environment": environment(),
    }
    folder.write_frame("per_user.parquet", _per_user(dataset, tests))
    titles = folder.titles(dataset.item_ids).to_list()
    folder.write_json("lists.json", _lists(config, dataset, models, tests, titles))
    folder.write_json("results.json", results)
    return results


def _metrics(
    evaluations: Mapping[Split, Evaluation], trained: TrainedModel | None
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


def _beyond_accuracy(
    name: str, lists: Mapping[str, np.ndarray], dataset: Dataset, test: Evaluation
) -> dict[str, Any]:
    """Return list metrics, and recall by popularity of the target and by length of the history.

    A recommended item is unexpected if the popularity model does not recommend it.
    """
    buckets = popularity_buckets(
        test.targets.items, test.ranks, dataset.train, dataset.n_items, k=_LIST_LENGTH
    )
    test_users = np.repeat(test.users, test.targets.counts)
    groups = activity_groups(dataset.train.lengths[test_users], test.ranks, k=_LIST_LENGTH)
    recommended = RecommendationLists(
        lists[name],
        dataset.train,
        dataset.n_items,
        targets=(test.targets.states, test.targets.items),
        expected=lists["popularity"],
    )
    metrics = list_metrics(recommended)
    return {
        "lists": {metric: round(value, 6) for metric, value in metrics.items()},
        "popularity_buckets": [_group_entry(bucket) for bucket in buckets if bucket.targets],
        "activity_groups": [_group_entry(group) for group in groups],
    }


def _group_entry(group: Bucket | Activity) -> dict[str, Any]:
    entry: dict[str, Any] = group._asdict()
    recall = entry.pop("recall")
    return entry | {f"recall@{_LIST_LENGTH}": round(recall, 6)}


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
    config: ExperimentConfig, dataset: Dataset, tests: Mapping[str, Evaluation]
) -> dict[str, Any]:
    protocol = next(iter(tests.values())).protocol
    keys = (
        *("ranking", "repeats", "ties", "n_users", "n_states", "n_targets", "n_items"),
        *("repeated_targets", "cold_targets", "excluded", "ks"),
    )
    return {
        "split": dataset.split.kind,
        "split_settings": dataset.split.model_dump(mode="json", exclude_none=True),
        "leaked_targets": leaked_share(dataset),
        **{key: protocol[key] for key in keys},
        "selection": {
            "best": f"valid/{config.finetune.metric}, step 0 a candidate",
            "best_tuned": f"valid/{config.finetune.metric}",
            "last": "the last step",
        }[config.finetune.select],
        "interval": "95 %, paired bootstrap over users",
    }


def _comparisons(tests: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    pairs = [("tuned", "base"), ("control", "base"), ("tuned", "control"), ("base", "popularity")]
    return [
        {"a": a, "b": b, "split": "test", "metric": metric}
        | {
            name: round(value, 8) if isinstance(value, float) else value
            for name, value in paired_bootstrap(
                tests[a].metrics[metric], tests[b].metrics[metric], clusters=tests[a].users
            )
            ._asdict()
            .items()
        }
        for a, b in pairs
        if a in tests and b in tests
        for metric in tests[a].metrics
    ]


def _per_user(dataset: Dataset, tests: Mapping[str, Evaluation]) -> pl.DataFrame:
    frames = []
    for name, evaluation in tests.items():
        values = {metric: v.astype(np.float32) for metric, v in evaluation.metrics.items()}
        frame = pl.DataFrame({"user_id": dataset.user_ids.gather(evaluation.users), **values})
        frames.append(frame.insert_column(1, pl.lit(name).alias("model")))
    return pl.concat(frames)


def _lists(
    config: ExperimentConfig,
    dataset: Dataset,
    models: Mapping[str, Recommender],
    tests: Mapping[str, Evaluation],
    titles: list[str],
) -> list[dict[str, Any]]:
    """Return histories and lists of a few users, sampled by the seed and not by their results."""
    targets = tests["base"].targets
    sampled = np.random.default_rng(config.seed).permutation(len(targets.users))[:_EXAMPLE_USERS]
    examples = np.zeros(len(targets.users), dtype=np.bool_)
    examples[sampled] = True
    place = np.cumsum(examples) - 1
    names = [name for name in ("base", "tuned") if name in models]
    lists = {
        name: top_lists(models[name], dataset, targets.select(examples), _LIST_LENGTH)
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
            if name in _GRPO_METRICS or name.startswith("drift/")
        }
        for end, row in ends.items()
    }
    metric = "valid/ndcg@10"
    curve = [[int(row["step"]), round(float(row[metric]), 6)] for row in tuned if metric in row]
    warnings = health_warnings(ends["last"], {**ends["first"], **tuned[0]}, n_items, beta)
    return diagnostics | {"curve": curve} | ({"concerns": warnings} if warnings else {})
