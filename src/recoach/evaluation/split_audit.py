"""What a split of a log tests: its targets, simple baselines on them, and the power of the test."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from recoach.data.dataset import Dataset, RaggedArray, merge_valid
from recoach.data.protocol import AnySplit
from recoach.data.targets import Targets, targets_of
from recoach.errors import DataError
from recoach.evaluation.significance import minimal_detectable_effect

LIST_LENGTH: Final = 10
CORRELATIONS: Final = (0.5, 0.9)
"""Correlation of the hits of two different models, and of a model and its fine-tuned version."""


@dataclass(frozen=True, slots=True)
class SplitAudit:
    """What one split of a log tests.

    Targets are counted with `repeats = "all"`. New users and cold items have no event before the
    test part, that is, in train and validation.

    Attributes:
        name: the split in words, such as "time, last".
        problem: why the split is not possible; then all counts are 0.
        train_rows, valid_rows, test_rows: rows of the parts.
        train_states: events of train with an event of the user before them, which a sequential
            model learns to predict.
        test_users: users with test rows.
        new_users: those of them who have no event before the test part.
        users: users with a target and a history.
        states: states with a target.
        targets: items to predict.
        new: share of the evaluated users who have no event before the test part.
        cold: share of the targets.
        repeated: share of the targets that are in the history of their state.
        hit_rates: baseline -> share of the states with a target among its ten items.
        detectable: difference in hit rate@10 between two models that the test detects with a
            probability of 80 % (two-sided, 5 %), at the hit rate of the best baseline and for
            models whose hits have a correlation of 0.5; None if no baseline hits.
        detectable_tuned: the same for a correlation of 0.9: a model and its fine-tuned version.
    """

    name: str
    problem: str = ""
    train_rows: int = 0
    valid_rows: int = 0
    test_rows: int = 0
    train_states: int = 0
    test_users: int = 0
    new_users: int = 0
    users: int = 0
    states: int = 0
    targets: int = 0
    new: float = 0.0
    cold: float = 0.0
    repeated: float = 0.0
    hit_rates: tuple[tuple[str, float], ...] = ()
    detectable: float | None = None
    detectable_tuned: float | None = None

    @property
    def best_baseline(self) -> tuple[str, float] | None:
        """Return (name, hit rate) of the best baseline; None if none hits."""
        best = max(self.hit_rates, key=lambda pair: pair[1], default=("", 0.0))
        return best if best[1] > 0 else None

    def relative(self, difference: float | None) -> float | None:
        """Return a detectable difference divided by the hit rate of the best baseline."""
        if difference is None or self.best_baseline is None:
            return None
        return difference / self.best_baseline[1]


def audit_split(dataset: Dataset, name: str, split: AnySplit | None = None) -> SplitAudit:
    """Return what a split tests; a split without any target has a problem instead of counts.

    Args:
        dataset: the split log.
        name: of the split.
        split: which events of the test part are targets, if not those of the dataset's own split.
    """
    merged = merge_valid(dataset)
    if split is not None:
        merged = replace(merged, split=split)
    try:
        targets = targets_of(merged, "test", "all")
    except DataError as error:
        return SplitAudit(name, problem=str(error))
    hits = {
        baseline: _is_hit(targets, hit_of(merged, targets))
        for baseline, hit_of in BASELINES.items()
    }
    rates = {baseline: float(hit.mean()) for baseline, hit in hits.items()}
    best = hits[max(rates, key=lambda baseline: rates[baseline])]
    users = np.unique(targets.users)
    in_test, is_new = merged.test.lengths > 0, merged.train.lengths == 0
    detectable = [_detectable(best, targets.users, correlation) for correlation in CORRELATIONS]
    return SplitAudit(
        name=name,
        train_rows=len(dataset.train.values),
        valid_rows=len(dataset.valid.values),
        test_rows=len(dataset.test.values),
        train_states=int(np.maximum(dataset.train.lengths - 1, 0).sum()),
        test_users=int(in_test.sum()),
        new_users=int((is_new & in_test).sum()),
        users=len(users),
        states=len(targets.users),
        targets=len(targets.positions),
        new=float(is_new[users].mean()),
        cold=float(targets.cold.mean()),
        repeated=float(targets.repeated.mean()),
        hit_rates=tuple(rates.items()),
        detectable=detectable[0],
        detectable_tuned=detectable[1],
    )


def _is_hit(targets: Targets, is_listed: np.ndarray) -> np.ndarray:
    """Return float64[B], 1 for the states of which a target is in the list."""
    return (np.bincount(targets.states, weights=is_listed) > 0).astype(np.float64)


def _popularity(dataset: Dataset, targets: Targets) -> np.ndarray:
    """Return bool[N], whether a target is among the ten most frequent items."""
    counts = np.bincount(dataset.train.values, minlength=dataset.n_items)
    listed = np.argsort(-counts, kind="stable")[:LIST_LENGTH]
    return np.isin(targets.items, listed[counts[listed] > 0])


def _repeat_last(dataset: Dataset, targets: Targets) -> np.ndarray:
    """Return bool[N], whether a target is an item of the last ten events of the history."""
    past, ends = targets.past, targets.ends[targets.states]
    starts = past.offsets[targets.users[targets.states]]
    listed = np.zeros(len(ends), dtype=np.bool_)
    for back in range(1, LIST_LENGTH + 1):
        place = np.maximum(starts + ends - back, starts)
        listed |= (past.values[place] == targets.items) & (back <= ends)
    return listed


def _transitions(dataset: Dataset, targets: Targets) -> np.ndarray:
    """Return bool[N], whether a target is among the ten items that follow the last one most often.

    The counts are those of train and validation: a first-order Markov chain.
    """
    n_items = dataset.n_items
    keys, counts = np.unique(_pairs(dataset.train, n_items), return_counts=True)
    order = np.lexsort((keys, -counts, keys // n_items))
    items = (keys // n_items)[order]
    rank = np.arange(len(order)) - np.searchsorted(items, items)
    listed = keys[order[rank < LIST_LENGTH]]
    states = targets.states
    has_last = targets.ends[states] > 0
    last = targets.past.offsets[targets.users] + np.maximum(targets.ends - 1, 0)
    asked = targets.past.values[last[states]].astype(np.int64) * n_items + targets.items
    return np.isin(asked, listed) & has_last


def _pairs(rows: RaggedArray, n_items: int) -> np.ndarray:
    """Return int64[m], item * n_items + next item for all consecutive events of a user."""
    is_last = np.zeros(len(rows.values), dtype=np.bool_)
    is_last[rows.offsets[1:][rows.lengths > 0] - 1] = True
    values = rows.values.astype(np.int64)
    return (values[:-1] * n_items + values[1:])[~is_last[:-1]]


def _detectable(hits: np.ndarray, users: np.ndarray, correlation: float) -> float | None:
    """Return the minimal detectable difference in hit rate between two models.

    Both have the hit rate of the baseline, and hits that correlate; the difference of their hits
    then has the variance 2 (1 - correlation) times that of the hits. Users are the independent
    units.
    """
    rate = hits.mean()
    if rate in (0, 1):
        return None
    _, index, counts = np.unique(users, return_inverse=True, return_counts=True)
    sums = np.bincount(index, weights=hits - rate)
    deviation = math.sqrt(2 * (1 - correlation) * float((sums**2).mean())) / float(counts.mean())
    difference = minimal_detectable_effect(deviation, len(counts))
    return difference if math.isfinite(difference) else None


BASELINES: Final[dict[str, Callable[[Dataset, Targets], np.ndarray]]] = {
    "popularity": _popularity,
    "repeat-last": _repeat_last,
    "item transitions": _transitions,
}
