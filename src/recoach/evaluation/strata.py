"""Metrics by stratum: by event type, repeats, cold items, history length, popularity, user group.

A label is the number of a stratum; targets and states with a label outside the named strata, such
as -1, are in none.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recoach.data.dataset import RaggedArray
from recoach.evaluation.metrics import TargetRanks, metrics_per_user


class Stratum(NamedTuple):
    """Metrics of one stratum, averaged over its states."""

    states: int
    """Number of states in the stratum."""
    targets: int | None
    """Number of distinct targets in the stratum; None if states were given without targets."""
    means: dict[str, float]
    """`"ndcg@10"` -> mean over the states; nan without states."""


class Bucket(NamedTuple):
    """Recall on the items of one range of popularity; the first bucket has the most popular."""

    items: int
    """Number of items."""
    targets: int
    """Number of targets among these items."""
    recall: float
    """Fraction of the targets ranked within the top k; nan without targets."""


class Activity(NamedTuple):
    """Recall on the users of one range of history length."""

    shortest: int
    """Length of the shortest history."""
    longest: int
    """Length of the longest history."""
    targets: int
    """Number of targets of these users."""
    recall: float
    """Fraction of the targets ranked within the top k."""


def defined_mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not nan; nan without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def target_strata(
    targets: TargetRanks,
    labels: np.ndarray,
    strata: Sequence[str],
    ks: Sequence[int],
    names: Sequence[str] | None = None,
) -> dict[str, Stratum]:
    """Return the metrics of each stratum of targets.

    A stratum is evaluated on its own targets: they alone count as hits, and the divisors of recall,
    MAP and NDCG count them alone. The other targets of a state stay in the ranking. States without
    a target in the stratum are left out.

    Args:
        targets: the ranks of all N targets. An item that is a target of a state twice, with two
            labels, counts in both strata.
        labels: int64[N] stratum of each target. Strata of states: `labels[targets.states]`.
        strata: their names.
        ks: list lengths.
        names: of metrics, as for `metrics_per_user`.
    """
    result = {}
    for label, stratum in enumerate(strata):
        selected = targets.select(labels == label).distinct()
        values = metrics_per_user(selected, ks, names)
        means = {name: defined_mean(value) for name, value in values.items()}
        result[stratum] = Stratum(len(selected.counts), int(selected.counts.sum()), means)
    return result


def state_strata(
    values: Mapping[str, np.ndarray], labels: np.ndarray, strata: Sequence[str]
) -> dict[str, Stratum]:
    """Return the means of each stratum of states, such as a group of users.

    Args:
        values: `"novelty@10"` -> float64[B]; nan where a metric is not defined for a state, which
            its mean leaves out.
        labels: int64[B] stratum of each state.
        strata: their names.
    """
    return {
        stratum: Stratum(
            int((labels == label).sum()),
            None,
            {name: defined_mean(value[labels == label]) for name, value in values.items()},
        )
        for label, stratum in enumerate(strata)
    }


def largest_gap(strata: Mapping[str, Stratum], metric: str) -> float:
    """Return the largest mean of a metric over strata minus the smallest.

    Over groups of users this is the gap in quality between the groups (unfairness to users as in Fu
    et al. 2020 and Li et al. 2021, there of two groups). Empty strata are left out.

    Returns:
        At least 0; nan if fewer than two strata have a value.
    """
    means = [stratum.means[metric] for stratum in strata.values()]
    means = [mean for mean in means if not np.isnan(mean)]
    return max(means) - min(means) if len(means) > 1 else float("nan")


def popularity_buckets(
    targets: np.ndarray,
    ranks: np.ndarray,
    train: RaggedArray,
    n_items: int,
    *,
    k: int,
    count: int = 5,
) -> list[Bucket]:
    """Return recall by popularity of the target item, in buckets of equally many interactions.

    Args:
        targets: int64[N] held-out items.
        ranks: int64[N] their ranks.
        train: the training histories.
        n_items: number of items in the catalogue.
        k: list length.
        count: number of buckets.
    """
    bucket = popularity_labels(np.bincount(train.values, minlength=n_items), count)
    n_bucket_items = np.bincount(bucket, minlength=count)
    n_targets = np.bincount(bucket[targets], minlength=count)
    hits = np.bincount(bucket[targets], weights=ranks <= k, minlength=count)
    return [
        Bucket(int(n), int(m), float(h / m) if m else float("nan"))
        for n, m, h in zip(n_bucket_items, n_targets, hits, strict=True)
    ]


def activity_groups(
    lengths: np.ndarray, ranks: np.ndarray, *, k: int, count: int = 4
) -> list[Activity]:
    """Return recall by length of the user's history, in groups with similar numbers of targets.

    Args:
        lengths: int64[N] history length of each target's user.
        ranks: int64[N] ranks of the targets.
        k: list length.
        count: maximum number of groups; users with the same length are in the same group.
    """
    group_index = length_labels(lengths, count)
    groups = []
    for index in np.unique(group_index):
        in_group = group_index == index
        bounds = int(lengths[in_group].min()), int(lengths[in_group].max())
        recall = float((ranks[in_group] <= k).mean())
        groups.append(Activity(*bounds, int(in_group.sum()), recall))
    return groups


def popularity_labels(popularity: np.ndarray, count: int = 5) -> np.ndarray:
    """Return int64[I], the bucket of each item, in buckets of equally many interactions.

    Args:
        popularity: int64[I] number of training interactions of each item.
        count: number of buckets; bucket 0 has the most popular items.
    """
    order = np.argsort(-popularity, kind="stable")
    interactions_before = np.cumsum(popularity[order]) - popularity[order]
    labels = np.empty(len(popularity), dtype=np.int64)
    labels[order] = np.minimum(interactions_before * count // max(1, popularity.sum()), count - 1)
    return labels


def length_labels(lengths: np.ndarray, count: int = 4) -> np.ndarray:
    """Return int64[N], the group of each history, in groups of similarly many, shortest first.

    Args:
        lengths: int64[N] history lengths.
        count: maximum number of groups; histories of the same length are in the same group.
    """
    if len(lengths) == 0:
        return np.empty(0, dtype=np.int64)
    edges = np.unique(np.quantile(lengths, np.arange(1, count) / count, method="higher"))
    return np.searchsorted(edges, lengths, side="right")
