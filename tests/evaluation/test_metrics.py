import math

import numpy as np
import pytest

from recoach.evaluation.metrics import METRICS, metrics_per_user

# User 0: one target at rank 3; user 1: targets at ranks 2, 7 and 5; user 2: one at rank 1.
RANKS = np.array([3, 2, 7, 5, 1])
STATES = np.array([0, 1, 1, 1, 2])
COUNTS = np.array([1, 3, 1])

GAIN = [1 / math.log2(rank + 1) for rank in range(1, 10)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall@1", [0, 0, 1]),
        ("recall@2", [0, 1 / 3, 1]),
        ("recall@5", [1, 2 / 3, 1]),
        ("recall@10", [1, 1, 1]),
        ("mrr@1", [0, 0, 1]),
        ("mrr@2", [0, 1 / 2, 1]),
        ("mrr@5", [1 / 3, 1 / 2, 1]),
        ("ndcg@1", [0, 0, 1]),
        ("ndcg@2", [0, GAIN[1] / sum(GAIN[:2]), 1]),
        ("ndcg@5", [GAIN[2], (GAIN[1] + GAIN[4]) / sum(GAIN[:3]), 1]),
        ("ndcg@10", [GAIN[2], (GAIN[1] + GAIN[4] + GAIN[6]) / sum(GAIN[:3]), 1]),
    ],
)
def test_metrics_equal_values_computed_by_hand(name, expected):
    values = metrics_per_user(RANKS, STATES, COUNTS, [1, 2, 5, 10])[name]
    assert values.tolist() == pytest.approx(expected)


def test_ndcg_of_one_target_at_rank_four_is_one_over_log2_of_five():
    metrics = metrics_per_user(np.array([4]), np.array([0]), np.array([1]), [3, 4])
    assert metrics["ndcg@4"][0] == pytest.approx(1 / math.log2(5))
    assert metrics["ndcg@3"][0] == metrics["mrr@3"][0] == metrics["recall@3"][0] == 0


def test_every_metric_is_computed_at_every_cut_off():
    names = set(metrics_per_user(RANKS, STATES, COUNTS, [1, 10]))
    assert names == {f"{metric}@{k}" for metric in METRICS for k in (1, 10)}


def of_one_target(name):
    """Return a metric of single targets at ranks 1 to 29, in lists of 1, 5 and 20."""
    ranks = np.arange(1, 30)
    return [METRICS[name](ranks, ranks - 1, np.ones(29, dtype=int), k) for k in (1, 5, 20)]


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_in_zero_to_one(name):
    assert all((value >= 0).all() and (value <= 1).all() for value in of_one_target(name))


@pytest.mark.parametrize("name", ["mrr", "ndcg", "recall"])
def test_metrics_of_one_target_grow_with_k(name):
    values = of_one_target(name)
    assert (values[0] <= values[1]).all()
    assert (values[1] <= values[2]).all()
    assert values[2].sum() > values[0].sum()
