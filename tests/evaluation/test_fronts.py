import itertools

import numpy as np
import pytest

from recoach.evaluation.fronts import (
    hypervolume,
    interval,
    nondominated,
    normalised,
    resampled_coverage,
    resampled_means,
    resampled_weights,
)

pytest.importorskip("moocore")


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([(1, 0), (0, 1)], 0.0),
        ([(0.5, 0.5)], 0.25),
        ([(1, 0.2), (0.6, 0.6), (0.2, 1)], 0.52),
        ([(1, 0.2), (0.6, 0.6), (0.2, 1), (0.5, 0.5)], 0.52),
        ([(1, 0.2), (-0.5, 3), (3, -0.5)], 0.2),
        ([], 0.0),
    ],
)
def test_the_hypervolume_is_the_dominated_area(points, area):
    assert hypervolume(np.array(points).reshape(-1, 2)) == pytest.approx(area)


def test_points_that_no_other_dominates_are_kept():
    points = np.random.default_rng(0).random((30, 2)).round(1)
    expected = [
        not any((q >= p).all() and (q > p).any() for q in points)
        and not any((q == p).all() for q in points[:place])
        for place, p in enumerate(points)
    ]
    assert nondominated(points).tolist() == expected


def test_nadir_and_ideal_become_0_and_1():
    corners = np.array([[0.1, 4.0], [0.3, 2.0]])
    assert normalised(corners, *corners).tolist() == [[0, 0], [1, 1]]


USERS = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("scheme", ["bootstrap", "half"])
def test_users_are_resampled_with_all_their_states(scheme):
    weights = resampled_weights(USERS, 50, scheme=scheme)
    assert weights.shape == (50, 10)
    for user in range(7):
        of_user = weights[:, user == USERS]
        assert (of_user == of_user[:, :1]).all()
    of_users = weights[:, np.unique(USERS, return_index=True)[1]]
    assert (of_users.sum(axis=1) == (7 if scheme == "bootstrap" else 3)).all()
    assert of_users.max() == 1 if scheme == "half" else of_users.max() > 1
    assert len(np.unique(of_users, axis=0)) > 10


@pytest.mark.parametrize("scheme", ["bootstrap", "half"])
def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(scheme):
    values = np.random.default_rng(1).normal(size=400)
    weights = resampled_weights(np.arange(400), 2000, scheme=scheme)
    low, high = interval(values.mean(), resampled_means(values, weights))
    half_width = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx(
        (values.mean() - half_width, values.mean() + half_width), abs=0.1 * half_width
    )


def test_undefined_values_are_left_out_of_a_mean():
    values = np.array([1.0, np.nan, 3.0])
    weights = np.array([[1, 1, 1], [2, 5, 0], [0, 1, 0]])
    assert resampled_means(values, weights).tolist() == [2.0, 1.0, 0.0]


def test_coverage_counts_the_items_of_the_lists_of_a_resample():
    lists = np.array([[0, 1], [1, -1], [3, 4]])
    for weights in itertools.product([0, 1, 2], repeat=3):
        items = {item for row, w in zip(lists, weights, strict=True) if w for item in row} - {-1}
        found = resampled_coverage(lists, 5, np.array([weights]))
        assert found.tolist() == [len(items) / 5]
