import numpy as np
import pytest

from recoach.evaluation.significance import paired_bootstrap, seeds_interval

RNG = np.random.default_rng(7)
THEIRS = RNG.random(600)
BETTER = THEIRS + 0.05 + 0.1 * RNG.normal(size=600)


def test_a_known_difference_is_found():
    found = paired_bootstrap(BETTER, THEIRS)
    assert found.verdict == "better"
    assert found.low < 0.05 < found.high
    assert found.p_value < 0.01
    assert found.relative == pytest.approx(found.difference / THEIRS.mean())


def test_identical_models_do_not_differ():
    found = paired_bootstrap(THEIRS, THEIRS.copy())
    assert found == (0.0, 0.0, 0.0, 0.0, 1.0, "no difference")


def test_noise_alone_is_no_difference():
    noise = RNG.permutation(np.repeat([-1.0, 1.0], 300))
    found = paired_bootstrap(THEIRS + noise, THEIRS)
    assert found.verdict == "no difference"
    assert found.low < 0 < found.high
    assert found.p_value > 0.5


def test_changing_sides_changes_the_sign():
    ours, theirs = paired_bootstrap(BETTER, THEIRS), paired_bootstrap(THEIRS, BETTER)
    assert theirs.verdict == "worse"
    assert theirs.difference == pytest.approx(-ours.difference)
    assert (theirs.low, theirs.high) == pytest.approx((-ours.high, -ours.low), abs=1e-3)


def test_the_interval_is_that_of_the_normal_approximation():
    found = paired_bootstrap(BETTER, THEIRS)
    half = 1.96 * (BETTER - THEIRS).std() / np.sqrt(len(THEIRS))
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_the_same_seed_gives_the_same_interval():
    assert paired_bootstrap(BETTER, THEIRS, seed=3) == paired_bootstrap(BETTER, THEIRS, seed=3)
    assert paired_bootstrap(BETTER, THEIRS, seed=3) != paired_bootstrap(BETTER, THEIRS, seed=4)


def test_a_difference_to_nothing_has_no_ratio():
    found = paired_bootstrap(np.ones(5), np.zeros(5))
    assert found.difference == 1
    assert found.relative == 0


def test_the_interval_over_seeds_is_student_s():
    low, high = seeds_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.302653 / 3**0.5)
