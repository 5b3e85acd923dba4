"""A metric over windows: values computed by hand, and intervals by resampling whole users."""

import numpy as np
import pytest

from recoach.evaluation.rolling import summarize_windows


def test_windows_have_the_same_weight_and_the_slope_is_that_of_least_squares():
    values = [np.array([0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0])]
    users = [np.array([0, 1]), np.array([0, 1, 2, 3]), np.array([2])]
    summary = summarize_windows(values, users, [0.0, 1.0, 4.0])
    assert summary.means == (0.5, 0.75, 1.0)
    assert summary.mean == pytest.approx(0.75)
    assert summary.deviation == pytest.approx(0.25)
    expected = np.polyfit([0, 1, 4], [0.5, 0.75, 1.0], 1)[0]
    assert summary.slope == pytest.approx(expected)


def test_a_trend_that_all_users_share_has_no_interval():
    users = [np.arange(30)] * 4
    values = [np.full(30, 0.1 * window) for window in range(4)]
    summary = summarize_windows(values, users)
    assert [summary.slope_low, summary.slope, summary.slope_high] == pytest.approx([0.1] * 3)
    assert [summary.low, summary.high] == pytest.approx([0.15, 0.15])


def test_users_are_resampled_with_all_their_windows():
    generator = np.random.default_rng(0)
    level = generator.random(400)  # of each user, the same in all windows
    users = [np.arange(400)] * 5
    summary = summarize_windows([level] * 5, users, samples=4000)
    error = level.std() / np.sqrt(400)
    assert (summary.high - summary.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    # Independent windows would give an interval narrower by the root of 5.
    others = [np.arange(400) + 400 * window for window in range(5)]
    narrow = summarize_windows([level] * 5, others, samples=4000)
    assert (summary.high - summary.low) / (narrow.high - narrow.low) == pytest.approx(
        np.sqrt(5), rel=0.08
    )


def test_one_window_has_no_slope():
    summary = summarize_windows([np.array([0.0, 1.0])], [np.array([0, 1])])
    assert summary.mean == 0.5
    assert np.isnan([summary.slope, summary.deviation]).all()


def test_a_window_without_states_is_refused():
    with pytest.raises(ValueError, match="at least one state"):
        summarize_windows([np.array([1.0]), np.array([])], [np.array([0]), np.array([])])
