import itertools
import math

import numpy as np
import pytest

from recoach.data.split import RaggedArray
from recoach.evaluation import beyond_accuracy as module
from recoach.evaluation.beyond_accuracy import (
    activity_groups,
    gini,
    list_metrics,
    popularity_buckets,
)

TAKEN = [[0, 1, 2], [0, 1, 1], [0, 3], [4]]
TRAIN = RaggedArray(
    np.cumsum([0] + [len(row) for row in TAKEN]).astype(np.int64),
    np.concatenate(TAKEN).astype(np.int32),
)
N_ITEMS = 6
LISTS = np.array([[0, 1, 5], [1, 3, -1], [0, 2, 4], [5, -1, -1]])


def cosine(a, b):
    takers = [{u for u, row in enumerate(TAKEN) if item in row} for item in (a, b)]
    size = math.sqrt(len(takers[0]) * len(takers[1]))
    return len(takers[0] & takers[1]) / size if size else 0.0


@pytest.fixture(params=[1, 2048])
def lists_at_once(request, monkeypatch):
    monkeypatch.setattr(module, "_LISTS_AT_ONCE", request.param)


@pytest.mark.usefixtures("lists_at_once")
def test_what_lists_are_like_against_brute_force():
    found = list_metrics(LISTS, TRAIN, N_ITEMS)
    shown = [int(item) for item in LISTS.ravel() if item >= 0]
    times = [sum(row.count(item) for row in TAKEN) for item in range(N_ITEMS)]
    takers = [max(1, sum(item in row for row in TAKEN)) for item in range(N_ITEMS)]
    pairs = [
        cosine(a, b)
        for row in LISTS.tolist()
        for a, b in itertools.combinations([item for item in row if item >= 0], 2)
    ]
    assert found["coverage@3"] == 1.0
    assert found["popularity@3"] == pytest.approx(np.mean([times[i] for i in shown]))
    assert found["novelty@3"] == pytest.approx(np.mean([-math.log2(takers[i] / 4) for i in shown]))
    assert found["diversity@3"] == pytest.approx(1 - np.mean(pairs))
    exposure = np.bincount(shown, minlength=N_ITEMS)
    differences = np.abs(exposure[:, None] - exposure).sum()
    assert found["gini@3"] == pytest.approx(differences / (2 * N_ITEMS * exposure.sum()))


def test_coverage_counts_what_anybody_is_shown():
    assert list_metrics(np.array([[0], [0]]), TRAIN, N_ITEMS)["coverage@1"] == 1 / N_ITEMS


def test_gini_of_equals_is_zero_and_of_one_alone_nearly_one():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)


def test_a_list_of_one_has_no_pairs():
    assert list_metrics(np.array([[0], [1]]), TRAIN, N_ITEMS)["diversity@1"] == 0


def test_buckets_hold_equally_many_interactions_and_their_own_targets():
    # Popularity: item 0 and 1 three each, 2, 3, 4 one each, 5 never: nine interactions.
    targets, ranks = np.array([0, 0, 1, 2, 5]), np.array([1, 9, 2, 3, 50])
    found = popularity_buckets(targets, ranks, TRAIN, N_ITEMS, k=5, count=3)
    assert [(b.items, b.targets) for b in found] == [(1, 2), (1, 1), (4, 2)]
    assert [b.recall for b in found] == [0.5, 1.0, 0.5]


def test_a_bucket_without_targets_has_no_recall():
    found = popularity_buckets(np.array([0]), np.array([1]), TRAIN, N_ITEMS, k=5, count=3)
    assert math.isnan(found[1].recall)


def test_recall_by_length_of_the_history_never_parts_users_of_one_length():
    lengths = np.array([3, 3, 3, 3, 3, 4, 5, 9, 9, 30])
    ranks = np.array([1, 11, 11, 11, 1, 1, 1, 11, 1, 10])
    groups = activity_groups(lengths, ranks, k=10)
    assert sum(group.targets for group in groups) == 10
    assert groups[0] == (3, 3, 5, 2 / 5)
    assert [(g.shortest, g.longest) for g in groups] == [(3, 3), (4, 5), (9, 30)]
    assert groups[-1].recall == pytest.approx(2 / 3)
    assert activity_groups(np.full(4, 7), ranks[:4], k=10) == [(7, 7, 4, 1 / 4)]
