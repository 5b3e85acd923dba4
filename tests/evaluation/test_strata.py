import math

import numpy as np
import pytest

from recoach.data.dataset import RaggedArray
from recoach.evaluation.metrics import TargetRanks, metrics_per_user
from recoach.evaluation.strata import (
    activity_groups,
    largest_gap,
    length_labels,
    popularity_buckets,
    popularity_labels,
    state_strata,
    target_strata,
)

HISTORIES = [[0, 1, 2], [0, 1, 1], [0, 3], [4]]
TRAIN = RaggedArray(
    np.cumsum([0] + [len(row) for row in HISTORIES]).astype(np.int64),
    np.concatenate(HISTORIES).astype(np.int32),
)
N_ITEMS = 6

# State 0: a view at rank 1, a purchase at rank 4; state 1: views at ranks 2 and 3; state 2: a
# purchase at rank 20.
TARGETS = TargetRanks(
    np.array([1, 4, 2, 3, 20]),
    np.array([0, 0, 1, 1, 2]),
    np.array([2, 2, 1]),
    n_candidates=np.array([30, 30, 30]),
)
VIEW, CART, PURCHASE = range(3)
LABELS = np.array([VIEW, PURCHASE, VIEW, VIEW, PURCHASE])
KINDS = ("view", "cart", "purchase")


def test_a_stratum_is_evaluated_on_its_own_targets():
    strata = target_strata(TARGETS, LABELS, KINDS, [2, 10])
    view, purchase = strata["view"], strata["purchase"]
    assert (view.states, view.targets) == (2, 3)
    assert view.means["recall@2"] == pytest.approx((1 + 1 / 2) / 2)
    ideal = 1 + 1 / math.log2(3)
    assert view.means["ndcg@2"] == pytest.approx((1 + (1 / math.log2(3)) / ideal) / 2)
    assert (purchase.states, purchase.targets) == (2, 2)
    assert purchase.means["recall@10"] == 1 / 2
    assert purchase.means["mrr@10"] == pytest.approx((1 / 4 + 0) / 2)
    assert purchase.means["auc"] == pytest.approx(((30 - 4) / 29 + (30 - 20) / 29) / 2)


def test_an_empty_stratum_has_no_states_and_all_metrics_are_nan():
    cart = target_strata(TARGETS, LABELS, KINDS, [10])["cart"]
    assert (cart.states, cart.targets) == (0, 0)
    assert set(cart.means) == set(metrics_per_user(TARGETS, [10]))
    assert all(math.isnan(mean) for mean in cart.means.values())


def test_strata_without_any_targets_are_empty():
    nothing = TargetRanks(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    strata = target_strata(nothing, np.empty(0, dtype=np.int64), KINDS, [10], ["ndcg", "hit"])
    assert [(s.states, s.targets, sorted(s.means)) for s in strata.values()] == [
        (0, 0, ["hit@10", "ndcg@10"])
    ] * 3


def test_targets_with_another_label_are_in_no_stratum():
    strata = target_strata(TARGETS, np.array([0, -1, -1, 5, -1]), ["view"], [10])
    assert strata["view"].states == strata["view"].targets == 1
    assert strata["view"].means["recall@10"] == 1


def test_an_item_with_two_labels_counts_in_both_strata_and_once_in_each():
    # Item 7 is viewed twice and bought.
    targets = TargetRanks(
        np.array([1, 1, 1]), np.zeros(3, dtype=int), np.array([3]), items=np.array([7, 7, 7])
    )
    strata = target_strata(targets, np.array([VIEW, VIEW, PURCHASE]), KINDS, [1])
    assert [strata[kind].targets for kind in KINDS] == [1, 0, 1]
    assert strata["view"].means["ndcg@1"] == strata["purchase"].means["ndcg@1"] == 1


def test_strata_of_states_partition_the_mean():
    state_labels = np.array([1, 0, 1])
    strata = target_strata(TARGETS, state_labels[TARGETS.states], ["new", "old"], [10])
    values = metrics_per_user(TARGETS, [10])
    same = state_strata(values, state_labels, ["new", "old"])
    for name, value in values.items():
        assert strata["old"].means[name] == pytest.approx(value[[0, 2]].mean())
        assert same["old"].means[name] == pytest.approx(value[[0, 2]].mean())
        assert same["new"].means[name] == strata["new"].means[name] == pytest.approx(value[1])
    assert [(s.states, s.targets) for s in same.values()] == [(1, None), (2, None)]


def test_means_of_states_leave_out_undefined_values():
    values = {"diversity@5": np.array([0.5, np.nan, np.nan])}
    strata = state_strata(values, np.array([0, 0, 1]), ["a", "b", "c"])
    assert strata["a"] == (2, None, {"diversity@5": 0.5})
    assert [math.isnan(strata[name].means["diversity@5"]) for name in "bc"] == [True, True]
    assert [strata[name].states for name in "bc"] == [1, 0]


def test_the_gap_is_between_the_best_and_the_worst_group_with_states():
    values = {"ndcg@10": np.array([0.5, 0.1, 0.3, 0.2])}
    strata = state_strata(values, np.array([0, 1, 0, 2]), ["a", "b", "c", "empty"])
    assert largest_gap(strata, "ndcg@10") == pytest.approx(0.4 - 0.1)
    one = state_strata(values, np.zeros(4, dtype=int), ["all", "empty"])
    assert math.isnan(largest_gap(one, "ndcg@10"))


def test_labels_of_items_and_histories_follow_popularity_and_length():
    popularity = np.array([3, 3, 1, 1, 1, 0])
    assert popularity_labels(popularity, 3).tolist() == [0, 1, 2, 2, 2, 2]
    assert popularity_labels(np.zeros(2, dtype=int), 3).tolist() == [0, 0]
    assert length_labels(np.array([9, 1, 1, 5]), 2).tolist() == [1, 0, 0, 1]
    assert length_labels(np.empty(0, dtype=int)).tolist() == []


def test_popularity_buckets_hold_equally_many_interactions():
    # Popularity: item 0 and 1 three each, 2, 3, 4 one each, 5 never: nine interactions.
    targets, ranks = np.array([0, 0, 1, 2, 5]), np.array([1, 9, 2, 3, 50])
    buckets = popularity_buckets(targets, ranks, TRAIN, N_ITEMS, k=5, count=3)
    assert [(b.items, b.targets) for b in buckets] == [(1, 2), (1, 1), (4, 2)]
    assert [b.recall for b in buckets] == [0.5, 1.0, 0.5]


def test_recall_of_a_bucket_without_targets_is_nan():
    buckets = popularity_buckets(np.array([0]), np.array([1]), TRAIN, N_ITEMS, k=5, count=3)
    assert math.isnan(buckets[1].recall)


def test_users_with_equal_history_length_are_in_the_same_activity_group():
    lengths = np.array([3, 3, 3, 3, 3, 4, 5, 9, 9, 30])
    ranks = np.array([1, 11, 11, 11, 1, 1, 1, 11, 1, 10])
    groups = activity_groups(lengths, ranks, k=10)
    assert sum(group.targets for group in groups) == 10
    assert groups[0] == (3, 3, 5, 2 / 5)
    assert [(g.shortest, g.longest) for g in groups] == [(3, 3), (4, 5), (9, 30)]
    assert groups[-1].recall == pytest.approx(2 / 3)
    assert activity_groups(np.full(4, 7), ranks[:4], k=10) == [(7, 7, 4, 1 / 4)]
