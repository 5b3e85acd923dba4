"""What a model's lists are like, beyond whether they hit: one number for all users.

Popularity is the number of training interactions of an item; everything is computed from the
log, no item features are needed.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from recoach.data.split import RaggedArray

_LISTS_AT_ONCE = 2048


class Bucket(NamedTuple):
    """Targets of like popularity; the first bucket holds the most popular items."""

    items: int
    targets: int
    recall: float
    """Share of the bucket's targets within the first k; nan where there is none."""


class Activity(NamedTuple):
    """Targets of users with histories of like length."""

    shortest: int
    longest: int
    targets: int
    recall: float
    """Share of the group's targets within the first k."""


def list_metrics(lists: np.ndarray, train: RaggedArray, n_items: int) -> dict[str, float]:
    """Return coverage, Gini, popularity, novelty and diversity of lists, named like "gini@10".

    Args:
        lists: int[B, k] items, best first; -1 where a list ends early.
        train: the training histories.
        n_items: size of the catalogue.

    Returns:
        `coverage`: share of the catalogue in any list. `gini`: of how often items are shown, 0
        where all are shown alike, near 1 where few are. `popularity`: mean training interactions
        of what is shown. `novelty`: mean -log2 of the share of users who took it (an item nobody
        took counts as taken once). `diversity`: 1 - mean cosine of the items' sets of users, over
        the pairs within a list.
    """
    k = lists.shape[1]
    shown = lists[lists >= 0]
    exposure = np.bincount(shown, minlength=n_items)
    taken = np.bincount(train.values, minlength=n_items)
    takers = np.maximum(np.diff(_takers(train, n_items).indptr), 1)
    return {
        f"coverage@{k}": float((exposure > 0).mean()),
        f"gini@{k}": gini(exposure),
        f"popularity@{k}": float(taken[shown].mean()),
        f"novelty@{k}": float(-np.log2(takers[shown] / len(train)).mean()),
        f"diversity@{k}": _diversity(lists, train, n_items),
    }


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of counts, 0 where all are equal.

    Args:
        counts: int64[I] >= 0, not all 0.
    """
    rising = np.sort(counts).astype(np.float64)
    ranks = 2 * np.arange(1, len(rising) + 1) - len(rising) - 1
    return float((ranks * rising).sum() / (len(rising) * rising.sum()))


def popularity_buckets(
    targets: np.ndarray,
    ranks: np.ndarray,
    train: RaggedArray,
    n_items: int,
    *,
    k: int,
    count: int = 5,
) -> list[Bucket]:
    """Return recall by popularity of the target, in buckets of equally many interactions.

    Args:
        targets: int64[N] held-out items.
        ranks: int64[N] their ranks.
        train: the training histories.
        n_items: size of the catalogue.
        k: list length.
        count: number of buckets.
    """
    taken = np.bincount(train.values, minlength=n_items)
    order = np.argsort(-taken, kind="stable")
    reached = np.cumsum(taken[order]) - taken[order]
    bucket = np.empty(n_items, dtype=np.int64)
    bucket[order] = np.minimum(reached * count // max(1, len(train.values)), count - 1)
    sizes = np.bincount(bucket, minlength=count)
    found = np.bincount(bucket[targets], minlength=count)
    hits = np.bincount(bucket[targets], weights=ranks <= k, minlength=count)
    return [
        Bucket(int(n), int(m), float(h / m) if m else float("nan"))
        for n, m, h in zip(sizes, found, hits, strict=True)
    ]


def activity_groups(
    lengths: np.ndarray, ranks: np.ndarray, *, k: int, count: int = 4
) -> list[Activity]:
    """Return recall by length of the user's history, in groups of about as many targets.

    Args:
        lengths: int64[N] length of the history of each target's user.
        ranks: int64[N] ranks of the targets.
        k: list length.
        count: groups at most; users with histories of one length are never parted.
    """
    edges = np.unique(np.quantile(lengths, np.arange(1, count) / count, method="higher"))
    group = np.searchsorted(edges, lengths, side="right")
    found = []
    for number in np.unique(group):
        inside = group == number
        bounds = int(lengths[inside].min()), int(lengths[inside].max())
        recall = float((ranks[inside] <= k).mean())
        found.append(Activity(*bounds, int(inside.sum()), recall))
    return found


def _takers(train: RaggedArray, n_items: int) -> sparse.csr_matrix:
    """Return the binary items × users matrix."""
    users = np.repeat(np.arange(len(train)), train.lengths)
    ones = np.ones(len(train.values), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (train.values, users)), shape=(n_items, len(train)))
    matrix.data[:] = 1
    return matrix


def _diversity(lists: np.ndarray, train: RaggedArray, n_items: int) -> float:
    """Return 1 - mean cosine: the squared length of a list's summed unit rows holds all pairs."""
    takers = _takers(train, n_items)
    lengths = np.sqrt(np.diff(takers.indptr))
    units = (sparse.diags(1 / np.maximum(lengths, 1)) @ takers).tocsr()
    similar, pairs = 0.0, 0
    for start in range(0, len(lists), _LISTS_AT_ONCE):
        part = lists[start : start + _LISTS_AT_ONCE]
        rows, places = np.nonzero(part >= 0)
        items = part[rows, places]
        chosen = sparse.csr_matrix(
            (np.ones(len(items), dtype=np.float32), (rows, items)), shape=(len(part), n_items)
        )
        sums = chosen @ units
        known = np.bincount(rows, weights=lengths[items] > 0, minlength=len(part))
        sizes = np.bincount(rows, minlength=len(part))
        similar += float(sums.multiply(sums).sum() - known.sum())
        pairs += int((sizes * (sizes - 1)).sum())
    return 1 - similar / pairs if pairs else 0.0
