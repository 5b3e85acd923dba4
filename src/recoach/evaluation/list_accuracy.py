"""Accuracy of given lists, such as re-ranked ones: a target outside its list is a miss."""

from collections.abc import Sequence

import numpy as np

from recoach.data.targets import Targets
from recoach.evaluation.metrics import METRICS, MISS, TargetRanks, metrics_per_user


def ranks_in_lists(lists: np.ndarray, targets: Targets) -> np.ndarray:
    """Return int64[N], the rank of each target in the list of its state from 1, or `MISS`.

    Args:
        lists: int[B, k] items, best first; -1 after the end of a shorter list.
        targets: the B states and their N targets. One that no model knows is a miss, as in
            `evaluate_targets`.
    """
    is_target = lists[targets.states] == targets.items[:, None]
    ranks = np.where(is_target.any(axis=1), is_target.argmax(axis=1) + 1, MISS)
    ranks[targets.cold & ~targets.repeated] = MISS
    return ranks


def list_accuracy(
    lists: np.ndarray, targets: Targets, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return ranking metrics of lists, as `"ndcg@10" -> float64[B]`.

    Args:
        lists: see `ranks_in_lists`; the cut-off of the metrics is their length.
        targets: see `ranks_in_lists`.
        names: of metrics of `METRICS`; others are left out.
    """
    values = targets.column("value")
    ranks = TargetRanks(
        ranks_in_lists(lists, targets),
        targets.states,
        targets.counts,
        values=None if values is None else values.fill_null(0).to_numpy(),
    )
    return metrics_per_user(ranks, (lists.shape[1],), [name for name in names if name in METRICS])
