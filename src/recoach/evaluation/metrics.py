"""Ranking metrics as functions of the ranks of targets: one value per user, not averaged."""

from collections.abc import Callable, Sequence

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""(ranks int64[N], state of each rank int64[N], targets per state int64[B], k) -> float64[B]."""


def recall(ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return the fraction of a user's targets in the top k; with one target, the hit rate."""
    hits = np.bincount(states, weights=ranks <= k, minlength=len(counts))
    result: np.ndarray = hits / counts
    return result


def ndcg(ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return the normalised discounted cumulative gain of the top k, with binary relevance."""
    gains = np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)
    ideal_dcg = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
    dcg = np.bincount(states, weights=gains, minlength=len(counts))
    result: np.ndarray = dcg / ideal_dcg[np.minimum(counts, k) - 1]
    return result


def mrr(ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return the reciprocal rank of the highest-ranked target, 0 if it is not in the top k."""
    first = np.full(len(counts), np.iinfo(np.int64).max)
    np.minimum.at(first, states, ranks)
    return np.where(first <= k, 1.0 / first, 0.0)


METRICS: dict[str, Metric] = {"mrr": mrr, "ndcg": ndcg, "recall": recall}

METRIC_NAME = rf"^({'|'.join(METRICS)})@[1-9]\d*$"
"""Pattern of the name of a metric at a cut-off, such as "ndcg@10"."""


def metrics_per_user(
    ranks: np.ndarray, states: np.ndarray, counts: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return every metric at every k, as `"ndcg@10" -> float64[B]`.

    Args:
        ranks: int64[N] 1-based rank of each target.
        states: int64[N] state of each target.
        counts: int64[B] number of targets of each state, at least 1.
        ks: list lengths.
    """
    return {
        f"{name}@{k}": metric(ranks, states, counts, k)
        for name, metric in METRICS.items()
        for k in ks
    }
