"""Ranking metrics as functions of the ranks of targets: one value per state, not averaged.

A state is one evaluated list: a user with a history, and the targets that follow. All metrics are
between 0 and 1, except `value`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

MISS: Final = int(np.iinfo(np.int64).max)
"""The rank of a target that is not among the ranked items, such as a cold item: never a hit."""


@dataclass(frozen=True, slots=True, eq=False)
class TargetRanks:
    """The ranks of N targets of B states under one model: what the metrics are computed from."""

    ranks: np.ndarray
    """int64[N], rank of each target from 1, or `MISS`."""
    states: np.ndarray
    """int64[N], the state 0..B-1 of each target."""
    counts: np.ndarray
    """int64[B], number of targets of each state, at least 1."""
    items: np.ndarray | None = None
    """int64[N], the targets; needed only if a state may have the same item twice. Negative numbers
    are items outside the catalogue, each of them another one."""
    values: np.ndarray | None = None
    """float[N], value of each target, such as a price or a weight of its event type; 1 if None."""
    n_candidates: np.ndarray | None = None
    """int64[B], number of ranked items of each state: those that are not masked, and the targets.
    Only `auc` needs it."""

    def distinct(self) -> "TargetRanks":
        """Return every target once, with the sum of its values; unchanged if `items` is None.

        A list holds an item once, so a target that occurs twice can be found only once. Counted
        twice, it would raise the NDCG of a state above 1.
        """
        if self.items is None:
            return self
        # An item outside the catalogue is equal to no other: it gets a number of its own.
        own_numbers = -1 - np.arange(len(self.items))
        numbers = np.where(self.items < 0, own_numbers, self.items)
        pairs = _pairs(self.states, numbers)
        _, first, index = np.unique(pairs, return_index=True, return_inverse=True)
        if len(first) == len(self.items):
            return self
        values = self.values
        if values is not None:
            values = np.bincount(index, weights=values)[np.argsort(first)]
        kept = np.sort(first)
        repeats = np.bincount(self.states, minlength=len(self.counts))
        repeats -= np.bincount(self.states[kept], minlength=len(self.counts))
        return replace(
            self,
            ranks=self.ranks[kept],
            states=self.states[kept],
            counts=self.counts - repeats,
            items=self.items[kept],
            values=values,
        )

    def select(self, is_selected: np.ndarray) -> "TargetRanks":
        """Return some of the targets, and of the states those with at least one of them.

        The other targets stay in the ranking: the ranks are unchanged.

        Args:
            is_selected: bool[N].
        """
        states, index, counts = np.unique(
            self.states[is_selected], return_inverse=True, return_counts=True
        )
        return TargetRanks(
            self.ranks[is_selected],
            index,
            counts,
            None if self.items is None else self.items[is_selected],
            None if self.values is None else self.values[is_selected],
            None if self.n_candidates is None else self.n_candidates[states],
        )

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Return float64[B], the sum over the targets of each state of float[N] weights."""
        return np.bincount(self.states, weights=weights, minlength=len(self.counts))


Metric = Callable[[TargetRanks, int], np.ndarray]
"""(targets, k) -> float64[B]."""
WholeRankingMetric = Callable[[TargetRanks], np.ndarray]
"""(targets) -> float64[B]."""


def hit(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the hit rate: 1 if at least one target is in the top k, else 0.

    Source: Success@k of trec_eval; HitRate of RecBole and RecTools. With one target it equals
    `recall`.
    """
    return (targets.sums(targets.ranks <= k) > 0).astype(np.float64)


def precision(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the number of targets in the top k, divided by k.

    The divisor is k even if fewer than k items can be ranked or fewer than k targets exist, as in
    trec_eval, RecBole and RecTools.
    """
    return targets.sums(targets.ranks <= k) / k


def recall(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the fraction of the targets in the top k; with one target, the hit rate.

    The divisor is the number of targets, as in trec_eval, RecBole and RecTools, not min(k, number
    of targets): with more than k targets recall@k cannot reach 1.
    """
    result: np.ndarray = targets.sums(targets.ranks <= k) / targets.counts
    return result


def average_precision(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the average precision of the top k; its mean over states is MAP.

    The sum over the targets in the top k of the precision at the target's rank, divided by the
    number of targets. With one target it equals `mrr`.

    Source: map_cut of trec_eval; MAP of RecTools is the same. RecBole divides by min(k, number of
    targets) instead.
    """
    order = np.lexsort((targets.ranks, targets.states))
    states = targets.states[order]
    # Ranks are sorted within each state: the j-th target has j targets up to its rank.
    n_hits = np.arange(len(order)) - np.searchsorted(states, states) + 1
    precisions = np.empty(len(order))
    precisions[order] = n_hits / targets.ranks[order]
    result: np.ndarray = targets.sums(np.where(targets.ranks <= k, precisions, 0)) / targets.counts
    return result


def ndcg(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the normalised discounted cumulative gain of the top k, with binary relevance.

    The sum of 1 / log2(rank + 1) over the targets in the top k, divided by that of the ideal list,
    which has min(k, number of targets) targets at its top.

    Source: Järvelin & Kekäläinen 2002 with the discount of trec_eval and RecBole; NDCG of RecTools
    with `divide_by_achievable=True`.
    """
    gains = np.where(targets.ranks <= k, 1 / np.log2(targets.ranks + 1.0), 0.0)
    ideal_dcg = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
    result: np.ndarray = targets.sums(gains) / ideal_dcg[np.minimum(targets.counts, k) - 1]
    return result


def mrr(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the reciprocal rank of the highest-ranked target, 0 if it is not in the top k.

    Source: recip_rank of trec_eval with a cut-off; MRR of RecBole and RecTools.
    """
    first = np.full(len(targets.counts), MISS)
    np.minimum.at(first, targets.states, targets.ranks)
    return np.where(first <= k, 1.0 / first, 0.0)


def value(targets: TargetRanks, k: int) -> np.ndarray:
    """Return the sum of the values of the targets in the top k; without values, their number.

    With a weight for each event type as the value this is the weighted sum of hits that
    reinforcement learning on views and purchases reports; with prices, the revenue. Not normalised.
    """
    values = 1.0 if targets.values is None else targets.values
    return targets.sums(np.where(targets.ranks <= k, values, 0.0))


def auc(targets: TargetRanks) -> np.ndarray:
    """Return the area under the ROC curve: the fraction of pairs that are ranked correctly.

    A pair has one target and one other candidate; it is correct if the target has the higher score,
    and wrong if the scores are equal (ties against the model, as for all metrics here; scikit-learn
    counts half a pair). All pairs of a `MISS`, or of a rank beyond the candidates, are wrong. If
    all candidates are targets, there is no pair, and the value is the fraction of ranked targets.

    Source: the Mann-Whitney U statistic; per user and averaged over users as in Rendle et al. 2009.

    Raises:
        ValueError: `n_candidates` is None.
    """
    if targets.n_candidates is None:
        raise ValueError("auc needs n_candidates, the number of ranked items of each state.")
    is_ranked = targets.ranks <= targets.n_candidates[targets.states]
    ranks, states = targets.ranks[is_ranked], targets.states[is_ranked]
    n_ranked = np.bincount(states, minlength=len(targets.counts))
    n_others = (targets.n_candidates - n_ranked)[states]
    # Targets of the same state with the same rank have equal scores: each counts up to the last.
    _, index, sizes = np.unique(_pairs(states, ranks), return_inverse=True, return_counts=True)
    n_targets_before = np.cumsum(sizes)[index] - (np.cumsum(n_ranked) - n_ranked)[states]
    n_wrong = ranks - n_targets_before
    fractions = np.zeros(len(targets.ranks))
    fractions[is_ranked] = 1 - n_wrong / np.maximum(n_others, 1)
    result: np.ndarray = targets.sums(fractions) / targets.counts
    return result


def _pairs(states: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return int64[N], one number for each (state, number), in lexicographic order."""
    least = numbers.min(initial=0)
    result: np.ndarray = states * (numbers.max(initial=0) - least + 1) + (numbers - least)
    return result


METRICS: dict[str, Metric] = {
    "hit": hit,
    "map": average_precision,
    "mrr": mrr,
    "ndcg": ndcg,
    "precision": precision,
    "recall": recall,
    "value": value,
}
"""Metrics of the top k, named with a cut-off: "ndcg@10"."""

WHOLE_RANKING_METRICS: dict[str, WholeRankingMetric] = {"auc": auc}
"""Metrics of the whole ranking, named without a cut-off."""

METRIC_NAME = rf"^(({'|'.join(METRICS)})@[1-9]\d*|{'|'.join(WHOLE_RANKING_METRICS)})$"
"""Pattern of the name of a metric, such as "ndcg@10" or "auc"."""


def cutoff(name: str) -> int | None:
    """Return the k of a metric's name: 10 for "ndcg@10", None for "auc"."""
    k = name.partition("@")[2]
    return int(k) if k else None


def metrics_per_user(
    targets: TargetRanks, ks: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Return metrics, those of the top k at every k, as `"ndcg@10" -> float64[B]`.

    Args:
        targets: the ranks; a target that occurs twice in a state counts once, see
            `TargetRanks.distinct`.
        ks: list lengths.
        names: of metrics, without cut-off. Default: all that can be computed, which are those of
            `METRICS` and `WHOLE_RANKING_METRICS`, `value` only with values and `auc` only with
            numbers of candidates.

    Raises:
        ValueError: "auc" is named and `n_candidates` is None.
    """
    if names is None:
        missing = {"value"} if targets.values is None else set()
        missing |= set() if targets.n_candidates is not None else {"auc"}
        names = [name for name in (*METRICS, *WHOLE_RANKING_METRICS) if name not in missing]
    targets = targets.distinct()
    of_lists = {f"{n}@{k}": METRICS[n](targets, k) for n in names if n in METRICS for k in ks}
    return of_lists | {
        name: WHOLE_RANKING_METRICS[name](targets)
        for name in names
        if name in WHOLE_RANKING_METRICS
    }
