import math

import numpy as np
import pytest
from scipy import stats

from recoach.evaluation.exposure import (
    entropy,
    exposure_by_group,
    exposure_parity,
    gini,
    group_exposure,
)

# Items 0 to 3 in groups 0, 1, 1 and none.
GROUPS = np.array([0, 1, 1, -1])
LISTS = np.array([[0, 1, 2], [1, 3, -1], [-1, -1, -1]])
SECOND, THIRD = 1 / math.log2(3), 1 / 2


def test_gini_is_zero_for_equal_exposure_and_near_one_for_a_single_item():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert math.isnan(gini(np.zeros(3, dtype=int)))


def test_entropy_is_in_bits_and_highest_for_equal_exposure():
    assert entropy(np.array([5, 5, 5, 5])) == 2
    assert entropy(np.array([0, 9, 0])) == 0
    counts = np.array([1, 2, 5, 0])
    assert entropy(counts) == pytest.approx(stats.entropy(counts, base=2))
    assert math.isnan(entropy(np.zeros(3, dtype=int)))


def test_the_exposure_of_a_group_is_discounted_by_the_rank():
    shares = group_exposure(LISTS, GROUPS, 2)
    total = 1 + SECOND + THIRD
    assert shares[0].tolist() == pytest.approx([1 / total, (SECOND + THIRD) / total])
    # The item without a group takes the rest of the second list.
    assert shares[1].tolist() == pytest.approx([0, 1 / (1 + SECOND)])
    assert np.isnan(shares[2]).all()
    # The padding is not the last item, which has a group here.
    assert group_exposure(np.array([[0, -1]]), np.array([0, 1]), 2).tolist() == [[1, 0]]


def test_the_exposure_of_groups_stands_beside_their_merit():
    shares = np.array([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0], [np.nan] * 3])
    groups = exposure_by_group(shares, np.array([2, 6, 0]), ["large", "small", "none"])
    assert groups["large"] == pytest.approx((0.625, 0.25, 2.5))
    assert groups["small"] == pytest.approx((0.375, 0.75, 0.5))
    assert groups["none"][:2] == (0, 0)
    assert math.isnan(groups["none"].ratio)
    assert exposure_parity(shares, np.array([2, 6, 0])) == pytest.approx(0.5 / 2.5)


def test_parity_is_one_if_exposure_is_proportional_to_merit():
    assert exposure_parity(np.array([[0.2, 0.8]]), np.array([10, 40])) == pytest.approx(1)
    assert exposure_parity(np.array([[0.0, 1.0]]), np.array([1, 1])) == 0


def test_parity_and_ratios_without_exposure_or_merit_are_undefined():
    nothing = np.full((2, 2), np.nan)
    assert math.isnan(exposure_parity(nothing, np.array([1, 1])))
    assert math.isnan(exposure_parity(np.array([[0.5, 0.5]]), np.array([0, 0])))
    groups = exposure_by_group(nothing, np.array([0, 0]), ["a", "b"])
    assert [groups[name].exposure for name in "ab"] == [0, 0]
    assert all(math.isnan(groups[name].merit) for name in "ab")
    assert all(math.isnan(groups[name].ratio) for name in "ab")
