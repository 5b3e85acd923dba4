"""Metrics as functions of ranks: one value for each user, averages come later."""

from collections.abc import Callable, Sequence

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""(ranks int64[N], state of each rank int64[N], targets per state int64[B], k) -> float64[B]."""


def recall(ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return the share of a user's targets within the first k (with one target: the hit rate)."""
    hits = np.bincount(states, weights=ranks <= k, minlength=len(counts))
    share: np.ndarray = hits / counts
    return share


def ndcg(ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return the discounted gain within the first k, over that of the ideal list."""
    gains = np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)
    ideal = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
    gained = np.bincount(states, weights=gains, minlength=len(counts))
    best: np.ndarray = gained / ideal[np.minimum(counts, k) - 1]
    return best


def mrr(ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return one over the rank of the first target, 0 where it is beyond k."""
    first = np.full(len(counts), np.iinfo(np.int64).max)
    np.minimum.at(first, states, ranks)
    return np.where(first <= k, 1.0 / first, 0.0)


METRICS: dict[str, Metric] = {"mrr": mrr, "ndcg": ndcg, "recall": recall}

METRIC_NAME = rf"^({'|'.join(METRICS)})@[1-9]\d*$"
"""What a metric at a cut-off is called, like "ndcg@10"."""


def per_user(
    ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return every metric at every k, as `"ndcg@10" -> float64[B]`.

    Args:
        ranks: int64[N] 1-based rank of each target.
        states: int64[N] state of each target.
        counts: int64[B] targets of each state, at least 1.
        ks: list lengths.
    """
    return {
        f"{name}@{k}": metric(ranks, states, counts, k)
        for name, metric in METRICS.items()
        for k in ks
    }
