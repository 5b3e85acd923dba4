"""What the weights of a log allow: diagnostics, and the rules by which a value is refused."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recoach.ope.estimators import Floats

Longs = npt.NDArray[np.int64]

MIN_ESS: Final = 100
MIN_ESS_SHARE: Final = 0.01
WARN_ESS_SHARE: Final = 0.05
MAX_TOP_SHARE: Final = 0.05
MEAN_WEIGHT: Final = (0.67, 1.5)
MAX_SUPPORT_GAP: Final = 0.01
MIN_POSITIVES: Final = 30
_LARGE_WEIGHT: Final = 10.0
_ROUNDING: Final = 1e-6
"""Of a mean weight whose standard error is 0: scores and propensities may be in float32."""


class Diagnostics(NamedTuple):
    """The weights of n decisions: rows, or lists, whose weight is the product over positions."""

    n: int
    n_units: int
    positives: int
    """Decisions with a reward above 0."""
    weighted_positives: int
    """Those of them with a weight above 0."""
    mean_weight: float
    """Its expectation is 1 minus the support gap."""
    mean_weight_se: float
    """Standard error of the mean weight, by unit."""
    ess: float
    """Effective sample size, (Σ w)² / Σ w²."""
    max_weight: float
    top_share: float
    """Largest weight divided by the sum of the weights."""
    large_weights: float
    """Share of weights above 10."""
    support_gap: float | None
    """Probability that the policy shows what the logging policy never shows; None if the logging
    policy is known only at the logged items."""


def diagnose(
    weights: Floats, rewards: Floats, units: Longs, support_gap: float | None
) -> Diagnostics:
    """Return the diagnostics of n decisions.

    Args:
        weights: float64[n].
        rewards: float64[n].
        units: int64[n] unit of each decision, from 0 without gaps.
        support_gap: see `Diagnostics.support_gap`.
    """
    total, squares = float(weights.sum()), float((weights**2).sum())
    residuals = np.bincount(units, weights - weights.mean())
    n_units = len(residuals)
    correction = n_units / (n_units - 1) if n_units > 1 else math.nan
    return Diagnostics(
        n=len(weights),
        n_units=n_units,
        positives=int((rewards > 0).sum()),
        weighted_positives=int(((rewards > 0) & (weights > 0)).sum()),
        mean_weight=float(weights.mean()),
        mean_weight_se=math.sqrt(correction * float(residuals @ residuals)) / len(weights),
        ess=total**2 / squares if squares else 0.0,
        max_weight=float(weights.max()),
        top_share=float(weights.max()) / total if total else 1.0,
        large_weights=float((weights > _LARGE_WEIGHT).mean()),
        support_gap=support_gap,
    )


NO_PROPENSITIES: Final = (
    "The log has no propensities: the probability with which each item was shown is unknown, so "
    "that shown and not clicked cannot be told from not shown. Log them (recoach serve --explore)."
)


def refusals(found: Diagnostics, intervals: Mapping[str, tuple[float, float] | None]) -> list[str]:
    """Return a sentence for each rule that forbids a value.

    Args:
        found: the diagnostics.
        intervals: those of estimators that must agree, by name; None where there is none.
    """
    checks = (
        _mean_weight(found),
        _sample_size(found),
        _top_weight(found),
        _support(found),
        _positives(found),
        _agreement(intervals),
    )
    return [sentence for sentence in checks if sentence]


def cautions(found: Diagnostics) -> list[str]:
    """Return a sentence for each thing that a reader of a value must know."""
    sentences = []
    if MIN_ESS_SHARE * found.n <= found.ess < WARN_ESS_SHARE * found.n:
        sentences.append(
            f"The effective sample size, {found.ess:,.0f}, is only {found.ess / found.n:.1%} of "
            f"{found.n:,} decisions: the policy is far from the one that wrote the log."
        )
    if found.support_gap is not None and 0 < found.support_gap <= MAX_SUPPORT_GAP:
        sentences.append(
            f"The policy shows with probability {found.support_gap:.2%} what was never shown: the "
            "value is between the bounds."
        )
    return sentences


def _mean_weight(found: Diagnostics) -> str:
    low, high = MEAN_WEIGHT
    expected = 1 - (found.support_gap or 0.0)
    is_near = low * expected <= found.mean_weight <= high * expected
    if is_near and abs(found.mean_weight - expected) <= 3 * found.mean_weight_se + _ROUNDING:
        return ""
    return (
        f"The mean weight is {found.mean_weight:.3g} ± {found.mean_weight_se:.2g} instead of "
        f"{expected:.3g}. "
        "The propensities, the states or the policy are not those of the log, the log never shows "
        "what the policy shows, or a few weights dominate."
    )


def _sample_size(found: Diagnostics) -> str:
    needed = max(MIN_ESS, MIN_ESS_SHARE * found.n)
    if found.ess >= needed:
        return ""
    return (
        f"The effective sample size is {found.ess:,.1f} of {found.n:,} decisions; at least "
        f"{needed:,.0f} are needed. Log more, evaluate fewer positions, or choose a policy closer "
        "to the one that wrote the log."
    )


def _top_weight(found: Diagnostics) -> str:
    if found.top_share <= MAX_TOP_SHARE:
        return ""
    return (
        f"One decision has {found.top_share:.0%} of all weight ({found.max_weight:,.0f}); at most "
        f"{MAX_TOP_SHARE:.0%} is safe. Its reward alone would decide the value."
    )


def _support(found: Diagnostics) -> str:
    if found.support_gap is None or found.support_gap <= MAX_SUPPORT_GAP:
        return ""
    return (
        f"The policy shows with probability {found.support_gap:.1%} what the logging policy never "
        f"shows; at most {MAX_SUPPORT_GAP:.0%} is allowed. Explore more while logging, or restrict "
        "the policy to what is logged."
    )


def _positives(found: Diagnostics) -> str:
    if found.weighted_positives >= MIN_POSITIVES:
        return ""
    return (
        f"Only {found.weighted_positives} decisions with a reward have a weight above 0; at least "
        f"{MIN_POSITIVES} are needed. Log more."
    )


def _agreement(intervals: Mapping[str, tuple[float, float] | None]) -> str:
    defined: Sequence[tuple[str, tuple[float, float]]] = [
        (name, interval) for name, interval in intervals.items() if interval is not None
    ]
    for number, (first, (low, high)) in enumerate(defined):
        for second, (other_low, other_high) in defined[number + 1 :]:
            if high < other_low or other_high < low:
                return (
                    f"The intervals of {first} and {second} do not overlap: {low:.4g} to "
                    f"{high:.4g} and {other_low:.4g} to {other_high:.4g}. Weights or reward model "
                    "are wrong."
                )
    return ""
