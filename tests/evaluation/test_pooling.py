import math

import numpy as np
import pytest
from scipy import stats

from recoach.evaluation.pooling import pooled_effect

# Trials of the BCG vaccine (Colditz et al. 1994): cases and others, vaccinated and not.
BCG = [
    (4, 119, 11, 128),
    (6, 300, 29, 274),
    (3, 228, 11, 209),
    (62, 13536, 248, 12619),
    (33, 5036, 47, 5761),
    (180, 1361, 372, 1079),
    (8, 2537, 10, 619),
    (505, 87886, 499, 87892),
    (29, 7470, 45, 7232),
    (17, 1699, 65, 1600),
    (186, 50448, 141, 27197),
    (5, 2493, 3, 2338),
    (27, 16886, 29, 17825),
]
RATIOS = [math.log(a / (a + b) * (c + d) / c) for a, b, c, d in BCG]
ERRORS = [math.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)) for a, b, c, d in BCG]


def test_two_logs_have_the_values_computed_by_hand():
    # Q = Σ w · 0.5² = 1 for w = 2: a variance of 0.5 in all, of which 0.1 is within the logs.
    result = pooled_effect([0, 1], [math.sqrt(0.1)] * 2)
    assert result.tau_squared == pytest.approx(0.4)
    quantile = math.tan(math.pi * 0.475)  # t(0.975) with one degree of freedom
    assert result.mean[:3] == pytest.approx((0.5, 0.5, 1))
    assert (result.mean.low, result.mean.high) == pytest.approx(
        (0.5 - quantile / 2, 0.5 + quantile / 2)
    )
    assert result.mean.p_value == pytest.approx(0.5)
    assert all(math.isnan(end) for end in result.prediction)
    assert (result.n_positive, result.n_logs) == (1, 2)


def test_a_little_more_variation_than_within_the_logs_is_variance_between_them():
    result = pooled_effect([0, 1], [math.sqrt(0.4)] * 2)  # Q = 1.25, expected: 1
    assert result.tau_squared == pytest.approx(0.1)


def test_three_logs_have_a_prediction_interval():
    result = pooled_effect([-1, 0, 1], [0.6] * 3)
    assert result.tau_squared == pytest.approx(1 - 0.36)
    assert result.mean.standard_error == pytest.approx(math.sqrt(1 / 3))
    half_width = math.tan(math.pi * 0.475) * math.sqrt(0.64 + 1 / 3)
    assert result.prediction == pytest.approx((-half_width, half_width))


def test_logs_that_agree_have_no_variance_between_them():
    result = pooled_effect([0.05, 0.06, 0.055], [0.02, 0.03, 0.04])
    weights = 1 / np.square([0.02, 0.03, 0.04])
    assert result.tau_squared == 0
    assert result.mean.value == pytest.approx(weights @ [0.05, 0.06, 0.055] / weights.sum())
    assert result.mean.standard_error == pytest.approx(weights.sum() ** -0.5)


def test_the_variance_between_logs_is_the_published_one():
    # Viechtbauer et al. 2015 and R's metafor: tau² of Paule and Mandel 0.3181.
    result = pooled_effect(RATIOS, ERRORS)
    assert result.tau_squared == pytest.approx(0.3181, abs=5e-5)
    weights = 1 / (np.square(ERRORS) + result.tau_squared)
    q = weights @ np.square(np.array(RATIOS) - result.mean.value)
    assert q == pytest.approx(12)  # so that the scale factor of Hartung and Knapp is 1
    half_width = stats.t.ppf(0.975, 12) / math.sqrt(weights.sum())
    assert result.mean.high - result.mean.value == pytest.approx(half_width)
    deviation = math.sqrt(result.tau_squared + result.mean.standard_error**2)
    half_width = stats.t.ppf(0.975, 11) * deviation
    assert result.prediction[1] - result.mean.value == pytest.approx(half_width)
    assert (result.n_positive, result.n_logs) == (2, 13)


def test_the_level_applies_to_both_intervals():
    narrow, wide = pooled_effect(RATIOS, ERRORS), pooled_effect(RATIOS, ERRORS, alpha=0.01)
    assert wide.mean.low < narrow.mean.low
    assert wide.prediction[0] < narrow.prediction[0]


@pytest.mark.parametrize("tau", [0, 0.03])
def test_the_intervals_cover_the_mean_and_a_new_log(tau):
    generator = np.random.default_rng(0)
    covered, predicted = 0, 0
    for _ in range(600):
        errors = generator.uniform(0.01, 0.04, size=6)
        result = pooled_effect(generator.normal(0.05, np.sqrt(tau**2 + errors**2)), errors)
        covered += result.mean.low <= 0.05 <= result.mean.high
        predicted += result.prediction[0] <= generator.normal(0.05, tau) <= result.prediction[1]
    assert covered / 600 >= 0.93
    assert predicted / 600 >= 0.88
    if tau:
        assert covered / 600 <= 0.98
        assert predicted / 600 <= 0.98


@pytest.mark.parametrize(
    ("effects", "errors", "message"),
    [
        ([0.1], [0.1], "two or more logs"),
        ([0.1, 0.2], [0.1], "two or more logs"),
        ([0.1, math.nan], [0.1, 0.1], "positive and finite"),
        ([0.1, 0.2], [0.1, 0], "positive and finite"),
        ([0.1, 0.2], [0.1, math.inf], "positive and finite"),
    ],
)
def test_effects_that_cannot_be_pooled_are_an_error(effects, errors, message):
    with pytest.raises(ValueError, match=message):
        pooled_effect(effects, errors)
