"""Significance: bootstrap intervals, Holm's adjustment, detectable effect, t over seeds."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from recoach.errors import DataError
from recoach.evaluation.estimates import detectable_effect

_MAX_COUNTS = 2**25
"""Counts of resamples in memory at most, 256 MiB."""

_MOST_DISTINCT = 1000
"""Distinct values of clusters up to which `mean_interval` resamples."""

Verdict = Literal["better", "worse", "no difference"]


class Comparison(NamedTuple):
    """The mean difference of two models over the same states."""

    difference: float
    low: float
    """Lower end of the interval of the difference, 95 % unless another level was given."""
    high: float
    """Upper end of that interval."""
    relative: float
    """Difference divided by the mean of the second model; nan if that mean is 0."""
    p_value: float
    verdict: Verdict

    def to_record(self, digits: int | None = None) -> dict[str, Any]:
        """Return the values for a JSON record, rounded to `digits`; None in place of nan."""
        record: dict[str, Any] = self._asdict()
        for name, number in record.items():
            if isinstance(number, float):
                rounded = number if digits is None else round(number, digits)
                record[name] = None if math.isnan(number) else rounded
        return record


def paired_bootstrap(
    ours: npt.ArrayLike,
    theirs: npt.ArrayLike,
    *,
    samples: int = 2000,
    seed: int = 0,
    clusters: npt.ArrayLike | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Compare two models on the same states by a paired bootstrap of the mean difference.

    With `clusters`, whole clusters are resampled with all their states: the cluster bootstrap
    (Field & Welsh 2007). The states of one user are not independent; an interval that treats them
    as if they were is too narrow. The mean of a resample is that of its states, so that a cluster
    counts as often as it has states. With one state per cluster the result is that without
    clusters.

    Differences have few distinct values. A resample is therefore one multinomial draw of the number
    of times each value occurs: exact, and as fast for a million users as for a thousand.

    Args:
        ours: float[B] a metric of each state under the first model.
        theirs: float[B] the metric of the same states under the second model.
        samples: number of resamples.
        seed: of the resampling.
        clusters: int64[B] cluster of each state, such as its user. Default: each state is one.
        alpha: two-sided level; 0.05 gives the 95 % interval.

    Returns:
        The percentile interval, the two-sided p-value and a verdict on the first model.

    Raises:
        DataError: there are no states, the lengths differ, or a value is not a finite number.
    """
    ours, theirs, clusters = _paired(ours, theirs, clusters)
    totals, sizes, counts = _distinct_clusters(ours - theirs, clusters)
    means = _resampled_means(totals, sizes, counts, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (int(tail) + 1) / (samples + 1))
    difference, base = float(np.mean(ours) - np.mean(theirs)), float(np.mean(theirs))
    relative = difference / base if base else math.nan
    interval = float(low), float(high)
    return Comparison(difference, *interval, relative, p_value, verdict(*interval))


def mean_interval(
    values: np.ndarray, *, samples: int = 2000, seed: int = 0, clusters: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over states, see `paired_bootstrap`.

    With more than 1,000 distinct values the interval is mean ± 1.96 cluster-robust standard errors:
    there the distribution of the mean is normal, and the bootstrap takes seconds for each metric.

    Args:
        values: float[B] a metric of each state; nan where it is not defined, left out.
        samples: number of resamples.
        seed: of the resampling.
        clusters: int64[B] cluster of each state, such as its user. Default: each state is one.

    Returns:
        Lower and upper end; nan without a defined value.
    """
    is_defined = ~np.isnan(values)
    if not is_defined.any():
        return math.nan, math.nan
    values, clusters = values[is_defined], None if clusters is None else clusters[is_defined]
    totals, sizes, counts = _distinct_clusters(values, clusters)
    if len(totals) > _MOST_DISTINCT:
        residuals = totals - values.mean() * sizes
        n_clusters = counts.sum()
        variance = n_clusters / (n_clusters - 1) * (counts @ residuals**2)
        half_width = stats.norm.ppf(0.975) * math.sqrt(variance) / len(values)
        return float(values.mean() - half_width), float(values.mean() + half_width)
    means = _resampled_means(totals, sizes, counts, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def holm_p_values(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family of tests, adjusted by Holm's step-down procedure.

    The j-th smallest of m p-values is multiplied by m - j + 1; an adjusted p-value is at least
    that of every smaller one, and at most 1. Tests whose adjusted p-value is at most 0.05 can be
    called significant together: the probability of one false call or more is at most 5 %.

    Source: Holm 1979; `multipletests(method="holm")` of statsmodels.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(_ascending(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> list[float]:
    """Return the level at which Holm's procedure tests each hypothesis, for its interval.

    alpha / (m - j + 1) for the j-th smallest of m p-values, up to the first that is not rejected;
    the later ones keep the level of that one. An interval of level 1 - `level` then excludes 0
    where the adjusted p-value is at most alpha, up to the rounding of the bootstrap.
    """
    levels = [alpha] * len(p_values)
    is_rejecting, level = True, alpha
    for place, index in enumerate(_ascending(p_values)):
        if is_rejecting:
            level = alpha / (len(p_values) - place)
            is_rejecting = p_values[index] <= level
        levels[index] = level
    return levels


def minimal_detectable_effect(
    standard_deviation: float, clusters: int, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest true mean difference that a paired comparison is likely to find.

    (t(1 - alpha/2) + t(power)) · standard deviation / √clusters, with the quantiles of Student's t
    with clusters - 1 degrees of freedom (Bloom 1995); with many clusters 2.80 · sd / √n. From
    10 clusters on it is within 0.2 % of the exact value of the t test (statsmodels' TTestPower).

    Args:
        standard_deviation: of the difference between clusters, in the unit of the metric: with one
            state per user that of the users' differences. Users with several states: that of the
            sum of a user's differences, divided by the mean number of states.
        clusters: number of independent units, such as users.
        power: probability to find the difference.
        alpha: two-sided significance level.

    Returns:
        A difference in the unit of `standard_deviation`; infinite with fewer than two clusters.

    Raises:
        ValueError: the standard deviation is negative, or power or alpha is not within 0..1.
    """
    if clusters < 2:
        return math.inf
    standard_error = standard_deviation / math.sqrt(clusters)
    return detectable_effect(standard_error, clusters - 1, power=power, alpha=alpha)


def detectable_difference(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, clusters: npt.ArrayLike | None = None
) -> float:
    """Return the mean difference that the comparison of two models would find four times in five.

    It is `detectable_effect` with the cluster-robust standard error of the mean difference.

    Args:
        ours: float[B] a metric of each state under the first model.
        theirs: float[B] the metric of the same states under the second model.
        clusters: int64[B] cluster of each state, such as its user. Default: each state is one.

    Returns:
        A difference in the unit of the metric; infinite with fewer than two clusters.

    Raises:
        DataError: as for `paired_bootstrap`.
    """
    ours, theirs, clusters = _paired(ours, theirs, clusters)
    differences = ours - theirs
    totals, sizes, counts = _distinct_clusters(differences, clusters)
    n_clusters = int(counts.sum())
    if n_clusters < 2:
        return math.inf
    residuals = totals - differences.mean() * sizes
    variance = n_clusters / (n_clusters - 1) * float(counts @ residuals**2)
    return detectable_effect(math.sqrt(variance) / len(differences), n_clusters - 1)


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


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=lambda index: p_values[index])


def _paired(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, clusters: npt.ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the values of two models and the clusters as arrays of one length, see the callers."""
    pair = [_metric_values(values, name) for values, name in ((ours, "first"), (theirs, "second"))]
    groups = None if clusters is None else np.asarray(clusters)
    lengths = [len(values) for values in pair] + ([] if groups is None else [groups.size])
    if len(set(lengths)) > 1:
        of_clusters = "" if groups is None else f", and {lengths[2]:,} clusters"
        raise DataError(
            f"The first model has {lengths[0]:,} values, the second {lengths[1]:,}{of_clusters}. "
            "Pass the values of both models on the same states, in the same order."
        )
    if not lengths[0]:
        raise DataError("There are no values to compare. Pass a metric of at least one state.")
    return pair[0], pair[1], groups


def _metric_values(values: npt.ArrayLike, name: str) -> np.ndarray:
    """Return float[B] finite values of a model; DataError for anything else."""
    try:
        array = np.asarray(values)
        array = array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The values of the {name} model are not numbers ({error}). Pass one number a state."
        ) from error
    if array.ndim != 1:
        raise DataError(
            f"The values of the {name} model have shape {array.shape}. Pass one number a state."
        )
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise DataError(
            f"The values of the {name} model have {len(wrong):,} that are not finite, the first at "
            f"index {wrong[0]}: {array[wrong[0]]}. Leave these states out of both models."
        )
    return array


def _distinct_clusters(
    differences: np.ndarray, clusters: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct (sum of differences, states) of clusters, and the number of clusters."""
    if clusters is None:
        totals, counts = np.unique(differences, return_counts=True)
        return totals, np.ones(len(totals)), counts
    _, index, n_states = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.bincount(index, weights=differences)
    (totals, sizes), counts = np.unique(
        np.stack([sums, n_states.astype(np.float64)]), axis=1, return_counts=True
    )
    return totals, sizes, counts


def _resampled_means(
    totals: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray,
    samples: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return float64[samples], the means over the states of resampled clusters."""
    n_clusters, shares = counts.sum(), counts / counts.sum()
    samples_at_once = max(1, _MAX_COUNTS // len(totals))
    means = []
    for start in range(0, samples, samples_at_once):
        n = min(samples_at_once, samples - start)
        resampled = generator.multinomial(n_clusters, shares, size=n)
        means.append((resampled @ totals) / (resampled @ sizes))
    return np.concatenate(means)
