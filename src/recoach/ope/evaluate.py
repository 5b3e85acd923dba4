"""The value of a policy from a log, with intervals, diagnostics and refusals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recoach.errors import ConfigError, OffPolicyError
from recoach.ope import estimators as row_estimators
from recoach.ope import slates
from recoach.ope.diagnostics import (
    MAX_TOP_SHARE,
    NO_PROPENSITIES,
    Diagnostics,
    cautions,
    diagnose,
    refusals,
)
from recoach.ope.estimators import Terms, parse_estimator, value_of
from recoach.ope.intervals import bernstein_lower_bound, percentile_interval, resampled_values
from recoach.ope.log import OffPolicyLog
from recoach.ope.measure import Measured, measure
from recoach.ope.policies import EvaluatedPolicy
from recoach.ope.report import Difference, Estimate, OffPolicyReport
from recoach.ope.reward_models import ItemMeans, RewardModel

Longs = npt.NDArray[np.int64]

POWERS: Final = (0.8, 1.0, 1.2)
FLOORS: Final = (1e-4, 1e-3, 1e-2)
"""Estimated propensities are raised to these powers and limited from below by these floors."""


@dataclass(frozen=True, slots=True)
class OffPolicyConfig:
    """Settings of an off-policy evaluation.

    Raises:
        ConfigError: a value is out of range.
    """

    estimators: Sequence[str] | None = None
    """Names, with a parameter in parentheses such as "clipped_ips(5)"; None for all."""
    categories: Mapping[str, str] | None = None
    """Category of each item ID, for `mips`."""
    level: float = 0.95
    """Of the intervals."""
    samples: int = 2000
    """Number of bootstrap resamples."""
    seed: int = 0
    """Of the resampling."""
    n_folds: int = 3
    """Folds of units for the cross-fitted reward model."""
    max_reward: float | None = None
    """Largest reward that a row can have, for bounds; None for the largest in the log."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level must be between 0 and 1, not {self.level:g}.")
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {self.samples}.")


DEFAULT: Final = OffPolicyConfig()


def evaluate_policy(
    log: OffPolicyLog,
    policy: EvaluatedPolicy,
    *,
    reward_model: RewardModel | None = None,
    logging_policy: EvaluatedPolicy | None = None,
    config: OffPolicyConfig = DEFAULT,
    force: bool = False,
) -> OffPolicyReport:
    """Return the value that a policy would have had, estimated from a log of another policy.

    The value is the mean reward of a row, or of a list if the log has lists of several items.

    Args:
        log: what was shown, with propensities and rewards.
        policy: to be evaluated. Evaluate the stochastic policy that would be served, not its best
            list.
        reward_model: of `dm` and the estimators that combine it with weights, cross-fitted over
            units; None for `ItemMeans`, by position in lists.
        logging_policy: the policy that wrote the log, where it is known in full: it gives the
            support gap and the category probabilities of `mips`. Without it these are taken from
            the frequencies of categories at each position.
        config: see `OffPolicyConfig`.
        force: return the values that are refused, with the reasons in `refusals`.

    Raises:
        OffPolicyError: the log does not allow a value (see `recoach.ope.diagnostics`).
        ConfigError: an estimator is unknown.
        DataError: policy, reward model and log do not fit.
    """
    if log.propensities is None and not force:
        raise OffPolicyError([NO_PROPENSITIES])
    model = reward_model or ItemMeans(by_position=log.lists is not None)
    estimators = _chosen(log, config)
    measured = measure(log, policy, model, logging_policy, config)
    terms = _all_terms(log, measured, estimators)
    units = _units_of_decisions(log)
    found = None if log.propensities is None else _diagnostics(log, measured, units)
    has_intervals = found is None or found.top_share <= MAX_TOP_SHARE
    resampled = resampled_values(
        list(terms.values()), units, samples=config.samples, seed=config.seed
    )
    bands = _bands(log, measured, estimators) if log.estimated else {}
    estimates = {}
    for column, (name, estimate) in enumerate(terms.items()):
        values = resampled[:, column]
        interval = percentile_interval(values, config.level) if has_intervals else None
        bound = _lower_bound(log, measured, estimators.get(name), units, config)
        estimates[name] = Estimate(value_of(estimate), interval, values, bound, bands.get(name))
    return _report(log, estimates, found, config, force=force)


def difference(
    first: OffPolicyReport, second: OffPolicyReport, name: str | None = None
) -> Difference:
    """Return the difference of two policies' values on one log, with a paired interval.

    Args:
        first: a report.
        second: a report of another policy on the same log with the same settings, or the same
            report with `name="logged"` to compare the policy with the one that wrote the log.
        name: the estimate of the second report; None for its main one.

    Raises:
        ConfigError: the reports have different resamples.
    """
    ours, theirs = first.estimates[first.main], second.estimates[name or second.main]
    if len(ours.resampled) != len(theirs.resampled):
        raise ConfigError("The reports differ in `samples`. Evaluate both with the same settings.")
    has_interval = ours.interval is not None and theirs.interval is not None
    values = ours.resampled - theirs.resampled
    interval = percentile_interval(values, first.level) if has_interval else None
    return Difference(ours.value - theirs.value, interval)


class _Chosen(NamedTuple):
    """An estimator of a table and its parameter."""

    name: str
    parameter: float


def _chosen(log: OffPolicyLog, config: OffPolicyConfig) -> dict[str, _Chosen]:
    table: Mapping[str, object] = (
        row_estimators.ESTIMATORS if log.lists is None else slates.ESTIMATORS
    )
    names = config.estimators
    if names is None:
        names = [name for name in table if name != "mips" or config.categories is not None]
    chosen = {text: _Chosen(*parse_estimator(text, table)) for text in names}
    if log.propensities is None:
        return {"dm": _Chosen("dm", 0.0)}
    return chosen


def _all_terms(
    log: OffPolicyLog, measured: Measured, chosen: Mapping[str, _Chosen]
) -> dict[str, Terms]:
    """Return the terms of "logged" and of each estimator, over rows or lists."""
    if log.lists is None:
        rows = measured.impressions(log.rewards)
        terms = {"logged": row_estimators.logged_mean(rows)}
        for text, (name, parameter) in chosen.items():
            terms[text] = row_estimators.ESTIMATORS[name](rows, parameter)
        return terms
    lists = measured.lists(log)
    terms = {"logged": slates.logged_mean(lists)}
    return terms | {text: slates.ESTIMATORS[name](lists) for text, (name, _) in chosen.items()}


def _units_of_decisions(log: OffPolicyLog) -> Longs:
    """Return the unit of each row, or of each list."""
    if log.lists is None:
        return log.units
    return log.units[np.flatnonzero(np.diff(log.lists, prepend=-1))]


def _diagnostics(log: OffPolicyLog, measured: Measured, units: Longs) -> Diagnostics:
    if log.lists is None:
        return diagnose(measured.weights, log.rewards, units, measured.support_gap)
    lists = measured.lists(log)
    weights = lists.weights.prod(axis=1)
    return diagnose(weights, lists.rewards.sum(axis=1), units, measured.support_gap)


def _bands(
    log: OffPolicyLog, measured: Measured, chosen: Mapping[str, _Chosen]
) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each estimator over `POWERS` and `FLOORS`."""
    if log.propensities is None:
        return {}
    values: dict[str, list[float]] = {}
    for power in POWERS:
        for floor in FLOORS:
            changed = np.maximum(log.propensities**power, floor)
            scaled = measured.with_weights(measured.weights * log.propensities / changed)
            for name, terms in _all_terms(log, scaled, chosen).items():
                values.setdefault(name, []).append(value_of(terms))
    return {name: (min(row), max(row)) for name, row in values.items() if name != "logged"}


def _lower_bound(
    log: OffPolicyLog,
    measured: Measured,
    chosen: _Chosen | None,
    units: Longs,
    config: OffPolicyConfig,
) -> float | None:
    if chosen is None or chosen.name != "clipped_ips" or not (log.rewards >= 0).all():
        return None
    largest = log.rewards.max() if config.max_reward is None else config.max_reward
    values = np.minimum(measured.weights, chosen.parameter) * log.rewards
    limit = chosen.parameter * float(largest)
    bound = bernstein_lower_bound(values, units, largest=limit, level=config.level)
    return None if math.isnan(bound) else bound


def _report(
    log: OffPolicyLog,
    estimates: Mapping[str, Estimate],
    found: Diagnostics | None,
    config: OffPolicyConfig,
    *,
    force: bool,
) -> OffPolicyReport:
    compared = ("ips", "snips", "dr") if log.lists is None else ("rips", "snrips", "cascade_dr")
    intervals = {name: estimates[name].interval for name in compared if name in estimates}
    reasons = [NO_PROPENSITIES] if found is None else refusals(found, intervals)
    if reasons and not force:
        raise OffPolicyError(reasons)
    warnings = [] if found is None else cautions(found)
    if log.estimated:
        warnings.append("The propensities are estimates: read the band, not the value alone.")
    main = next(
        name for name in (*reversed(compared), *reversed(list(estimates))) if name in estimates
    )
    gap = None if found is None else found.support_gap
    supported = next(name for name in ("ips", "rips", main) if name in estimates)
    return OffPolicyReport(
        estimates=estimates,
        diagnostics=found,
        main=main,
        refusals=tuple(reasons),
        warnings=tuple(warnings),
        bounds=_bounds(log, estimates[supported].value, gap, config),
        level=config.level,
    )


def _bounds(
    log: OffPolicyLog, supported: float, gap: float | None, config: OffPolicyConfig
) -> tuple[float, float] | None:
    """Return the value if all that is not supported earns nothing, and if it earns the most.

    Args:
        log: has the rewards; there are no bounds if one of them is below 0.
        supported: the value of what is supported, by weights that are not normalised.
        gap: the probability of what is not supported.
        config: has the largest reward.
    """
    if not gap or log.rewards.min() < 0:
        return None
    largest = float(log.rewards.max() if config.max_reward is None else config.max_reward)
    length = 1 if log.lists is None else int(log.positions.max())
    return supported, supported + gap * length * largest
