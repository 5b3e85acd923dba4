"""The effect of a method over several logs: random-effects meta-analysis."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from recoach.evaluation.estimates import Estimate, student_estimate


class PooledEffect(NamedTuple):
    """The mean effect over logs, and the effect to be expected on a new log."""

    mean: Estimate
    tau_squared: float
    """Variance of the true effects between logs."""
    prediction: tuple[float, float]
    """Interval of the true effect on a new log; (nan, nan) with two logs."""
    n_positive: int
    """Number of logs with an effect above 0."""
    n_logs: int


def pooled_effect(
    effects: Sequence[float], standard_errors: Sequence[float], *, alpha: float = 0.05
) -> PooledEffect:
    """Return the mean of the effects on several logs, which are drawn from a population of logs.

    The variance between logs is that of Paule and Mandel (1982). The interval of the mean is that
    of Hartung and Knapp (2001): Student's t with L - 1 degrees of freedom. Its scale factor, which
    may shorten the interval where logs agree by chance, is at least 1 (Röver, Knapp & Friede 2015);
    with Paule and Mandel's variance it then is 1. The prediction interval has L - 2 degrees of
    freedom (Higgins, Thompson & Spiegelhalter 2009). In simulations it covers a new log in 88 to
    100 % of the samples instead of 95 %, least often where the variance between logs is about that
    within them; with four logs in 94 % or more.

    Args:
        effects: float[L], the effect on each log, such as the logarithm of a ratio of means.
        standard_errors: float[L], their standard errors, which count as known.
        alpha: two-sided level; 0.05 gives 95 % intervals.

    Raises:
        ValueError: fewer than two logs, lists of different lengths, or a standard error that is
            not positive and finite.
    """
    values, variances = np.asarray(effects, float), np.square(np.asarray(standard_errors, float))
    if values.ndim != 1 or values.shape != variances.shape or len(values) < 2:
        raise ValueError("expected one effect and one standard error for each of two or more logs.")
    if not (np.isfinite(values).all() and np.isfinite(variances).all() and variances.min() > 0):
        raise ValueError("effects must be finite, standard errors positive and finite.")
    n_logs = len(values)
    tau_squared = _variance_between_logs(values, variances)
    weights = 1 / (variances + tau_squared)
    standard_error = 1 / math.sqrt(weights.sum())
    mean = float(weights @ values / weights.sum())
    prediction = math.nan, math.nan
    if n_logs > 2:
        deviation = math.sqrt(tau_squared + standard_error**2)
        half_width = float(stats.t.ppf(1 - alpha / 2, n_logs - 2)) * deviation
        prediction = mean - half_width, mean + half_width
    estimate = student_estimate(mean, standard_error, n_logs - 1, alpha=alpha)
    return PooledEffect(estimate, tau_squared, prediction, int((values > 0).sum()), n_logs)


def _variance_between_logs(values: np.ndarray, variances: np.ndarray) -> float:
    """Return the variance for which Cochran's Q equals its expectation L - 1, at least 0."""

    def excess(tau_squared: float) -> float:
        weights = 1 / (variances + tau_squared)
        mean = weights @ values / weights.sum()
        return float(weights @ np.square(values - mean)) - (len(values) - 1)

    if excess(0.0) <= 0:
        return 0.0
    # Q falls in tau_squared; at the sum of squared deviations it is below 1.
    upper = float(np.square(values - values.mean()).sum())
    return float(optimize.brentq(excess, 0.0, upper, xtol=1e-15 + 1e-12 * upper))
