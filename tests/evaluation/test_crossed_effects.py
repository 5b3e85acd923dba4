import math

import numpy as np
import pytest
from scipy import stats

from recoach.evaluation.crossed_effects import crossed_interval, crossed_log_ratio, user_means
from recoach.evaluation.estimates import (
    Estimate,
    detectable_effect,
    equivalence,
    student_estimate,
)
from recoach.evaluation.significance import minimal_detectable_effect


def sampled(generator, users, seeds, *, of_users=0.0, of_seeds=0.0, rest=1.0):
    """Return float[users, seeds] of normal effects with these standard deviations."""
    return (
        of_users * generator.normal(size=(users, 1))
        + of_seeds * generator.normal(size=(1, seeds))
        + rest * generator.normal(size=(users, seeds))
    )


def test_the_standard_error_is_that_of_the_analysis_of_variance():
    # Means of the rows 2.5, 5.5, 5.5 and of the columns 3, 6; mean squares 6, 13.5 and 2.
    result = crossed_interval(np.array([[1, 4], [3, 8], [5, 6]]))
    assert result.value == 4.5
    assert result.standard_error == pytest.approx(math.sqrt((6 + 13.5 - 2) / 6))
    assert result.degrees_of_freedom == pytest.approx(17.5**2 / (6**2 / 2 + 13.5**2 + 2**2 / 2))
    t = 4.5 / result.standard_error
    assert result.p_value == pytest.approx(2 * stats.t.sf(t, result.degrees_of_freedom))


def test_the_variance_is_at_least_that_of_the_larger_mean_square():
    # Mean squares 6, 1.5 and 2: their sum with signs is 5.5, below that of the users.
    result = crossed_interval(np.array([[1, 2], [3, 6], [5, 4]]))
    assert result.standard_error == pytest.approx(1)
    assert result.degrees_of_freedom == 2
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # t(0.975) with two degrees of freedom
    assert (result.low, result.high) == pytest.approx((3.5 - quantile, 3.5 + quantile))


def test_one_seed_gives_the_t_test_over_users():
    values = np.random.default_rng(0).normal(0.2, 1, size=25)
    result, expected = crossed_interval(values[:, None]), stats.ttest_1samp(values, 0)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx(expected.confidence_interval())
    wide, expected = (
        crossed_interval(values[:, None], alpha=0.01),
        expected.confidence_interval(0.99),
    )
    assert (wide.low, wide.high) == pytest.approx(tuple(expected))


def test_seeds_alone_give_the_t_test_over_seeds():
    by_seed = np.array([0.1, 0.4, 0.2, 0.7])
    result = crossed_interval(np.tile(by_seed, (30, 1)))
    assert result.p_value == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert result.degrees_of_freedom == pytest.approx(3)


def test_users_and_seeds_can_change_places():
    values = sampled(np.random.default_rng(1), 7, 5, of_users=1, of_seeds=1)
    assert crossed_interval(values) == pytest.approx(crossed_interval(values.T))


def test_models_that_never_differ_have_no_interval():
    assert crossed_interval(np.zeros((6, 3)))[3:] == (0, 0, 1)
    assert crossed_interval(np.ones((6, 3)))[3:] == (1, 1, 0)


@pytest.mark.parametrize(("seeds", "of_seeds"), [(3, 0.1), (5, 0), (5, 0.4)])
def test_the_interval_covers_the_mean_over_new_users_and_seeds(seeds, of_seeds):
    generator = np.random.default_rng(2)
    covered, covered_by_users = 0, 0
    for _ in range(600):
        values = sampled(generator, 60, seeds, of_users=1, of_seeds=of_seeds)
        result, by_users = crossed_interval(values), crossed_interval(values.mean(1)[:, None])
        covered += result.low <= 0 <= result.high
        covered_by_users += by_users.low <= 0 <= by_users.high
    assert 0.93 <= covered / 600 <= 0.99
    if of_seeds == 0.4:
        assert covered_by_users / 600 < 0.8


@pytest.mark.parametrize("shape", [(1, 3), (4,), (4, 0)])
def test_too_few_users_or_seeds_are_an_error(shape):
    with pytest.raises(ValueError, match="users × seeds"):
        crossed_interval(np.zeros(shape))


def test_a_user_without_a_value_is_an_error():
    with pytest.raises(ValueError, match="finite value"):
        crossed_interval(np.array([[1, 2], [math.nan, 1]]))


def test_the_log_ratio_is_that_of_the_means_and_its_error_that_of_the_bootstrap():
    generator = np.random.default_rng(3)
    theirs = generator.gamma(0.3, 0.2, size=(400, 1))
    ours = theirs * 1.1 + generator.gamma(0.1, 0.1, size=(400, 1))
    result = crossed_log_ratio(ours, theirs)
    assert math.exp(result.value) == pytest.approx(ours.mean() / theirs.mean())
    resamples = generator.integers(400, size=(4000, 400))
    bootstrap = np.log(ours[resamples, 0].mean(1) / theirs[resamples, 0].mean(1)).std()
    assert result.standard_error == pytest.approx(bootstrap, rel=0.05)


def test_the_log_ratio_has_the_degrees_of_freedom_of_the_linearised_differences():
    generator = np.random.default_rng(4)
    theirs, ours = 5 + sampled(generator, 8, 3), 6 + sampled(generator, 8, 3, of_seeds=0.5)
    linearised = crossed_interval(ours / ours.mean() - theirs / theirs.mean())
    result = crossed_log_ratio(ours, theirs)
    assert result[1:3] == pytest.approx(linearised[1:3])
    assert crossed_log_ratio(theirs, ours).low == pytest.approx(-result.high)


def test_a_constant_factor_is_a_ratio_without_error():
    theirs = np.random.default_rng(5).integers(1, 9, size=(6, 2)).astype(float)
    assert crossed_log_ratio(2 * theirs, theirs)[:2] == (math.log(2), 0)


def test_ratios_need_equal_shapes_and_positive_means():
    with pytest.raises(ValueError, match="different shapes"):
        crossed_log_ratio(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="positive means"):
        crossed_log_ratio(np.ones((3, 2)), np.zeros((3, 2)))


def test_the_mean_of_a_user_is_over_its_states():
    values = np.array([[1.0, 10], [2, 20], [3, 30], [6, 60]])
    means = user_means(values, np.array([7, 2, 7, 7]))
    assert means.tolist() == [[2, 20], [pytest.approx(10 / 3), pytest.approx(100 / 3)]]


def test_the_detectable_effect_of_one_seed_is_that_of_its_users():
    values = np.random.default_rng(6).normal(size=(50, 1))
    result = crossed_interval(values)
    effect = detectable_effect(*result[1:3])
    assert effect == pytest.approx(minimal_detectable_effect(values.std(ddof=1), 50))
    assert detectable_effect(*result[1:3], power=0.9, alpha=0.01) > effect


def test_the_detectable_effect_is_found_as_often_as_the_power_says():
    generator, degrees_of_freedom = np.random.default_rng(7), 5
    effect = detectable_effect(1, degrees_of_freedom)
    samples = generator.normal(effect, math.sqrt(6), size=(20000, 6))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(
        0.8, abs=0.02
    )


@pytest.mark.parametrize("value", [0.002, -0.002])
def test_the_p_value_of_equivalence_is_that_of_the_nearer_bound(value):
    t = (min(math.log(1.01) - value, value - math.log(0.99))) / 0.004
    tail = 0.5 - t / (2 * math.sqrt(2 + t**2))  # Student's t with two degrees of freedom
    assert equivalence(student_estimate(value, 0.004, 2)).p_value == pytest.approx(tail)


def test_equivalent_are_models_whose_90_percent_interval_is_within_the_margin():
    verdicts = set()
    for value in np.linspace(-0.012, 0.012, 9):
        for standard_error in (0.001, 0.003, 0.006):
            estimate = student_estimate(value, standard_error, 20, alpha=0.1)
            is_within = estimate.low > math.log(0.99) and estimate.high < math.log(1.01)
            verdict = equivalence(estimate).verdict
            assert verdict == ("equivalent" if is_within else "equivalence not shown")
            verdicts.add(verdict)
    assert len(verdicts) == 2


def test_a_difference_that_is_not_significant_is_not_equivalence():
    estimate = student_estimate(0.001, 0.05, 30)
    assert estimate.p_value > 0.9
    assert equivalence(estimate).verdict == "equivalence not shown"
    assert equivalence(estimate, margin=0.2).verdict == "equivalent"
    assert equivalence(estimate, margin=0.2, alpha=0.0001).verdict == "equivalence not shown"


def test_models_at_the_margin_are_rarely_called_equivalent():
    values = np.random.default_rng(8).normal(math.log(1.01), 0.002, size=1000)
    verdicts = [equivalence(student_estimate(value, 0.002, 10**6)).verdict for value in values]
    assert verdicts.count("equivalent") / 1000 == pytest.approx(0.05, abs=0.015)


def test_an_estimate_without_error_is_within_the_margin_or_not():
    assert equivalence(Estimate(0.005, 0, 3, 0.005, 0.005, 0)).p_value == 0
    assert equivalence(Estimate(0.02, 0, 3, 0.02, 0.02, 0)).p_value == 1


@pytest.mark.parametrize("margin", [0, 1, -0.01])
def test_the_margin_is_a_share(margin):
    with pytest.raises(ValueError, match="margin must be between 0 and 1"):
        equivalence(student_estimate(0, 1, 5), margin=margin)
