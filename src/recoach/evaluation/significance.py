"""Significance of differences: paired bootstrap over users, Student's t interval over seeds."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Verdict = Literal["better", "worse", "no difference"]


class Comparison(NamedTuple):
    """The mean difference of two models over the same users."""

    difference: float
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    """Upper end of the 95 % interval of the difference."""
    relative: float
    """Difference divided by the mean of the second model; 0 if that mean is 0."""
    p_value: float
    verdict: Verdict


def paired_bootstrap(
    ours: np.ndarray, theirs: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> Comparison:
    """Compare two models on the same users by a paired bootstrap of the mean difference.

    Per-user differences have few distinct values. A resample of users is therefore one multinomial
    draw of the number of times each value occurs: exact, and as fast for a million users as for a
    thousand.

    Args:
        ours: float[B] a metric of each user under the first model.
        theirs: float[B] the metric of the same users under the second model.
        samples: number of resamples.
        seed: of the resampling.

    Returns:
        The percentile interval (95 %), the two-sided p-value and a verdict on the first model.
    """
    values, counts = np.unique(ours - theirs, return_counts=True)
    generator = np.random.default_rng(seed)
    resampled_counts = generator.multinomial(len(ours), counts / len(ours), size=samples)
    means = resampled_counts @ values / len(ours)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (int(tail) + 1) / (samples + 1))
    difference, base = float(np.mean(ours) - np.mean(theirs)), float(np.mean(theirs))
    relative = difference / base if base else 0.0
    interval = float(low), float(high)
    return Comparison(difference, *interval, relative, p_value, verdict(*interval))


def verdict(low: float, high: float) -> Verdict:
    """Return "better" or "worse" if the interval of a difference excludes 0."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference"


def seeds_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference over seeds (Student's t).

    Args:
        differences: one mean difference per seed, at least two.
    """
    values = np.asarray(differences)
    standard_error = values.std(ddof=1) / len(values) ** 0.5
    half_width = float(stats.t.ppf(0.975, len(values) - 1) * standard_error)
    mean = float(values.mean())
    return mean - half_width, mean + half_width
