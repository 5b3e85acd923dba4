"""Test metrics of the models of a run with intervals, as entries of results.json."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recoach.data.dataset import Dataset
from recoach.evaluation.beyond_accuracy import RecommendationLists, list_metrics, metrics_per_list
from recoach.evaluation.evaluator import Evaluation
from recoach.evaluation.metrics import METRICS, TargetRanks, metrics_per_user
from recoach.evaluation.significance import (
    detectable_difference,
    holm_levels,
    holm_p_values,
    mean_interval,
    paired_bootstrap,
)
from recoach.evaluation.strata import (
    Activity,
    Bucket,
    Stratum,
    activity_groups,
    length_labels,
    popularity_buckets,
    popularity_labels,
    target_strata,
)

LIST_LENGTH = 10
_N_BUCKETS = 5
_PAIRS = (("tuned", "base"), ("control", "base"), ("tuned", "control"), ("base", "popularity"))
_FAMILY = ("recall", "ndcg", "value")
"""Metrics that the report shows, and whose comparisons are adjusted."""


def mean_intervals(values: Mapping[str, np.ndarray], users: np.ndarray) -> dict[str, list[float]]:
    """Return the 95 % interval of the mean of each metric; none where no value is defined.

    Args:
        values: `"ndcg@10"` -> float64[B], the metric of each state.
        users: int64[B], the user of each state.
    """
    intervals = {name: mean_interval(v, clusters=users) for name, v in values.items()}
    return {
        name: [round(low, 6), round(high, 6)]
        for name, (low, high) in intervals.items()
        if math.isfinite(low)
    }


def beyond_accuracy(
    test: Evaluation, dataset: Dataset, lists: Mapping[str, np.ndarray], model: str
) -> dict[str, Any]:
    """Return list metrics, and recall by popularity of the target and by length of the history.

    A recommended item is unexpected if the popularity model does not recommend it.

    Args:
        test: the evaluation of the model.
        dataset: on whose train part the model was trained.
        lists: int64[B, 10] of every model by its name; `popularity` must be among them.
        model: its name.
    """
    test_users = np.repeat(test.users, test.targets.counts)
    buckets = popularity_buckets(
        *(test.targets.items, test.ranks, dataset.train, dataset.n_items),
        k=LIST_LENGTH,
        count=_N_BUCKETS,
    )
    lengths = dataset.train.lengths[test_users]
    groups = activity_groups(lengths, test.ranks, k=LIST_LENGTH)
    popularity = np.bincount(dataset.train.values, minlength=dataset.n_items)
    bucket_labels = popularity_labels(popularity, _N_BUCKETS)[test.targets.items]
    bucket_intervals = _recall_intervals(bucket_labels, test.ranks, test_users)
    group_intervals = _recall_intervals(length_labels(lengths), test.ranks, test_users)
    recommended = RecommendationLists(
        lists[model],
        dataset.train,
        dataset.n_items,
        targets=(test.targets.states, test.targets.items),
        expected=lists["popularity"],
    )
    per_list = metrics_per_list(recommended)
    metrics = list_metrics(recommended, per_list)
    return {
        "lists": {metric: round(value, 6) for metric, value in metrics.items()},
        "list_intervals": mean_intervals(per_list, test.users),
        "popularity_buckets": [
            _group_entry(bucket, bucket_intervals[index])
            | {"interactions": [index / _N_BUCKETS, (index + 1) / _N_BUCKETS]}
            for index, bucket in enumerate(buckets)
            if bucket.targets
        ],
        "activity_groups": [
            _group_entry(group, group_intervals[label])
            for group, label in zip(groups, sorted(group_intervals), strict=True)
        ],
    }


def strata_metrics(test: Evaluation) -> dict[str, Any]:
    """Return the metrics by kind of target, for the kinds of which the targets are several."""
    targets = test.targets
    kinds: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "repeats": (targets.repeated.astype(np.int64), ("new", "repeat")),
        "cold": (targets.cold.astype(np.int64), ("warm", "cold")),
    }
    event_types = targets.column("event_type")
    if event_types is not None and isinstance(event_types.dtype, pl.Enum):
        labels = event_types.to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
        kinds["event_type"] = (labels, event_types.dtype.categories.to_list())
    ranks = TargetRanks(test.ranks, targets.states, targets.counts)
    names = [name for name in METRICS if name != "value"]
    strata = {}
    for kind, (labels, labelled) in kinds.items():
        if kind == "event_type" or len(np.unique(labels)) > 1:
            found = target_strata(ranks, labels, labelled, test.protocol["ks"], names)
            strata[kind] = {
                name: _stratum_entry(found[name], ranks, labels == label, test)
                for label, name in enumerate(labelled)
                if found[name].states
            }
    return {"strata": strata}


def comparisons(tests: Mapping[str, Evaluation], primary: str) -> list[dict[str, Any]]:
    """Return the paired comparisons of the models, with Holm's adjustment of the secondary metrics.

    Recall, NDCG and value at every k are one family of tests for each pair of models, without the
    primary metric, which is tested once and not adjusted. Their entries have `adjusted`: p-value,
    interval and verdict that hold for the whole family. Other metrics are not adjusted.

    Args:
        tests: the evaluation of each model.
        primary: the metric that selected the checkpoints, such as "ndcg@10".
    """
    entries = []
    for a, b in _PAIRS:
        if a in tests and b in tests:
            entries += _compare(a, b, tests[a], tests[b], primary)
    return entries


def _compare(
    a: str, b: str, ours: Evaluation, theirs: Evaluation, primary: str
) -> list[dict[str, Any]]:
    compared = {
        metric: paired_bootstrap(values, theirs.metrics[metric], clusters=ours.users)
        for metric, values in ours.metrics.items()
    }
    family = [m for m in compared if m.partition("@")[0] in _FAMILY and m != primary]
    raw = [compared[metric].p_value for metric in family]
    adjusted = {}
    for metric, p_value, level in zip(family, holm_p_values(raw), holm_levels(raw), strict=True):
        values = ours.metrics[metric], theirs.metrics[metric]
        wider = paired_bootstrap(*values, clusters=ours.users, alpha=level)
        adjusted[metric] = {
            "p_value": round(p_value, 8),
            "level": round(level, 8),
            "low": round(wider.low, 8),
            "high": round(wider.high, 8),
            "verdict": wider.verdict,
        }
    detectable = {}
    for metric, first in ours.metrics.items():
        difference = detectable_difference(first, theirs.metrics[metric], ours.users)
        if math.isfinite(difference):
            detectable[metric] = {"detectable": round(difference, 8)}
    return [
        {"a": a, "b": b, "split": "test", "metric": metric}
        | comparison.to_record(8)
        | detectable.get(metric, {})
        | ({"adjusted": adjusted[metric]} if metric in adjusted else {})
        for metric, comparison in compared.items()
    ]


def _stratum_entry(
    stratum: Stratum, ranks: TargetRanks, is_selected: np.ndarray, test: Evaluation
) -> dict[str, Any]:
    """Return the metrics of a stratum, with intervals of recall and NDCG."""
    users = test.users[np.unique(ranks.states[is_selected])]
    values = metrics_per_user(ranks.select(is_selected), test.protocol["ks"], ("recall", "ndcg"))
    return (
        {"states": stratum.states, "targets": stratum.targets}
        | {metric: round(value, 6) for metric, value in stratum.means.items()}
        | {"intervals": mean_intervals(values, users)}
    )


def _recall_intervals(
    labels: np.ndarray, ranks: np.ndarray, users: np.ndarray
) -> dict[int, list[float]]:
    """Return the interval of recall@10 of each group of targets, by its label."""
    hits = (ranks <= LIST_LENGTH).astype(np.float64)
    intervals = {}
    for label in np.unique(labels):
        in_group = labels == label
        low, high = mean_interval(hits[in_group], clusters=users[in_group])
        intervals[int(label)] = [round(low, 6), round(high, 6)]
    return intervals


def _group_entry(group: Bucket | Activity, interval: list[float]) -> dict[str, Any]:
    entry: dict[str, Any] = group._asdict()
    recall = entry.pop("recall")
    return entry | {f"recall@{LIST_LENGTH}": round(recall, 6), "interval": interval}
