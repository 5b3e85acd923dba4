import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recoach.data.dataset import RaggedArray
from recoach.evaluation import beyond_accuracy as module
from recoach.evaluation.beyond_accuracy import (
    CATALOGUE_METRICS,
    LIST_METRICS,
    RecommendationLists,
    category_matrix,
    list_metrics,
    metrics_per_list,
)


def ragged(rows):
    return RaggedArray(
        np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        np.array([item for row in rows for item in row], dtype=np.int32),
    )


HISTORIES = [[0, 1, 2], [0, 1, 1], [0, 3], [4]]
TRAIN = ragged(HISTORIES)
N_ITEMS = 6
ITEMS = np.array([[0, 1, 5], [1, 3, -1], [0, 2, 4], [5, -1, -1], [-1, -1, -1]])
LISTS = RecommendationLists(ITEMS, TRAIN, N_ITEMS)
FULL = replace(LISTS, items=np.array([[0, 1, 5], [1, 3, 2], [4, 3, 0], [5, 4, 3]]))
CATEGORIES = [["a"], ["b"], ["b"], ["c", "a"], [], ["a"]]


def in_list(row):
    return [int(item) for item in row if item >= 0]


def mean_over_lists(function, items=ITEMS):
    """Return the value of each list; nan for empty lists."""
    return [function(in_list(row)) if max(row) >= 0 else math.nan for row in items]


def cosine(a, b):
    norm = math.sqrt(len(a) * len(b))
    return len(a & b) / norm if norm else 0.0


def mean_distance(items, features):
    pairs = list(itertools.combinations(items, 2))
    return np.mean([1 - cosine(features(a), features(b)) for a, b in pairs]) if pairs else 0.0


def users_of(item):
    return {user for user, row in enumerate(HISTORIES) if item in row}


@pytest.fixture(params=[1, 2048])
def lists_at_once(request, monkeypatch):
    monkeypatch.setattr(module, "_LISTS_AT_ONCE", request.param)


def assert_lists(metric, expected, lists=LISTS):
    values = metrics_per_list(lists)[f"{metric}@{lists.items.shape[1]}"]
    assert values.tolist() == pytest.approx(expected, nan_ok=True)
    mean = np.nanmean(np.array(expected, dtype=float))
    assert list_metrics(lists)[f"{metric}@{lists.items.shape[1]}"] == pytest.approx(mean)


def test_popularity_is_the_mean_number_of_interactions_of_each_list():
    popularity = [sum(row.count(item) for row in HISTORIES) for item in range(N_ITEMS)]
    expected = mean_over_lists(lambda items: np.mean([popularity[item] for item in items]))
    assert_lists("popularity", expected)


def test_novelty_is_the_mean_self_information_of_each_list():
    def information(item):
        return -math.log2(max(1, len(users_of(item))) / 4)

    assert_lists("novelty", mean_over_lists(lambda items: np.mean([*map(information, items)])))


@pytest.mark.usefixtures("lists_at_once")
def test_diversity_is_the_mean_distance_of_the_pairs_of_each_list():
    assert_lists("diversity", mean_over_lists(lambda items: mean_distance(items, users_of)))


@pytest.mark.usefixtures("lists_at_once")
def test_diversity_by_category_compares_the_categories_of_pairs():
    lists = replace(LISTS, categories=category_matrix(CATEGORIES))
    expected = mean_over_lists(lambda items: mean_distance(items, lambda i: set(CATEGORIES[i])))
    assert_lists("category_diversity", expected, lists)


def test_diversity_by_vectors_is_one_minus_their_cosine():
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 3)).astype(np.float32)
    vectors[5] = 0
    lists = replace(LISTS, vectors=vectors)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def distance(items):
        pairs = list(itertools.combinations(items, 2))
        return np.mean([1 - unit[a] @ unit[b] for a, b in pairs]) if pairs else 0.0

    values = metrics_per_list(lists)["vector_diversity@3"]
    assert values.tolist() == pytest.approx(mean_over_lists(distance), abs=1e-6, nan_ok=True)


def test_metrics_of_full_lists_are_the_means_over_all_positions():
    result = list_metrics(FULL)
    recommended = FULL.items.ravel()
    popularity = np.bincount(TRAIN.values, minlength=N_ITEMS)
    assert result["popularity@3"] == pytest.approx(popularity[recommended].mean())
    pairs = [pair for row in FULL.items.tolist() for pair in itertools.combinations(row, 2)]
    similarity = np.mean([cosine(users_of(a), users_of(b)) for a, b in pairs])
    assert result["diversity@3"] == pytest.approx(1 - similarity)


def test_metrics_of_the_catalogue_count_the_lists_of_each_item():
    result = list_metrics(LISTS)
    exposure = np.bincount(ITEMS[ITEMS >= 0], minlength=N_ITEMS)
    assert result["coverage@3"] == 1.0
    differences = np.abs(exposure[:, None] - exposure).sum()
    assert result["gini@3"] == pytest.approx(differences / (2 * N_ITEMS * exposure.sum()))
    assert result["entropy@3"] == pytest.approx(stats.entropy(exposure, base=2))


def test_coverage_counts_each_recommended_item_once():
    assert list_metrics(replace(LISTS, items=np.array([[0], [0]])))["coverage@1"] == 1 / N_ITEMS


def test_serendipity_counts_targets_that_are_not_expected():
    # List 0: item 1 is a target, and expected; item 5 is a target, and not. List 1: item 3 is the
    # target of another state; item 1 is expected for another state only.
    targets = np.array([0, 0, 1, 2, 2]), np.array([1, 5, 1, 3, 4])
    expected = np.array([[1, 0], [2, -1], [4, -1], [-1, -1], [-1, -1]])
    lists = replace(LISTS, targets=targets, expected=expected)
    assert_lists("serendipity", [1 / 3, 1 / 2, 0, 0, math.nan], lists)


def test_miscalibration_is_the_divergence_from_the_history():
    # State 1: half a and half b in the history; in the list item 0 is a, and item 3 half a, half c.
    histories = ragged([[0, 1], [0, 1], [4], [0], [0]])
    items = np.array([[0, 1, -1], [0, 3, 4], [0, 1, 2], [4, -1, -1], [1, -1, -1]])
    lists = RecommendationLists(
        items, TRAIN, N_ITEMS, histories=histories, categories=category_matrix(CATEGORIES)
    )
    p, q = np.array([0.5, 0.5, 0]), np.array([0.75, 0, 0.25])
    divergence = stats.entropy(p[:2], (0.99 * q + 0.01 * p)[:2])
    # scipy normalises the second distribution, which lacks the category c.
    divergence -= math.log((0.99 * q + 0.01 * p)[:2].sum())
    expected = [0, divergence, math.nan, math.nan, math.log(100)]
    assert_lists("miscalibration", expected, lists)


def test_exposure_parity_compares_groups_by_their_number_of_items():
    # Group 0 has one item, group 1 two; the list shows each group once, at ranks 1 and 2.
    lists = RecommendationLists(
        np.array([[0, 1]]), TRAIN, N_ITEMS, groups=np.array([0, 1, 1, -1, -1, -1])
    )
    assert list_metrics(lists)["exposure_parity@2"] == pytest.approx(1 / math.log2(3) / 2)


def test_metrics_without_their_input_are_left_out():
    names = {name.partition("@")[0] for name in list_metrics(LISTS)}
    assert names == {"popularity", "novelty", "diversity", "coverage", "gini", "entropy"}
    for name, metric in (LIST_METRICS | CATALOGUE_METRICS).items():
        if name not in names:
            with pytest.raises(ValueError, match=f"needs {metric.needs[0]} "):
                metric.function(LISTS)


def test_diversity_is_zero_for_lists_of_one_item():
    assert list_metrics(replace(LISTS, items=np.array([[0], [1]])))["diversity@1"] == 0


def test_empty_lists_have_no_values():
    result = list_metrics(replace(LISTS, items=np.full((2, 3), -1)))
    assert result.pop("coverage@3") == 0
    assert all(math.isnan(value) for value in result.values())


def test_a_category_matrix_has_a_column_for_each_category():
    matrix = category_matrix([["b", "a", "a"], [], ["b"]])
    assert matrix.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]
    assert category_matrix([[], []]).shape == (2, 0)
