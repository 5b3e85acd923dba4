"""Confidence intervals of estimates: bootstrap over the units of a log, and lower bounds."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recoach.ope.estimators import Floats, Terms

Longs = npt.NDArray[np.int64]

_MAX_COUNTS = 2**23
"""Counts of resamples in memory at most."""


def resampled_values(
    estimates: Sequence[Terms], units: Longs, *, samples: int, seed: int
) -> Floats:
    """Return float64[samples, E], the values of E estimates on bootstrap resamples of units.

    A resample draws as many units as there are, with replacement, each with all its rows: rows of
    one user, or of one request, are not independent. The same seed and units give the same
    resamples, so that differences of two policies on one log are paired.

    Args:
        estimates: the terms of each estimate, over the same n rows.
        units: int64[n] unit of each row, from 0 without gaps.
        samples: number of resamples.
        seed: of the resampling.
    """
    ratios = [ratio for terms in estimates for ratio in terms]
    n_units = int(units.max()) + 1
    sums = np.stack(
        [np.bincount(units, part, n_units) for ratio in ratios for part in ratio], axis=1
    )
    generator = np.random.default_rng(seed)
    totals = np.empty((samples, sums.shape[1]))
    step = max(1, _MAX_COUNTS // n_units)
    for start in range(0, samples, step):
        rows = range(start, min(start + step, samples))
        draws = (generator.integers(n_units, size=n_units) for _ in rows)
        counts = np.stack([np.bincount(draw, minlength=n_units) for draw in draws])
        totals[rows.start : rows.stop] = counts @ sums
    numerators, denominators = totals[:, ::2], totals[:, 1::2]
    values = np.divide(
        numerators, denominators, out=np.full_like(numerators, np.nan), where=denominators != 0
    )
    ends = np.cumsum([len(terms) for terms in estimates])[:-1]
    return np.stack([part.sum(axis=1) for part in np.split(values, ends, axis=1)], axis=1)


def percentile_interval(values: Floats, level: float) -> tuple[float, float]:
    """Return the ends of the percentile interval of resampled values, without those that are nan.

    Args:
        values: float64[samples].
        level: such as 0.95.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bernstein_lower_bound(values: Floats, units: Longs, *, largest: float, level: float) -> float:
    """Return an empirical-Bernstein lower bound of a mean (Maurer & Pontil 2009, theorem 4).

    It holds for any distribution within [0, `largest`], also where a bootstrap interval is too
    narrow, and is one-sided: the mean is above it with probability `level`. The mean of
    a clipped estimator is at most the value of the policy, so the bound is one for that value too.

    Args:
        values: float64[n], each in [0, `largest`].
        units: int64[n] unit of each row, from 0 without gaps; units are independent.
        largest: of a value, as it follows from the clipping, not from the sample.
        level: such as 0.95.

    Returns:
        The bound, at least 0; nan for a single unit or for a value below 0.
    """
    sizes, totals = np.bincount(units), np.bincount(units, values)
    n_units = len(sizes)
    if n_units < 2 or values.min() < 0:
        return math.nan
    limit = largest * float(sizes.max())
    log_term = math.log(2 / (1 - level))
    width = math.sqrt(2 * totals.var(ddof=1) * log_term / n_units)
    mean = float(totals.mean()) - width - 7 * limit * log_term / (3 * (n_units - 1))
    return max(0.0, mean * n_units / len(values))
