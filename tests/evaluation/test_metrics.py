import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recoach.evaluation.metrics import (
    METRIC_NAME,
    METRICS,
    MISS,
    TargetRanks,
    auc,
    cutoff,
    metrics_per_user,
)

# State 0: one target at rank 3; state 1: targets at ranks 2, 7 and 5; state 2: one at rank 1.
TARGETS = TargetRanks(
    np.array([3, 2, 7, 5, 1]),
    np.array([0, 1, 1, 1, 2]),
    np.array([1, 3, 1]),
    values=np.array([1, 0.2, 10, 5, 2]),
    n_candidates=np.array([11, 9, 9]),
)

GAIN = [1 / math.log2(rank + 1) for rank in range(1, 10)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall@1", [0, 0, 1]),
        ("recall@2", [0, 1 / 3, 1]),
        ("recall@5", [1, 2 / 3, 1]),
        ("recall@10", [1, 1, 1]),
        ("hit@1", [0, 0, 1]),
        ("hit@2", [0, 1, 1]),
        ("hit@5", [1, 1, 1]),
        ("precision@1", [0, 0, 1]),
        ("precision@5", [1 / 5, 2 / 5, 1 / 5]),
        ("precision@10", [1 / 10, 3 / 10, 1 / 10]),
        ("map@1", [0, 0, 1]),
        ("map@5", [1 / 3, (1 / 2 + 2 / 5) / 3, 1]),
        ("map@10", [1 / 3, (1 / 2 + 2 / 5 + 3 / 7) / 3, 1]),
        ("mrr@1", [0, 0, 1]),
        ("mrr@2", [0, 1 / 2, 1]),
        ("mrr@5", [1 / 3, 1 / 2, 1]),
        ("ndcg@1", [0, 0, 1]),
        ("ndcg@2", [0, GAIN[1] / sum(GAIN[:2]), 1]),
        ("ndcg@5", [GAIN[2], (GAIN[1] + GAIN[4]) / sum(GAIN[:3]), 1]),
        ("ndcg@10", [GAIN[2], (GAIN[1] + GAIN[4] + GAIN[6]) / sum(GAIN[:3]), 1]),
        ("value@1", [0, 0, 2]),
        ("value@5", [1, 5.2, 2]),
        ("value@10", [1, 15.2, 2]),
        # Of the other candidates 2 of 10; 1, 3 and 4 of 6; none of 8 come before the target.
        ("auc", [0.8, 1 - (1 + 3 + 4) / 18, 1]),
    ],
)
def test_metrics_equal_values_computed_by_hand(name, expected):
    values = metrics_per_user(TARGETS, [1, 2, 5, 10])[name]
    assert values.tolist() == pytest.approx(expected)


def test_metrics_do_not_depend_on_the_order_of_the_targets():
    order = np.array([4, 2, 1, 0, 3])
    shuffled = replace(
        TARGETS,
        ranks=TARGETS.ranks[order],
        states=TARGETS.states[order],
        values=TARGETS.values[order],
    )
    expected = metrics_per_user(TARGETS, [2, 5])
    for name, values in metrics_per_user(shuffled, [2, 5]).items():
        assert values.tolist() == pytest.approx(expected[name].tolist())


def test_ndcg_of_one_target_at_rank_four_is_one_over_log2_of_five():
    target = TargetRanks(np.array([4]), np.array([0]), np.array([1]))
    metrics = metrics_per_user(target, [3, 4])
    assert metrics["ndcg@4"][0] == pytest.approx(1 / math.log2(5))
    assert metrics["ndcg@3"][0] == metrics["mrr@3"][0] == metrics["recall@3"][0] == 0


def test_the_ideal_list_has_at_most_k_targets_and_recall_counts_all_of_them():
    targets = TargetRanks(np.arange(1, 6), np.zeros(5, dtype=int), np.array([5]))
    metrics = metrics_per_user(targets, [2])
    assert metrics["ndcg@2"].tolist() == [1.0]
    assert metrics["recall@2"].tolist() == metrics["map@2"].tolist() == [2 / 5]


def test_with_one_target_hit_is_recall_and_map_is_mrr():
    ranks = np.arange(1, 30)
    targets = TargetRanks(ranks, ranks - 1, np.ones(29, dtype=int))
    metrics = metrics_per_user(targets, [1, 7])
    for k in (1, 7):
        assert metrics[f"hit@{k}"].tolist() == metrics[f"recall@{k}"].tolist()
        assert metrics[f"map@{k}"].tolist() == metrics[f"mrr@{k}"].tolist()


def test_a_target_that_occurs_twice_counts_once_with_the_sum_of_its_values():
    # State 0: item 8 at rank 1, twice; item 3 at rank 2. State 1: item 8 at rank 4.
    twice = TargetRanks(
        np.array([1, 2, 1, 4]),
        np.array([0, 0, 0, 1]),
        np.array([3, 1]),
        items=np.array([8, 3, 8, 8]),
        values=np.array([1.0, 10.0, 2.0, 4.0]),
    )
    once = TargetRanks(
        np.array([2, 1, 4]),
        np.array([0, 0, 1]),
        np.array([2, 1]),
        values=np.array([10.0, 3.0, 4.0]),
    )
    metrics, expected = metrics_per_user(twice, [1, 2, 5]), metrics_per_user(once, [1, 2, 5])
    for name, values in metrics.items():
        assert values.tolist() == expected[name].tolist()
    assert metrics["ndcg@2"][0] == metrics["recall@2"][0] == 1
    assert metrics["value@1"].tolist() == [3, 0]


def test_items_outside_the_catalogue_are_misses_and_different_from_each_other():
    cold = TargetRanks(
        np.array([MISS, 1, MISS]),
        np.zeros(3, dtype=int),
        np.array([3]),
        items=np.array([-1, 5, -1]),
        n_candidates=np.array([10]),
    )
    metrics = metrics_per_user(cold, [1, 10])
    for name in ("recall@1", "recall@10", "map@10", "auc"):
        assert metrics[name].tolist() == pytest.approx([1 / 3])
    assert metrics["ndcg@10"].tolist() == pytest.approx([1 / sum(GAIN[:3])])
    all_cold = TargetRanks(np.array([MISS]), np.array([0]), np.array([1]))
    assert all(value == 0 for (value,) in metrics_per_user(all_cold, [1, 50]).values())


def test_constant_scores_rank_every_target_last():
    # Ten candidates with equal scores: ties against the model give every target rank 10.
    ranks = TargetRanks(
        np.array([10, 10, 10]),
        np.array([0, 1, 1]),
        np.array([1, 2]),
        n_candidates=np.array([10, 10]),
    )
    metrics = metrics_per_user(ranks, [1, 9])
    assert all((values == 0).all() for values in metrics.values())


def test_auc_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(3)
    positive, negative = rng.random(4), rng.random(20)
    scores = np.concatenate([positive, negative])
    ranks = [int((scores >= score).sum()) for score in positive]
    targets = TargetRanks(
        np.array(ranks), np.zeros(4, dtype=int), np.array([4]), n_candidates=np.array([24])
    )
    expected = stats.mannwhitneyu(positive, negative).statistic / (4 * 20)
    assert auc(targets).tolist() == pytest.approx([expected])


def test_auc_of_targets_with_equal_scores_above_all_others_is_one():
    targets = TargetRanks(
        np.array([2, 2]), np.array([0, 0]), np.array([2]), n_candidates=np.array([5])
    )
    assert auc(targets).tolist() == [1]


def test_auc_without_other_candidates_is_one():
    targets = TargetRanks(
        np.array([1, 2]), np.array([0, 0]), np.array([2]), n_candidates=np.array([2])
    )
    assert auc(targets).tolist() == [1]


def test_auc_of_a_rank_beyond_the_candidates_is_zero():
    # A cold item that is ranked after all items of the catalogue, some of which are masked.
    cold = TargetRanks(np.array([30]), np.array([0]), np.array([1]), n_candidates=np.array([12]))
    assert auc(cold).tolist() == [0]


def test_auc_needs_the_number_of_candidates():
    with pytest.raises(ValueError, match="n_candidates"):
        metrics_per_user(replace(TARGETS, n_candidates=None), [1], ["auc"])


def test_selected_targets_keep_their_ranks_and_states_without_targets_leave():
    selected = TARGETS.select(np.array([False, False, True, True, True]))
    assert selected.ranks.tolist() == [7, 5, 1]
    assert selected.states.tolist() == [0, 0, 1]
    assert selected.counts.tolist() == [2, 1]
    assert selected.values.tolist() == [10, 5, 2]
    assert selected.n_candidates.tolist() == [9, 9]


def test_every_metric_is_computed_at_every_cut_off_and_auc_once():
    names = set(metrics_per_user(TARGETS, [1, 10]))
    assert names == {f"{metric}@{k}" for metric in METRICS for k in (1, 10)} | {"auc"}


def test_metrics_without_their_input_are_left_out():
    plain = replace(TARGETS, values=None, n_candidates=None)
    names = {name.partition("@")[0] for name in metrics_per_user(plain, [1])}
    assert names == set(METRICS) - {"value"}
    assert metrics_per_user(plain, [5], ["value"])["value@5"].tolist() == [1, 2, 1]


def test_names_of_metrics_have_a_cut_off_where_they_need_one():
    for name in ("ndcg@10", "precision@1", "map@20", "hit@5", "value@10", "auc"):
        assert re.match(METRIC_NAME, name)
    for name in ("ndcg", "ndcg@0", "auc@10", "xauc", "ndcg@10x", "novelty@10"):
        assert not re.match(METRIC_NAME, name)
    assert (cutoff("ndcg@10"), cutoff("auc")) == (10, None)


def of_one_target(name):
    """Return a metric of single targets at ranks 1 to 29, in lists of 1, 5 and 20."""
    ranks = np.arange(1, 30)
    targets = TargetRanks(ranks, ranks - 1, np.ones(29, dtype=int))
    return [METRICS[name](targets, k) for k in (1, 5, 20)]


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_in_zero_to_one(name):
    assert all((value >= 0).all() and (value <= 1).all() for value in of_one_target(name))


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"precision"}))
def test_metrics_of_one_target_grow_with_k(name):
    values = of_one_target(name)
    assert (values[0] <= values[1]).all()
    assert (values[1] <= values[2]).all()
    assert values[2].sum() > values[0].sum()
