"""Is a difference real? Paired bootstrap over users, and Student's interval over seeds."""

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
    """Difference over the mean of the second model; 0 where that mean is 0."""
    p_value: float
    verdict: Verdict


def paired_bootstrap(
    ours: np.ndarray, theirs: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> Comparison:
    """Compare two models user by user and say in a word whether the first is better.

    The difference takes few distinct values, so a resample of users is one multinomial draw of
    how often each value occurs: exact, and as quick for a million users as for a thousand.

    Args:
        ours: float[B] a metric of each user under the first model.
        theirs: float[B] the same under the second.
        samples: resamples of users.
        seed: of the resampling.
    """
    values, counts = np.unique(ours - theirs, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(ours), counts / len(ours), size=samples)
    means = drawn @ values / len(ours)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (int(tail) + 1) / (samples + 1))
    difference, base = float(np.mean(ours) - np.mean(theirs)), float(np.mean(theirs))
    relative = difference / base if base else 0.0
    ends = float(low), float(high)
    return Comparison(difference, *ends, relative, p_value, verdict(*ends))


def verdict(low: float, high: float) -> Verdict:
    """Say in a word what an interval of a difference tells."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference"


def seeds_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean difference from one figure a seed (Student's t).

    Args:
        differences: one for each seed, at least two; training anew would draw others.
    """
    values = np.asarray(differences)
    error = values.std(ddof=1) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1) * error)
    mean = float(values.mean())
    return mean - reach, mean + reach
