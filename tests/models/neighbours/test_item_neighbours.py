"""Item-kNN, sequential rules and EASE against their formulas."""

import numpy as np
import pytest
import torch
from neighbour_logs import model_of, scores_of

from recoach.errors import ConfigError
from recoach.models.neighbours import itemknn

N_ITEMS = 9
RNG = np.random.default_rng(5)
ROWS = [RNG.integers(0, N_ITEMS - 1, size=RNG.integers(0, 7)).tolist() for _ in range(30)]
X = np.array([[item in row for item in range(N_ITEMS)] for row in ROWS], dtype=float)
HISTORIES = [[3], [1, 4, 1, 7], [2, 2], [], [8]]


def similarities(shrinkage, alpha):
    support = np.maximum(X.sum(axis=0) + shrinkage, 1e-12)
    result = X.T @ X / np.outer(support**alpha, support ** (1 - alpha))
    np.fill_diagonal(result, 0)
    return result


def assert_scores(result, expected):
    scored = torch.from_numpy(expected > 0)
    assert torch.allclose(result[scored], torch.from_numpy(expected).float()[scored], rtol=1e-4)
    assert bool((result[~scored] < 0).all())


@pytest.mark.parametrize("products", [1, 2**26])
@pytest.mark.parametrize(("shrinkage", "alpha"), [(20, 0.5), (0, 0.5), (3, 0.9)])
def test_item_knn_sums_the_similarities_of_the_distinct_items(
    shrinkage, alpha, products, monkeypatch
):
    monkeypatch.setattr(itemknn, "_PRODUCTS", products)
    model = model_of("itemknn", ROWS, N_ITEMS, shrinkage=shrinkage, alpha=alpha)
    expected = similarities(shrinkage, alpha)
    for history, result in zip(HISTORIES, scores_of(model, *HISTORIES), strict=True):
        assert_scores(result, expected[sorted(set(history))].sum(axis=0))
    last = model_of("itemknn", ROWS, N_ITEMS, shrinkage=shrinkage, alpha=alpha, query="last")
    for history, result in zip(HISTORIES, scores_of(last, *HISTORIES), strict=True):
        assert_scores(result, expected[history[-1]] if history else np.zeros(N_ITEMS))


def test_item_knn_keeps_the_most_similar_items_of_each_item():
    model = model_of("itemknn", ROWS, N_ITEMS, query="last", neighbours=2)
    expected = similarities(20, 0.5)[3]
    best = set(np.argsort(-expected)[:2].tolist())
    assert {int(i) for i in torch.nonzero(scores_of(model, [3])[0] > 0)} == best


@pytest.mark.parametrize(("steps", "weighting"), [(10, "div"), (2, "quadratic"), (1, "same")])
def test_sequential_rules_count_what_follows_the_last_item(steps, weighting):
    expected = np.zeros((N_ITEMS, N_ITEMS))
    for row in ROWS:
        for first in range(len(row)):
            for step in range(1, min(steps, len(row) - 1 - first) + 1):
                weight = {"div": 1 / step, "quadratic": 1 / step**2, "same": 1}[weighting]
                expected[row[first], row[first + step]] += weight
    model = model_of("sequential_rules", ROWS, N_ITEMS, steps=steps, weighting=weighting)
    for history, result in zip(HISTORIES, scores_of(model, *HISTORIES), strict=True):
        assert_scores(result, expected[history[-1]] if history else np.zeros(N_ITEMS))


def test_of_equal_rules_the_lower_item_is_kept_and_comes_first():
    model = model_of("sequential_rules", [[0, 3], [0, 2], [0, 1]], 4, rules=2)
    result = scores_of(model, [0])[0]
    assert (result > 0).tolist() == [False, True, True, False]
    assert result[1] > result[2]


def test_ease_is_the_closed_form():
    model = model_of("ease", ROWS, N_ITEMS, reg_weight=3.0)
    inverse = np.linalg.inv(X.T @ X + 3 * np.eye(N_ITEMS))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    for history, result in zip(HISTORIES, scores_of(model, *HISTORIES), strict=True):
        expected = torch.from_numpy(weights[sorted(set(history))].sum(axis=0)).float()
        if history:
            assert torch.allclose(result, expected, atol=1e-5)
        else:
            assert torch.equal(result, model.popularity_scores)


def test_ease_refuses_a_catalogue_beyond_its_limit():
    with pytest.raises(ConfigError, match=r"ease .* 9 x 9 .* max_items is 8"):
        model_of("ease", ROWS, N_ITEMS, max_items=8)
