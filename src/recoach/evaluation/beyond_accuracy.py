"""Beyond-accuracy metrics of recommendation lists: coverage, popularity, novelty, diversity, ….

Metrics of a list have one value per list and are averaged over lists; metrics of the catalogue have
one value for all lists together. The popularity of an item is its number of training interactions.
Most metrics are computed from the log; some need features of items, targets, or expected items, and
are left out without them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import sparse

from recoach.data.dataset import RaggedArray
from recoach.evaluation.exposure import entropy, exposure_parity, gini, group_exposure
from recoach.evaluation.strata import defined_mean

T = TypeVar("T")
_LISTS_AT_ONCE = 2048
_CALIBRATION_SMOOTHING = 0.01


@dataclass(frozen=True, eq=False)
class RecommendationLists:
    """The lists of B states, and what the metrics compare them with."""

    items: np.ndarray
    """int[B, k] items, best first; -1 after the end of a shorter list."""
    train: RaggedArray
    """The training histories of all users."""
    n_items: int
    """Number of items I in the catalogue."""
    targets: tuple[np.ndarray, np.ndarray] | None = None
    """(int64[N] states, int64[N] items): the relevant items of each state, for `serendipity`."""
    expected: np.ndarray | None = None
    """int[B, m] items that a simple model recommends to each state, -1 as padding, for
    `serendipity`: the lists of the most popular items, or of item-kNN."""
    histories: RaggedArray | None = None
    """The histories of the B states, for `miscalibration`."""
    categories: sparse.csr_matrix | None = None
    """float[I, C], 1 where an item is in a category, for `category_diversity`, `miscalibration`."""
    vectors: np.ndarray | None = None
    """float[I, D], a vector of each item, for `vector_diversity`."""
    groups: np.ndarray | None = None
    """int64[I], a group of each item, such as its provider, -1 for none; for `exposure_parity`."""

    @cached_property
    def rows(self) -> np.ndarray:
        """int64[R], the list of each recommended item."""
        return np.nonzero(self.items >= 0)[0]

    @cached_property
    def recommended(self) -> np.ndarray:
        """int64[R], the recommended items of all lists."""
        return self.items[self.items >= 0]

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64[B], the number of items of each list."""
        sizes: np.ndarray = (self.items >= 0).sum(axis=1)
        return sizes

    @cached_property
    def exposure(self) -> np.ndarray:
        """int64[I], the number of lists with each item."""
        return np.bincount(self.recommended, minlength=self.n_items)

    @cached_property
    def item_users(self) -> sparse.csr_matrix:
        """float32[I, users], 1 where a user has the item in the training history."""
        users = np.repeat(np.arange(len(self.train)), self.train.lengths)
        ones = np.ones(len(self.train.values), dtype=np.float32)
        shape = (self.n_items, len(self.train))
        matrix = sparse.csr_matrix((ones, (self.train.values, users)), shape=shape)
        matrix.data[:] = 1
        return matrix

    def list_means(self, values: np.ndarray) -> np.ndarray:
        """Return float64[B], the mean over each list of float[I] values of items; nan if empty."""
        sums = np.bincount(self.rows, weights=values[self.recommended], minlength=len(self.items))
        result: np.ndarray = sums / np.where(self.sizes > 0, self.sizes, np.nan)
        return result


def popularity(lists: RecommendationLists) -> np.ndarray:
    """Return the mean popularity of the items of each list.

    Its mean over lists is ARP, the average recommendation popularity (Yin et al. 2012).
    """
    return lists.list_means(np.bincount(lists.train.values, minlength=lists.n_items))


def novelty(lists: RecommendationLists) -> np.ndarray:
    """Return the mean over each list of -log2 of the fraction of users with the item, in bits.

    At least one user of each item is counted.

    Source: mean self-information (Zhou et al. 2010); MeanInvUserFreq of RecTools.
    """
    n_users = np.maximum(np.diff(lists.item_users.indptr), 1)
    return lists.list_means(-np.log2(n_users / len(lists.train)))


def diversity(lists: RecommendationLists) -> np.ndarray:
    """Return 1 - mean cosine similarity of the item pairs of each list.

    An item is the binary vector of its users in the training data; items without users are similar
    to none. 0 for a list of one item, nan for an empty one.

    Source: intra-list diversity (Ziegler et al. 2005; Vargas & Castells 2011).
    """
    return _intra_list_diversity(lists, lists.item_users)


def category_diversity(lists: RecommendationLists) -> np.ndarray:
    """Return 1 - mean cosine of the categories of the item pairs of each list, see `diversity`.

    With one category per item: the fraction of pairs of different categories.
    """
    return _intra_list_diversity(lists, _given(lists.categories, "categories"))


def vector_diversity(lists: RecommendationLists) -> np.ndarray:
    """Return 1 - mean cosine of the vectors of the item pairs of each list, see `diversity`."""
    return _intra_list_diversity(lists, _given(lists.vectors, "vectors"))


def serendipity(lists: RecommendationLists) -> np.ndarray:
    """Return the fraction of each list's items that are relevant and unexpected; nan if empty.

    Relevant: a target of the state. Unexpected: not among the items that a simple model recommends
    to it.

    Source: Ge, Delgado-Battenfeld & Jannach 2010, with the targets as the useful items.
    """
    states, items = _given(lists.targets, "targets")
    targets = np.unique(states * lists.n_items + items)
    expected = _given(lists.expected, "expected")
    expected_rows = np.nonzero(expected >= 0)[0]
    expected_pairs = expected_rows * lists.n_items + expected[expected >= 0]
    pairs = lists.rows * lists.n_items + lists.recommended
    is_serendipitous = np.isin(pairs, targets) & ~np.isin(pairs, expected_pairs)
    counts = np.bincount(lists.rows, weights=is_serendipitous, minlength=len(lists.items))
    result: np.ndarray = counts / np.where(lists.sizes > 0, lists.sizes, np.nan)
    return result


def miscalibration(lists: RecommendationLists) -> np.ndarray:
    """Return the divergence of the categories of each list from those of the history, in nats.

    Σ_c p(c) log(p(c) / q'(c)) with p the distribution of categories in the history, q that in the
    list, and q' = 0.99 q + 0.01 p. An item divides its weight equally among its categories. 0 if
    the list has the categories of the history in the same proportions; at most log 100. nan if
    the history or the list has no item with a category.

    Source: calibration metric C_KL of Steck 2018, without weights of age or rank.
    """
    categories, histories = (
        _given(lists.categories, "categories"),
        _given(lists.histories, "histories"),
    )
    history_rows = np.repeat(np.arange(len(histories)), histories.lengths)
    n_lists = len(lists.items)
    p = category_distributions(history_rows, histories.values, categories, n_lists)
    q = category_distributions(lists.rows, lists.recommended, categories, n_lists)
    smoothed = (1 - _CALIBRATION_SMOOTHING) * q + _CALIBRATION_SMOOTHING * p
    logs = np.log(np.where(p > 0, p, 1) / np.where(p > 0, smoothed, 1))
    result: np.ndarray = (p * logs).sum(axis=1)
    return result


def coverage(lists: RecommendationLists) -> float:
    """Return the fraction of the catalogue that is in at least one list.

    Source: aggregate diversity of Adomavicius & Kwon 2012, divided by the number of items;
    CatalogCoverage of RecTools.
    """
    return float((lists.exposure > 0).mean())


def exposure_gini(lists: RecommendationLists) -> float:
    """Return the Gini coefficient of the number of lists with each item.

    0: all items are in equally many lists; near 1: few items take all positions.
    """
    return gini(lists.exposure)


def exposure_entropy(lists: RecommendationLists) -> float:
    """Return the entropy of the distribution of positions over items, in bits."""
    return entropy(lists.exposure)


def group_parity(lists: RecommendationLists) -> float:
    """Return the parity of exposure per item between groups of items, see `exposure_parity`."""
    groups = _given(lists.groups, "groups")
    n_items = np.bincount(groups[groups >= 0])
    return exposure_parity(group_exposure(lists.items, groups, len(n_items)), n_items)


class ListMetric(NamedTuple):
    """A metric with one value per list."""

    function: Callable[[RecommendationLists], np.ndarray]
    """Returns float64[B]; nan where the metric is not defined for a list."""
    needs: tuple[str, ...] = ()
    """Optional fields of `RecommendationLists` that the metric needs."""


class CatalogueMetric(NamedTuple):
    """A metric with one value for all lists together."""

    function: Callable[[RecommendationLists], float]
    needs: tuple[str, ...] = ()
    """Optional fields of `RecommendationLists` that the metric needs."""


LIST_METRICS: dict[str, ListMetric] = {
    "popularity": ListMetric(popularity),
    "novelty": ListMetric(novelty),
    "diversity": ListMetric(diversity),
    "category_diversity": ListMetric(category_diversity, ("categories",)),
    "vector_diversity": ListMetric(vector_diversity, ("vectors",)),
    "serendipity": ListMetric(serendipity, ("targets", "expected")),
    "miscalibration": ListMetric(miscalibration, ("categories", "histories")),
}
CATALOGUE_METRICS: dict[str, CatalogueMetric] = {
    "coverage": CatalogueMetric(coverage),
    "gini": CatalogueMetric(exposure_gini),
    "entropy": CatalogueMetric(exposure_entropy),
    "exposure_parity": CatalogueMetric(group_parity, ("groups",)),
}


def metrics_per_list(lists: RecommendationLists) -> dict[str, np.ndarray]:
    """Return every metric of lists that can be computed, as `"novelty@10" -> float64[B]`."""
    return {
        f"{name}@{lists.items.shape[1]}": metric.function(lists)
        for name, metric in LIST_METRICS.items()
        if _can_compute(metric, lists)
    }


def list_metrics(
    lists: RecommendationLists, per_list: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Return every metric that can be computed, as `"gini@10"`, those of lists averaged over lists.

    Lists for which a metric is not defined are left out of its average; nan if it is for none.

    Args:
        lists: the lists.
        per_list: the result of `metrics_per_list`, where it is known.
    """
    of_catalogue = {
        f"{name}@{lists.items.shape[1]}": metric.function(lists)
        for name, metric in CATALOGUE_METRICS.items()
        if _can_compute(metric, lists)
    }
    per_list = metrics_per_list(lists) if per_list is None else per_list
    means = {name: defined_mean(values) for name, values in per_list.items()}
    return of_catalogue | means


def category_matrix(categories: Sequence[Collection[str]]) -> sparse.csr_matrix:
    """Return float32[I, C], 1 where an item is in a category; categories are in sorted order.

    Args:
        categories: the categories of each item, possibly none.
    """
    number = {name: place for place, name in enumerate(sorted(set().union(*categories)))}
    rows = np.repeat(np.arange(len(categories)), [len(set(names)) for names in categories])
    columns = [number[name] for names in categories for name in set(names)]
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=(len(categories), len(number)))


def category_distributions(
    rows: np.ndarray, items: np.ndarray, categories: sparse.csr_matrix, n_rows: int
) -> np.ndarray:
    """Return float64[n_rows, C], the distribution of categories of the items of each row.

    An item divides its weight equally among its categories. nan for a row without a category.

    Args:
        rows: int64[R], the row of each item.
        items: int[R].
        categories: float[I, C], 1 where an item is in a category.
        n_rows: number of rows.
    """
    n_categories = np.asarray(categories.sum(axis=1)).ravel()
    shares = sparse.diags(1 / np.maximum(n_categories, 1)) @ categories
    shape = (n_rows, shares.shape[0])
    counts = sparse.csr_matrix((np.ones(len(items)), (rows, items)), shape=shape)
    sums = (counts @ shares).toarray()
    totals = sums.sum(axis=1, keepdims=True)
    result: np.ndarray = sums / np.where(totals > 0, totals, np.nan)
    return result


def _can_compute(metric: ListMetric | CatalogueMetric, lists: RecommendationLists) -> bool:
    return all(getattr(lists, name) is not None for name in metric.needs)


def _given(value: T | None, name: str) -> T:
    """Return the value of an optional field that a metric needs."""
    if value is None:
        raise ValueError(f"The metric needs {name} of RecommendationLists.")
    return value


def _intra_list_diversity(
    lists: RecommendationLists, vectors: sparse.csr_matrix | np.ndarray
) -> np.ndarray:
    """Return float64[B], 1 - mean cosine over the item pairs; 0 for one item, nan for none.

    The squared norm of the sum of a list's unit vectors is the sum of the cosines of all its
    ordered pairs, plus 1 for each item whose vector is not zero.
    """
    vectors = sparse.csr_matrix(vectors)
    norms = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
    unit_vectors = (sparse.diags(1 / np.where(norms > 0, norms, 1)) @ vectors).tocsr()
    # Many states have the same list, in some order: those of popularity, those of one session.
    distinct, list_of = np.unique(np.sort(lists.items, axis=1), axis=0, return_inverse=True)
    similarity = np.empty(len(distinct))
    for start in range(0, len(distinct), _LISTS_AT_ONCE):
        part = distinct[start : start + _LISTS_AT_ONCE]
        rows, columns = np.nonzero(part >= 0)
        items = part[rows, columns]
        shape = (len(part), lists.n_items)
        indicator = sparse.csr_matrix((np.ones(len(items)), (rows, items)), shape=shape)
        sums = indicator @ unit_vectors
        n_with_vector = np.bincount(rows, weights=norms[items] > 0, minlength=len(part))
        sums.data **= 2  # a product has each column of a row once
        squares = np.asarray(sums.sum(axis=1)).ravel()
        similarity[start : start + len(part)] = squares - n_with_vector
    similarity = similarity[list_of.ravel()]
    n_pairs = lists.sizes * (lists.sizes - 1)
    values = np.where(n_pairs > 0, 1 - similarity / np.maximum(n_pairs, 1), 0)
    return np.where(lists.sizes > 0, values, np.nan)
