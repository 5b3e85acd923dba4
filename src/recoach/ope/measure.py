"""Probabilities and predicted rewards of a policy at the rows of a log, block by block."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.errors import DataError
from recoach.ope.estimators import Floats, Impressions
from recoach.ope.log import OffPolicyLog, numbered
from recoach.ope.policies import Choices, EvaluatedPolicy, blocks_of, logged_probabilities
from recoach.ope.reward_models import RewardModel, cross_fit
from recoach.ope.slates import Lists

Longs = npt.NDArray[np.int64]


class Settings(Protocol):
    """What this module reads of `recoach.ope.evaluate.OffPolicyConfig`."""

    @property
    def n_folds(self) -> int:
        """Folds of the reward model."""

    @property
    def categories(self) -> Mapping[str, str] | None:
        """Category of each item ID."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A policy at the N rows of a log."""

    weights: Floats
    """float64[N], probability over propensity; the probability in a log without propensities."""
    logged_values: Floats
    """float64[N], see `recoach.ope.estimators.Impressions`."""
    policy_values: Floats
    """float64[N], see there."""
    values_below: Floats
    """float64[N], see `recoach.ope.slates.Lists`."""
    support_gap: float | None
    """See `recoach.ope.diagnostics.Diagnostics`."""
    embedding_weights: Floats | None
    """float64[N], see `recoach.ope.estimators.Impressions`."""

    def with_weights(self, weights: Floats) -> "Measured":
        """Return the same with other weights, float64[N]."""
        return replace(self, weights=weights)

    def impressions(self, rewards: Floats) -> Impressions:
        """Return what the estimators of single rows read.

        Args:
            rewards: float64[N].
        """
        return Impressions(
            rewards,
            self.weights,
            self.logged_values,
            self.policy_values,
            self.embedding_weights,
        )

    def lists(self, log: OffPolicyLog) -> Lists:
        """Return what the estimators of lists read, for the log of the measurement."""
        return Lists(
            padded(log, log.rewards, 0.0),
            padded(log, self.weights, 1.0),
            padded(log, self.logged_values, 0.0),
            padded(log, self.policy_values, 0.0),
            padded(log, self.values_below, 0.0),
        )


def padded(log: OffPolicyLog, values: Floats, fill: float) -> Floats:
    """Return float64[L, K], a value of each row by list and position.

    Args:
        log: gives lists and positions.
        values: float64[N].
        fill: value of the positions that a list does not have.
    """
    table = np.full((log.n_lists, int(log.positions.max())), fill)
    table[log.lists, log.positions - 1] = values
    return table


def measure(
    log: OffPolicyLog,
    policy: EvaluatedPolicy,
    model: RewardModel,
    logging_policy: EvaluatedPolicy | None,
    settings: Settings,
) -> Measured:
    """Return weights, predicted rewards and support of a policy at all rows.

    Args:
        log: the log.
        policy: to be evaluated.
        model: reward model, cross-fitted here.
        logging_policy: the policy that wrote the log, None if it is not known in full.
        settings: folds and categories.

    Raises:
        DataError: an item has no category.
    """
    predict = cross_fit(model, log, settings.n_folds)
    probabilities, logged, expected, gaps = (np.empty(len(log)) for _ in range(4))
    categories = None if settings.categories is None else _codes(log, settings.categories)
    category_p, category_b = np.empty(len(log)), np.empty(len(log))
    for rows in blocks_of(len(log)):
        choices = policy.choices(log, rows)
        probabilities[rows] = logged_probabilities(log.items[rows], choices)
        logged[rows] = predict(rows, log.items[rows][:, None])[:, 0]
        expected[rows] = (choices.probabilities * predict(rows, choices.items)).sum(axis=1)
        logger = None if logging_policy is None else logging_policy.choices(log, rows)
        if logger is not None:
            gaps[rows] = _unsupported(choices, logger, len(log.item_ids))
        if categories is not None:
            category = categories[log.items[rows]]
            category_p[rows] = _category_probability(categories, category, choices)
            if logger is not None:
                category_b[rows] = _category_probability(categories, category, logger)
    if categories is not None and logging_policy is None:
        category_b = _frequencies(log.positions, categories[log.items])
    propensities = np.ones(len(log)) if log.propensities is None else log.propensities
    weights = probabilities / propensities
    return Measured(
        weights=weights,
        logged_values=logged,
        policy_values=expected,
        values_below=np.zeros(len(log)) if log.lists is None else _values_below(log, expected),
        support_gap=_support_gap(log, weights, None if logging_policy is None else gaps),
        embedding_weights=None if categories is None else category_p / category_b,
    )


def _values_below(log: OffPolicyLog, expected: Floats) -> Floats:
    """Return float64[N], the sum over lower positions of the mean predicted reward there.

    It is the same number for all rows of a position, so that it depends on a list only through
    the mean over all lists: the bias of Cascade-DR from it is of order 1 / lists.
    """
    means = np.bincount(log.positions, expected)[1:] / log.n_lists
    below: Floats = (np.cumsum(means[::-1])[::-1] - means)[log.positions - 1]
    return below


def _unsupported(choices: Choices, logger: Choices, n_items: int) -> Floats:
    """Return float64[b], the probability of items that the logging policy never shows."""
    supported = np.zeros((len(choices.items), n_items + 1), dtype=np.bool_)
    rows = np.arange(len(supported))[:, None]
    np.logical_or.at(supported, (rows, logger.items), logger.probabilities > 0)
    supported[:, -1] = False  # item -1: which one it is, is not known
    gap: Floats = np.where(supported[rows, choices.items], 0.0, choices.probabilities).sum(axis=1)
    return gap


def _support_gap(log: OffPolicyLog, weights: Floats, gaps: Floats | None) -> float | None:
    """Return the probability that a decision of the policy is not supported.

    In a list it is the sum over positions of (probability of the supported items above, by their
    weights) times (probability of an unsupported item here). A log whose propensities are all 1
    supports what it shows and nothing else.
    """
    is_certain = log.propensities is not None and bool((log.propensities == 1).all())
    if gaps is None and not is_certain:
        return None
    if log.lists is None:
        return float(1 - weights.mean()) if gaps is None else float(gaps.mean())
    products = np.cumprod(padded(log, weights, 1.0), axis=1)
    if gaps is None:
        return float(1 - products[:, -1].mean())
    before = np.concatenate([np.ones((len(products), 1)), products[:, :-1]], axis=1)
    return float((before * padded(log, gaps, 0.0)).sum(axis=1).mean())


def _codes(log: OffPolicyLog, categories: Mapping[str, str]) -> Longs:
    """Return int64[I + 1], the category of each item; -1 is that of any other item."""
    missing = [item_id for item_id in log.item_ids if item_id not in categories]
    if missing:
        raise DataError(f"categories: item {missing[0]!r} has none. Give one for each item.")
    names = pl.Series([categories[item_id] for item_id in log.item_ids])
    return np.append(numbered(names.to_numpy()), -1)


def _category_probability(categories: Longs, category: Longs, choices: Choices) -> Floats:
    """Return float64[b], the probability that the item of a row is of a category."""
    is_same = categories[choices.items] == category[:, None]
    total: Floats = np.where(is_same, choices.probabilities, 0.0).sum(axis=1)
    return total


def _frequencies(positions: Longs, categories: Longs) -> Floats:
    """Return float64[N], the frequency of each row's category among the rows of its position."""
    cells = numbered(positions) * (int(categories.max()) + 1) + categories
    frequencies: Floats = np.bincount(cells)[cells] / np.bincount(positions)[positions]
    return frequencies
