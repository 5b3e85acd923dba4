"""An estimate with its standard error: interval, p-value, detectable effect, equivalence test."""

import math
from typing import Literal, NamedTuple

from scipy import stats


class Estimate(NamedTuple):
    """An estimated effect with its Student's t interval."""

    value: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float
    p_value: float
    """Two-sided, of the hypothesis that the effect is 0."""


class Equivalence(NamedTuple):
    """The result of two one-sided tests (TOST)."""

    p_value: float
    """The larger one of the two one-sided p-values."""
    verdict: Literal["equivalent", "equivalence not shown"]


def student_estimate(
    value: float, standard_error: float, degrees_of_freedom: float, *, alpha: float = 0.05
) -> Estimate:
    """Return an effect with the interval and the p-value of Student's t distribution.

    Args:
        value: the estimated effect.
        standard_error: of the effect. At 0 the interval is the value itself, and the p-value is 0,
            or 1 for a value of 0.
        degrees_of_freedom: of the standard error.
        alpha: two-sided level; 0.05 gives the 95 % interval.
    """
    if standard_error == 0:
        p_value = 1.0 if value == 0 else 0.0
        return Estimate(value, 0.0, degrees_of_freedom, value, value, p_value)
    half_width = float(stats.t.ppf(1 - alpha / 2, degrees_of_freedom)) * standard_error
    p_value = 2 * float(stats.t.sf(abs(value) / standard_error, degrees_of_freedom))
    interval = value - half_width, value + half_width
    return Estimate(value, standard_error, degrees_of_freedom, *interval, p_value)


def detectable_effect(
    standard_error: float, degrees_of_freedom: float, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest true effect that a t test with this standard error is likely to find.

    (t(1 - alpha/2) + t(power)) · standard error (Bloom 1995).

    Args:
        standard_error: of the effect. With that of a logarithm of a ratio, such as
            `crossed_log_ratio` gives, the detectable effect is relative to the level:
            `math.expm1` of the result.
        degrees_of_freedom: of the standard error.
        power: probability to find the effect.
        alpha: two-sided significance level.

    Raises:
        ValueError: the standard error is negative, or power or alpha is not within 0..1.
    """
    if standard_error < 0 or not (0 < power < 1 and 0 < alpha < 1):
        raise ValueError("standard_error must be at least 0, power and alpha between 0 and 1.")
    quantiles = stats.t.ppf([1 - alpha / 2, power], degrees_of_freedom)
    return float(quantiles.sum() * standard_error)


def equivalence(log_ratio: Estimate, *, margin: float = 0.01, alpha: float = 0.05) -> Equivalence:
    """Test whether a ratio of two means lies within 1 ± margin, by two one-sided t tests.

    The verdict is "equivalent" where the interval of level 1 - 2 · alpha lies within the margin: a
    difference that is not significant does not show that two models are equivalent.

    Args:
        log_ratio: of the means of two models, from `crossed_log_ratio` or `pooled_effect`.
        margin: the largest relative difference that counts as equivalent, fixed before the
            comparison; 0.01 stands for ± 1 %.
        alpha: level of each of the two tests.

    Raises:
        ValueError: the margin is not within 0..1.

    Source: Schuirmann 1987.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin must be between 0 and 1, not {margin}.")
    value, standard_error, degrees_of_freedom = log_ratio[:3]
    distances = value - math.log1p(-margin), math.log1p(margin) - value
    if standard_error == 0:
        p_value = 0.0 if min(distances) > 0 else 1.0
    else:
        p_value = float(stats.t.sf(min(distances) / standard_error, degrees_of_freedom))
    is_equivalent = p_value < alpha
    return Equivalence(p_value, "equivalent" if is_equivalent else "equivalence not shown")
