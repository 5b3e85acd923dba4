"""What lists are worth: accuracy, list metrics, and the metrics that re-rankers are for."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.targets import Part, Repeats, Targets, targets_of
from recoach.evaluation.beyond_accuracy import (
    CATALOGUE_METRICS,
    LIST_METRICS,
    RecommendationLists,
)
from recoach.evaluation.exposure import group_exposure
from recoach.evaluation.list_accuracy import list_accuracy, ranks_in_lists
from recoach.evaluation.strata import defined_mean
from recoach.models.base import Recommender
from recoach.rerank.base import Reranker
from recoach.rerank.candidates import Candidates, candidates_of, state_histories
from recoach.rerank.config import RerankName
from recoach.rerank.exposure import ExposureCap, ExposureFloor, exposure_shares
from recoach.rerank.features import ItemFeatures
from recoach.rerank.offsets import Cost, Value

ACCURACY: Final = ("ndcg", "recall")
LISTS: Final = ("novelty", "diversity", "coverage", "gini")
OF_FEATURES: Final = ("vector_diversity", "category_diversity", "miscalibration")
"""Metrics that need categories, or item vectors of the model."""
OBJECTIVES: Final[Mapping[RerankName, tuple[str, int]]] = {
    "calibration": ("miscalibration", -1),
    "cost": ("cost", -1),
    "dpp": ("vector_diversity", 1),
    "exposure_cap": ("largest_share", -1),
    "exposure_floor": ("group_share", 1),
    "mmr": ("vector_diversity", 1),
    "popularity": ("novelty", 1),
    "value": ("hit_value", 1),
    "xquad": ("category_diversity", 1),
}
"""The metric that each re-ranker is for, and 1 if larger is better, else -1."""
_TIMED_STATES: Final = 20
_REPEATS: Final = 3


class States(NamedTuple):
    """The states of a part of a dataset with the candidates of a model."""

    targets: Targets
    histories: RaggedArray
    candidates: Candidates


class ListValues(NamedTuple):
    """The metrics of the lists of B states."""

    per_state: dict[str, np.ndarray]
    """`"ndcg@10" -> float64[B]`; nan where a metric is not defined."""
    catalogue: dict[str, float]
    """`"coverage@10" ->` one value for all lists."""

    def means(self) -> dict[str, float]:
        """Return every metric, those of states averaged over the states for which it is defined."""
        means = {name: defined_mean(values) for name, values in self.per_state.items()}
        return means | self.catalogue


@dataclass(frozen=True)
class ListMeasure:
    """Computes metrics of lists.

    Args:
        dataset: on whose train part the models were trained.
        features: of the items.
        names: metrics without cut-off, of `METRICS`, `LIST_METRICS` and `CATALOGUE_METRICS`.
    """

    dataset: Dataset
    features: ItemFeatures
    names: Sequence[str]

    def __call__(self, lists: np.ndarray, states: States) -> ListValues:
        """Return the metrics of int[B, k] lists; -1 after the end of a shorter list."""
        needs_features = bool(set(self.names) & set(OF_FEATURES))
        recommended = RecommendationLists(
            lists,
            self.dataset.train,
            self.dataset.n_items,
            histories=states.histories,
            categories=self.features.category_matrix if needs_features else None,
            vectors=self.features.vectors.numpy() if needs_features else None,
        )
        k = lists.shape[1]
        per_list = {
            f"{name}@{k}": LIST_METRICS[name].function(recommended)
            for name in self.names
            if name in LIST_METRICS
        }
        catalogue = {
            f"{name}@{k}": CATALOGUE_METRICS[name].function(recommended)
            for name in self.names
            if name in CATALOGUE_METRICS
        }
        return ListValues(list_accuracy(lists, states.targets, self.names) | per_list, catalogue)


def states_of(
    model: Recommender,
    dataset: Dataset,
    part: tuple[Part, Repeats],
    features: ItemFeatures,
    depth: int,
) -> States:
    """Return the states of a part with their candidates and, if possible, their profiles.

    Args:
        model: whose candidates they are.
        dataset: the split log.
        part: the part, and which items are targets.
        features: of the items.
        depth: number of candidates.
    """
    targets = targets_of(dataset, *part)
    rows = state_histories(targets)
    candidates = candidates_of(model, dataset, targets, depth)
    if features.has_vectors:
        candidates = candidates._replace(profiles=features.profiles(rows))
    return States(targets, rows, candidates)


def own_values(reranker: Reranker, lists: np.ndarray, states: States) -> ListValues:
    """Return the metrics that only the settings of a re-ranker define; see `OBJECTIVES`.

    `cost`: mean cost of the items of a list. `hit_value`: sum of the values of the targets in a
    list. `group_share`: share of a list's exposure that a protected group has. `largest_share`: the
    largest share of the exposure of all lists that an item or group has.
    """
    k = lists.shape[1]
    if isinstance(reranker, Cost):
        costs = reranker.features.values(reranker.config.column).numpy()
        is_item = lists >= 0
        sums = np.where(is_item, costs[lists], 0.0).sum(axis=1)
        return ListValues({f"cost@{k}": sums / np.maximum(is_item.sum(axis=1), 1)}, {})
    if isinstance(reranker, Value):
        return ListValues(hit_values(reranker.features, reranker.config.column, lists, states), {})
    if isinstance(reranker, ExposureFloor):
        shares = group_exposure(lists, reranker.groups.numbers.numpy(), 1)[:, 0]
        return ListValues({f"group_share@{k}": shares}, {})
    if isinstance(reranker, ExposureCap):
        groups = reranker.groups
        items = states.candidates.items.new_tensor(lists)
        largest = exposure_shares(items, groups.numbers, len(groups.names)).max()
        return ListValues({}, {f"largest_share@{k}": float(largest)})
    return ListValues({}, {})


def hit_values(
    features: ItemFeatures, column: str | None, lists: np.ndarray, states: States
) -> dict[str, np.ndarray]:
    """Return `"hit_value@10" -> float64[B]`, the sum of the values of the targets in each list."""
    targets, k = states.targets, lists.shape[1]
    is_hit = ranks_in_lists(lists, targets) <= k
    values = np.where(is_hit, features.values(column).numpy()[targets.items], 0.0)
    sums = np.bincount(targets.states, weights=values, minlength=len(targets.users))
    return {f"hit_value@{k}": sums}


def milliseconds_per_list(
    model: Recommender, features: ItemFeatures, reranker: Reranker | None, targets: Targets, k: int
) -> float:
    """Return the median time for the list of one state, over the first states.

    The time of a state is the shortest of three calls, which other programs disturb least.

    Args:
        model: whose lists they are.
        features: of the items of its dataset.
        reranker: chooses the lists; None for the best items of the model.
        targets: the states.
        k: list length.
    """

    def make_list(one: Targets) -> object:
        if reranker is None:
            return candidates_of(model, features.dataset, one, k)
        found = candidates_of(model, features.dataset, one, reranker.config.depth)
        if reranker.reads_profiles:
            found = found._replace(profiles=features.profiles(state_histories(one)))
        return reranker(found, k)

    seconds = []
    for state in range(min(_TIMED_STATES, len(targets.users))):
        is_state = np.arange(len(targets.users)) == state
        one, times = targets.select(is_state), []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            make_list(one)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    return 1000 * float(np.median(seconds))
