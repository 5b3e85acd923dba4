"""Estimators of the value of a policy from a log whose rows each show one item.

An estimator is a sum of ratios of sums over rows, so that a bootstrap resample of units is a
product of counts and sums of units (`recoach.ope.intervals`). The formulas are those of the Open
Bandit Pipeline (Saito et al. 2021), which the tests compare.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recoach.errors import ConfigError, suggestion

Floats = npt.NDArray[np.float64]


class Ratio(NamedTuple):
    """A numerator and a denominator, both float64[n]; the value is the ratio of their sums."""

    numerators: Floats
    denominators: Floats


Terms = list[Ratio]
"""An estimate is the sum of these ratios."""


class Impressions(NamedTuple):
    """What the estimators read of n rows, each of which shows one item."""

    rewards: Floats
    """float64[n]."""
    weights: Floats
    """float64[n], probability of the logged item under the policy over its propensity."""
    logged_values: Floats
    """float64[n], the reward model's value of the logged item."""
    policy_values: Floats
    """float64[n], the reward model's value averaged over the policy."""
    embedding_weights: Floats | None = None
    """float64[n], ratio of the probabilities of the logged item's category; None without
    categories."""


Estimator = Callable[[Impressions, float], Terms]
"""(rows, parameter) -> terms; estimators without a parameter ignore it."""


def value_of(terms: Terms) -> float:
    """Return the estimate: the sum of the ratios. A ratio with denominator 0 is nan."""
    total = 0.0
    for numerators, denominators in terms:
        denominator = float(denominators.sum())
        total += float(numerators.sum()) / denominator if denominator else float("nan")
    return total


def mean_of(values: Floats) -> Ratio:
    """Return the ratio whose value is the mean of float64[n]."""
    return Ratio(values, np.ones(len(values)))


def logged_mean(rows: Impressions, _: float = 0.0) -> Terms:
    """Mean of the rewards: the value of the policy that wrote the log."""
    return [mean_of(rows.rewards)]


def ips(rows: Impressions, _: float = 0.0) -> Terms:
    """Inverse propensity scoring: the mean of w r. Unbiased if the log supports the policy."""
    return [mean_of(rows.weights * rows.rewards)]


def clipped_ips(rows: Impressions, clip: float) -> Terms:
    """Mean of min(w, clip) r: biased downwards for rewards of at least 0."""
    return [mean_of(np.minimum(rows.weights, clip) * rows.rewards)]


def snips(rows: Impressions, _: float = 0.0) -> Terms:
    """Self-normalised IPS (Swaminathan & Joachims 2015): sum of w r over the sum of w."""
    return [Ratio(rows.weights * rows.rewards, rows.weights)]


def direct(rows: Impressions, _: float = 0.0) -> Terms:
    """Direct method: the mean of the reward model's value under the policy."""
    return [mean_of(rows.policy_values)]


def doubly_robust(rows: Impressions, _: float = 0.0) -> Terms:
    """Doubly robust (Dudík et al. 2014): direct method plus w (r - q); it can be negative."""
    return _corrected(rows, rows.weights)


def self_normalized_dr(rows: Impressions, _: float = 0.0) -> Terms:
    """Doubly robust with the correction divided by the sum of the weights."""
    residuals = rows.rewards - rows.logged_values
    return [mean_of(rows.policy_values), Ratio(rows.weights * residuals, rows.weights)]


def switch_dr(rows: Impressions, threshold: float) -> Terms:
    """Doubly robust without the correction where w exceeds a threshold (Wang et al. 2017)."""
    return _corrected(rows, np.where(rows.weights <= threshold, rows.weights, 0.0))


def dr_shrinkage(rows: Impressions, shrinkage: float) -> Terms:
    """Doubly robust with w replaced by λ w / (w² + λ) (Su et al. 2020, optimistic shrinkage)."""
    return _corrected(rows, shrinkage * rows.weights / (rows.weights**2 + shrinkage))


def mips(rows: Impressions, _: float = 0.0) -> Terms:
    """Marginalised IPS (Saito & Joachims 2022): the mean of w(category) r.

    Unbiased if an item has no effect on the reward beyond its category.

    Raises:
        ConfigError: the items have no categories.
    """
    if rows.embedding_weights is None:
        raise ConfigError("mips needs `categories`, one for each item. Pass them or leave it out.")
    return [mean_of(rows.embedding_weights * rows.rewards)]


def _corrected(rows: Impressions, weights: Floats) -> Terms:
    return [mean_of(rows.policy_values + weights * (rows.rewards - rows.logged_values))]


ESTIMATORS: Final[Mapping[str, Estimator]] = {
    "ips": ips,
    "clipped_ips": clipped_ips,
    "snips": snips,
    "dm": direct,
    "dr": doubly_robust,
    "sndr": self_normalized_dr,
    "switch_dr": switch_dr,
    "dros": dr_shrinkage,
    "mips": mips,
}
"""Estimator by name."""

PARAMETERS: Final[Mapping[str, float]] = {"clipped_ips": 10.0, "switch_dr": 10.0, "dros": 100.0}
"""Default parameter of the estimators that have one."""


def parse_estimator(text: str, names: Mapping[str, object]) -> tuple[str, float]:
    """Return name and parameter of an estimator: "dr", "clipped_ips" or "clipped_ips(5)".

    Args:
        text: the name, with a parameter in parentheses if it has one.
        names: the estimators to choose from.

    Raises:
        ConfigError: there is no such estimator, it has no parameter, or the parameter is not a
            number of at least 0, for `clipped_ips` above 0.
    """
    name, _, rest = text.partition("(")
    if name not in names:
        raise ConfigError(f"There is no estimator {name!r} here. {suggestion(name, names)}")
    if not rest:
        return name, PARAMETERS.get(name, 0.0)
    try:
        parameter = float(rest.removesuffix(")"))
    except ValueError:
        parameter = -1.0
    if name == "clipped_ips" and parameter == 0:
        raise ConfigError(
            f"{text!r} clips every weight to 0, so that its value is always 0. Write a number "
            "above 0 in the parentheses."
        )
    if name not in PARAMETERS or not parameter >= 0:
        raise ConfigError(
            f"{text!r} is no estimator. Write a number of at least 0 in the parentheses, and only "
            f"for {', '.join(PARAMETERS)}."
        )
    return name, parameter
