import itertools
import math

import numpy as np
import pytest

from recoach.data.dataset import RaggedArray
from recoach.evaluation import beyond_accuracy as module
from recoach.evaluation.beyond_accuracy import (
    gini,
    list_metrics,
)

HISTORIES = [[0, 1, 2], [0, 1, 1], [0, 3], [4]]
TRAIN = RaggedArray(
    np.cumsum([0] + [len(row) for row in HISTORIES]).astype(np.int64),
    np.concatenate(HISTORIES).astype(np.int32),
)
N_ITEMS = 6
LISTS = np.array([[0, 1, 5], [1, 3, -1], [0, 2, 4], [5, -1, -1]])


def cosine(a, b):
    users_a, users_b = ({u for u, row in enumerate(HISTORIES) if item in row} for item in (a, b))
    norm = math.sqrt(len(users_a) * len(users_b))
    return len(users_a & users_b) / norm if norm else 0.0


@pytest.fixture(params=[1, 2048])
def lists_at_once(request, monkeypatch):
    monkeypatch.setattr(module, "_LISTS_AT_ONCE", request.param)


@pytest.mark.usefixtures("lists_at_once")
def test_list_metrics_equal_brute_force():
    result = list_metrics(LISTS, TRAIN, N_ITEMS)
    recommended = [int(item) for item in LISTS.ravel() if item >= 0]
    popularity = [sum(row.count(item) for row in HISTORIES) for item in range(N_ITEMS)]
    n_users = [max(1, sum(item in row for row in HISTORIES)) for item in range(N_ITEMS)]
    pairs = [
        cosine(a, b)
        for row in LISTS.tolist()
        for a, b in itertools.combinations([item for item in row if item >= 0], 2)
    ]
    assert result["coverage@3"] == 1.0
    assert result["popularity@3"] == pytest.approx(np.mean([popularity[i] for i in recommended]))
    novelty = np.mean([-math.log2(n_users[i] / 4) for i in recommended])
    assert result["novelty@3"] == pytest.approx(novelty)
    assert result["diversity@3"] == pytest.approx(1 - np.mean(pairs))
    exposure = np.bincount(recommended, minlength=N_ITEMS)
    differences = np.abs(exposure[:, None] - exposure).sum()
    assert result["gini@3"] == pytest.approx(differences / (2 * N_ITEMS * exposure.sum()))


def test_coverage_counts_each_recommended_item_once():
    assert list_metrics(np.array([[0], [0]]), TRAIN, N_ITEMS)["coverage@1"] == 1 / N_ITEMS


def test_gini_is_zero_for_equal_exposure_and_near_one_for_a_single_item():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)


def test_diversity_is_zero_for_lists_of_one_item():
    assert list_metrics(np.array([[0], [1]]), TRAIN, N_ITEMS)["diversity@1"] == 0
