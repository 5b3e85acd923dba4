import numpy as np
import pytest

from recoach.evaluation.significance import paired_bootstrap, seeds_interval

RNG = np.random.default_rng(7)
THEIRS = RNG.random(600)
OURS = THEIRS + 0.05 + 0.1 * RNG.normal(size=600)


def test_a_real_difference_is_significant():
    result = paired_bootstrap(OURS, THEIRS)
    assert result.verdict == "better"
    assert result.low < 0.05 < result.high
    assert result.p_value < 0.01
    assert result.relative == pytest.approx(result.difference / THEIRS.mean())


def test_identical_models_do_not_differ():
    result = paired_bootstrap(THEIRS, THEIRS.copy())
    assert result == (0.0, 0.0, 0.0, 0.0, 1.0, "no difference")


def test_noise_is_not_significant():
    noise = RNG.permutation(np.repeat([-1.0, 1.0], 300))
    result = paired_bootstrap(THEIRS + noise, THEIRS)
    assert result.verdict == "no difference"
    assert result.low < 0 < result.high
    assert result.p_value > 0.5


def test_swapping_the_models_changes_the_sign():
    ours, theirs = paired_bootstrap(OURS, THEIRS), paired_bootstrap(THEIRS, OURS)
    assert theirs.verdict == "worse"
    assert theirs.difference == pytest.approx(-ours.difference)
    assert (theirs.low, theirs.high) == pytest.approx((-ours.high, -ours.low), abs=1e-3)


def test_the_interval_is_close_to_the_normal_approximation():
    result = paired_bootstrap(OURS, THEIRS)
    half = 1.96 * (OURS - THEIRS).std() / np.sqrt(len(THEIRS))
    assert result.high - result.low == pytest.approx(2 * half, rel=0.1)


def test_the_same_seed_gives_the_same_interval():
    assert paired_bootstrap(OURS, THEIRS, seed=3) == paired_bootstrap(OURS, THEIRS, seed=3)
    assert paired_bootstrap(OURS, THEIRS, seed=3) != paired_bootstrap(OURS, THEIRS, seed=4)


def test_the_relative_difference_to_a_mean_of_zero_is_zero():
    result = paired_bootstrap(np.ones(5), np.zeros(5))
    assert result.difference == 1
    assert result.relative == 0


def test_the_interval_over_seeds_is_student_t():
    low, high = seeds_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.302653 / 3**0.5)
