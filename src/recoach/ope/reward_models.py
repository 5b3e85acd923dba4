"""Reward models: the expected reward of an item at a row of a log, learned from other rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recoach.errors import ConfigError, DataError
from recoach.ope.log import OffPolicyLog

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Predictor = Callable[[Longs, Longs], Floats]
"""(rows int64[b], items int64[b, S]) -> float64[b, S], the expected reward of each item at the
row; item -1 is one that the log never shows."""


class RewardModel(Protocol):
    """Learns expected rewards."""

    def fit(self, log: OffPolicyLog, rows: Longs) -> Predictor:
        """Return a predictor for all rows of a log, learned from some of them.

        Args:
            log: the whole log.
            rows: int64[n] the rows to learn from; the others must not be looked at.
        """


@dataclass(frozen=True, slots=True)
class ItemMeans:
    """Smoothed mean reward of each item: (sum of its rewards + prior g) / (its rows + prior).

    g is the mean of all rows. The value of an item that was never shown is g.

    Raises:
        ConfigError: the prior is not above 0.
    """

    prior: float = 200.0
    """Number of rows with the mean g that are added to those of each item."""
    by_position: bool = False
    """Whether each position has means of its own."""

    def __post_init__(self) -> None:
        if not self.prior > 0:
            raise ConfigError(f"The prior of ItemMeans must be above 0, not {self.prior:g}.")

    def fit(self, log: OffPolicyLog, rows: Longs) -> Predictor:
        """Return the predictor of the means over some rows, see `RewardModel.fit`."""
        n_columns = len(log.item_ids) + 1  # the last one is any other item, which has no rows
        positions = log.positions - 1 if self.by_position else np.zeros_like(log.positions)
        n_positions = int(positions.max()) + 1
        cells = positions[rows] * n_columns + log.items[rows]
        shape = (n_positions, n_columns)
        counts = np.bincount(cells, minlength=n_positions * n_columns).reshape(shape)
        sums = np.bincount(cells, log.rewards[rows], n_positions * n_columns).reshape(shape)
        total, n_rows = sums.sum(axis=1, keepdims=True), counts.sum(axis=1, keepdims=True)
        overall = log.rewards[rows].mean() if len(rows) else 0.0
        mean = np.where(n_rows > 0, total / np.maximum(n_rows, 1), overall)
        values = (sums + self.prior * mean) / (counts + self.prior)

        def predict(at: Longs, items: Longs) -> Floats:
            predicted: Floats = values[positions[at][:, None], items]
            return predicted

        return predict


def cross_fit(model: RewardModel, log: OffPolicyLog, n_folds: int) -> Predictor:
    """Return a predictor whose value at a row was learned without the units of the row's fold.

    The fold of a unit is its number modulo `n_folds`.

    Args:
        model: is fitted `n_folds` times.
        log: with at least two units.
        n_folds: number of folds, at least 2.

    Raises:
        ConfigError: fewer than two folds.
        DataError: the log has a single unit, or the model returns values that are not finite.
    """
    if n_folds < 2:
        raise ConfigError(f"Cross-fitting needs at least 2 folds, not {n_folds}.")
    if not log.units.any():
        raise DataError("The log has a single unit: nothing is left to learn rewards from.")
    folds = log.units % n_folds
    present = np.unique(folds).tolist()
    predictors = {fold: model.fit(log, np.flatnonzero(folds != fold)) for fold in present}

    def predict(at: Longs, items: Longs) -> Floats:
        values = np.empty(items.shape)
        for fold in np.unique(folds[at]).tolist():
            is_fold = folds[at] == fold
            values[is_fold] = predictors[fold](at[is_fold], items[is_fold])
        if not np.isfinite(values).all():
            raise DataError(
                f"{type(model).__name__} predicts rewards that are not finite. Correct the model."
            )
        return values

    return predict
