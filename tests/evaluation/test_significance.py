import math

import numpy as np
import pytest
from scipy import stats

from recoach.errors import DataError
from recoach.evaluation import significance as module
from recoach.evaluation.significance import (
    detectable_difference,
    holm_levels,
    holm_p_values,
    mean_interval,
    minimal_detectable_effect,
    paired_bootstrap,
    seeds_interval,
)

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


@pytest.mark.parametrize("seed", [0, 3])
def test_one_state_per_cluster_gives_exactly_the_interval_without_clusters(seed):
    users = np.random.default_rng(1).permutation(600) * 5
    for ours, theirs in ((OURS, THEIRS), (OURS.round(1), THEIRS.round(1))):
        result = paired_bootstrap(ours, theirs, seed=seed, clusters=users)
        assert result == paired_bootstrap(ours, theirs, seed=seed)


def test_the_draws_are_those_of_one_multinomial_of_the_distinct_differences():
    ours, theirs = np.array([1.0, 0, 0, 1, 1]), np.array([0.0, 0, 0, 0, 1])
    draws = np.random.default_rng(4).multinomial(5, [3 / 5, 2 / 5], size=2000)
    low, high = np.quantile(draws[:, 1] / 5, [0.025, 0.975])
    result = paired_bootstrap(ours, theirs, seed=4)
    assert (result.low, result.high) == (low, high)
    assert result.difference == pytest.approx(2 / 5)


def test_resamples_in_several_parts_are_those_in_one(monkeypatch):
    expected = paired_bootstrap(OURS, THEIRS)
    monkeypatch.setattr(module, "_MAX_COUNTS", 7 * 600)
    assert paired_bootstrap(OURS, THEIRS) == pytest.approx((*expected[:5], expected.verdict))


def test_an_interval_over_clusters_does_not_shrink_when_every_state_is_repeated():
    # Ten equal states per user hold no more information than one.
    once = paired_bootstrap(OURS, THEIRS, seed=2)
    users = np.repeat(np.arange(600), 10)
    repeated = np.repeat(OURS, 10), np.repeat(THEIRS, 10)
    clustered = paired_bootstrap(*repeated, seed=2, clusters=users)
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    states = paired_bootstrap(*repeated, seed=2)
    assert (states.high - states.low) / (once.high - once.low) == pytest.approx(10**-0.5, rel=0.1)


def test_clusters_of_different_sizes_count_by_their_states():
    # One user with 30 states at +1, 200 users with one state at 0: the mean is 30/230, and its
    # deviation that of the ratio of two sums over users.
    ours = np.concatenate([np.ones(30), np.zeros(200)])
    users = np.concatenate([np.zeros(30, dtype=int), np.arange(1, 201)])
    result = paired_bootstrap(ours, np.zeros(230), clusters=users, samples=4000)
    times = stats.binom(201, 1 / 201)
    high = times.ppf(0.975)
    assert result.difference == pytest.approx(30 / 230)
    assert result.low == 0
    assert result.high == pytest.approx(30 * high / (30 * high + 201 - high))
    assert result.verdict == "no difference"


@pytest.mark.parametrize(
    ("clusters", "exact"),
    # statsmodels 0.15.0: TTestPower().solve_power(nobs=clusters, alpha=0.05, power=0.8)
    [(10, 0.9960019107624178), (30, 0.5292357045238948), (6101, 0.03587451044021132)],
)
def test_the_detectable_effect_is_that_of_a_paired_t_test(clusters, exact):
    assert minimal_detectable_effect(1, clusters) == pytest.approx(exact, rel=0.002)


def test_the_power_at_the_detectable_effect_is_the_one_asked_for():
    for clusters, power, alpha in ((20, 0.8, 0.05), (500, 0.9, 0.01)):
        effect = minimal_detectable_effect(0.067, clusters, power=power, alpha=alpha)
        shift = effect / 0.067 * clusters**0.5
        critical = stats.t.ppf(1 - alpha / 2, clusters - 1)
        assert stats.nct.sf(critical, clusters - 1, shift) == pytest.approx(power, abs=0.003)


def test_the_detectable_effect_of_many_users_is_2_8_standard_errors():
    expected = 2.8016 * 0.067 / 22332**0.5
    assert minimal_detectable_effect(0.067, 22332) == pytest.approx(expected, rel=1e-4)
    assert minimal_detectable_effect(0, 50) == 0


def test_one_cluster_detects_nothing_and_a_negative_deviation_is_refused():
    assert minimal_detectable_effect(1, 1) == minimal_detectable_effect(1, 0) == float("inf")
    for wrong in ({"standard_deviation": -1}, {"power": 1.0}, {"alpha": 0.0}):
        with pytest.raises(ValueError, match="at least 0"):
            minimal_detectable_effect(**{"standard_deviation": 1, "clusters": 9} | wrong)


def test_the_relative_difference_to_a_mean_of_zero_is_undefined():
    result = paired_bootstrap(np.ones(5), np.zeros(5))
    assert result.difference == 1
    assert math.isnan(result.relative)
    record = result.to_record(8)
    assert record["relative"] is None
    assert (record["difference"], record["verdict"]) == (1, "better")
    assert paired_bootstrap([0.5, 0.25, 0.5], [1, 1, 1]).to_record(3)["relative"] == -0.583


def test_lists_are_compared_as_arrays_are():
    assert paired_bootstrap([1, 0, 1, 1], [0, 0, 1, 0], clusters=[0, 0, 1, 1]) == paired_bootstrap(
        np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0]), clusters=np.array([0, 0, 1, 1])
    )
    assert paired_bootstrap([True, True], [False, True]).difference == 0.5


@pytest.mark.parametrize("compare", [paired_bootstrap, detectable_difference])
@pytest.mark.parametrize(
    ("ours", "theirs", "clusters", "message"),
    [
        ([0.5, math.nan, 1], [0, 0, 0], None, "first model have 1 that .* at index 1: nan"),
        ([0, 0, 0], [0, math.inf, -math.inf], None, "second model have 2 .* at index 1: inf"),
        ([], [], None, "no values to compare"),
        ([1, 2, 3], [1, 2], None, "first model has 3 values, the second 2. Pass"),
        ([1, 2], [1, 2], [0], "first model has 2 values, the second 2, and 1 clusters"),
        (["a", "b"], [1, 2], None, "first model are not numbers"),
        ([1, 2], [[1, 2], [3, 4]], None, r"second model have shape \(2, 2\)"),
        (1.0, [1], None, r"first model have shape \(\)"),
    ],
)
def test_values_that_cannot_be_compared_are_a_data_error(compare, ours, theirs, clusters, message):
    with pytest.raises(DataError, match=message):
        compare(ours, theirs, clusters=clusters)


def test_the_interval_over_seeds_is_student_t():
    low, high = seeds_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.302653 / 3**0.5)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [  # multipletests(p_values, method="holm")[1] of statsmodels 0.14
        ([0.01, 0.04, 0.03, 0.005, 0.2], [0.04, 0.09, 0.09, 0.025, 0.2]),
        ([0.02, 0.02, 0.6, 0.7], [0.08, 0.08, 1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_agrees_with_statsmodels(p_values, adjusted):
    assert holm_p_values(p_values) == pytest.approx(adjusted)


def test_the_levels_of_holm_reject_what_its_p_values_reject():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2]
    levels = holm_levels(p_values)
    assert levels == pytest.approx([0.0125, 0.05 / 3, 0.05 / 3, 0.01, 0.05 / 3])
    rejected = [p <= level for p, level in zip(p_values, levels, strict=True)]
    assert rejected == [p <= 0.05 for p in holm_p_values(p_values)]
    assert holm_levels([0.01, 0.02]) == [0.025, 0.05]


def test_a_higher_level_gives_a_wider_interval():
    wide, narrow = (paired_bootstrap(OURS, THEIRS, alpha=alpha) for alpha in (0.001, 0.05))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.p_value == narrow.p_value


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    hits = (THEIRS > 0.7).astype(float)
    half_width = 1.96 * hits.std() / len(hits) ** 0.5
    expected = (hits.mean() - half_width, hits.mean() + half_width)
    assert mean_interval(hits) == pytest.approx(expected, rel=0.03)
    assert mean_interval(np.append(hits, np.nan)) == mean_interval(hits)
    assert all(np.isnan(mean_interval(np.array([np.nan]))))


@pytest.mark.parametrize("n_clusters", [900, 1800])  # resampled, and from the standard error
def test_the_interval_of_a_mean_counts_users_not_states(n_clusters):
    values = np.repeat(np.random.default_rng(0).random(n_clusters), 3)
    low, high = mean_interval(values, clusters=np.repeat(np.arange(n_clusters), 3))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / n_clusters**0.5, rel=0.04)


def test_the_detectable_difference_is_that_of_the_differences_of_clusters():
    generator = np.random.default_rng(0)
    ours, theirs = generator.random(60), generator.random(60)
    alone = minimal_detectable_effect((ours - theirs).std(ddof=1), 60)
    assert detectable_difference(ours, theirs) == pytest.approx(alone)
    # States of one user that are equal count as one.
    users = np.repeat(np.arange(60), 3)
    repeated = detectable_difference(ours.repeat(3), theirs.repeat(3), users)
    assert repeated == pytest.approx(alone)
    assert detectable_difference(ours, theirs, np.zeros(60, dtype=np.int64)) == np.inf
