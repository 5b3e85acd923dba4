"""Constraints on served lists: Lagrange multipliers that change the rewards of items.

The softmax may meet a bound that the best ten items violate, so a constraint is measured on lists.
After an evaluation its multiplier rises while the lists violate the bound and falls while they do
not; the multiplier is the reward of the group's items. The update is that of a proportional and
integral controller, which damps the oscillation of plain dual ascent (Stooke, Achiam & Abbeel
2020).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recoach.data.dataset import Dataset
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.rerank.exposure import exposure_shares
from recoach.rerank.features import Groups, ItemFeatures
from recoach.training.constraint_config import ConstraintConfig

LENGTH: Final = 10
"""Items of a list."""
_PROPORTIONAL: Final = 0.5
_INTEGRAL: Final = 0.2
_MOST_WEIGHT: Final = 4.0
"""Logarithm of the largest factor of the objective."""
_MARGIN: Final = 0.05
"""Relative distance from the bound that the multipliers aim at, within it: at the bound itself half
of the evaluations would violate it."""


class Measured(NamedTuple):
    """A constraint and what lists make of it."""

    constraint: ConstraintConfig
    group: str
    """Name of the group, of several the one that violates the bound most; "" for accuracy."""
    value: float
    """Share of the exposure, or the relative fall of the metric."""
    violation: float
    """How far the value is beyond the bound, relative to the larger of the two; at most 0 where
    the bound is kept."""


class Constraints(nn.Module):
    """The constraints of a training and their multipliers, which checkpoints hold.

    Args:
        configs: the constraints.
        dataset: gives groups and ages.
        model: see `ItemFeatures`.
        objective: float32[I], the rewards of the functions of items; None without any.

    Raises:
        ConfigError: a column, a member or the times are missing, or `max_fall` bounds the price of
            an objective and there is none.
    """

    integral: Tensor
    multipliers: Tensor
    violations: Tensor
    is_measured: Tensor
    base_value: Tensor

    def __init__(
        self,
        configs: Sequence[ConstraintConfig],
        dataset: Dataset,
        model: Recommender,
        objective: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.configs, self._n_items = tuple(configs), dataset.n_items
        has_price = any(config.max_fall is not None for config in configs)
        if has_price and objective is None:
            raise ConfigError(
                "finetune.constraints: max_fall bounds what a reward of items may cost, and there "
                "is none; add one to reward_funcs, such as 'novelty', or use another constraint."
            )
        self._objective = objective if has_price else None
        features = ItemFeatures(dataset, model)
        self._groups = [groups_of(config, features) for config in self.configs]
        sizes = [1 if groups is None else len(groups.names) for groups in self._groups]
        self._starts = np.cumsum([0, *sizes])
        for name in ("integral", "multipliers", "violations"):
            self.register_buffer(name, torch.zeros(int(self._starts[-1]), dtype=torch.float64))
        # An exposure that is within its bound needs no reward. A metric that is within its own
        # leaves room for the objective, whose weight then grows.
        least = [0.0 if groups is not None else -_MOST_WEIGHT for groups in self._groups]
        self._least = torch.tensor(least).double().repeat_interleave(torch.tensor(sizes))
        self.register_buffer("is_measured", torch.tensor(data=False))
        self.register_buffer("base_value", torch.tensor(torch.nan, dtype=torch.float64))

    def measure(self, lists: Tensor, value: float, population: float = 0.0) -> dict[str, float]:
        """Measure the constraints on lists, for the next update.

        The first model that is measured is the base, to whose metric `max_fall` refers.

        Args:
            lists: int64[B, k], what a model serves.
            value: its selecting metric.
            population: what the lists together add to the objective (`exposure`), at least 0.

        Returns:
            What is logged: the value of each constraint, and `constrained`, which selects the
            weights. Where all constraints are kept it is the metric, or with `max_fall` the mean
            reward of the listed items plus `population`; else it is 1 below the least possible,
            minus the largest violation.
        """
        if self.base_value.isnan():
            self.base_value.fill_(value)
        row, worst = {}, 0.0
        for place, (config, groups) in enumerate(zip(self.configs, self._groups, strict=True)):
            part = slice(self._starts[place], self._starts[place + 1])
            shares = self._fall(value) if groups is None else group_shares(lists, groups)
            self.violations[part] = violations(config, shares)
            found = _worst(config, groups, shares, self.violations[part])
            row[f"constraint/{config.name}"] = found.value
            worst = max(worst, found.violation)
        self.is_measured.fill_(value=True)
        least, objective = 0.0, value
        if self._objective is not None:
            least = float(self._objective.min())
            objective = float(self._objective[lists].mean()) + population
        return row | {"constrained": objective if worst <= 0 else min(least, 0.0) - 1 - worst}

    def _fall(self, value: float) -> Tensor:
        """Return float[1], the fall of the metric relative to the base; 0 where that has 0."""
        base = float(self.base_value)
        return torch.tensor([1 - value / base if base else 0.0])

    def update(self) -> None:
        """Move the multipliers by the last measured violations; without new ones do nothing."""
        if not self.is_measured:
            return
        self.is_measured.fill_(value=False)
        beyond = self.violations + _MARGIN
        self.integral.add_(_INTEGRAL * beyond)
        self.integral.copy_(torch.maximum(self.integral, self._least))
        moved = self.integral + _PROPORTIONAL * beyond
        self.multipliers.copy_(torch.maximum(moved, self._least))

    def item_rewards(self, rewards: Tensor | None) -> Tensor:
        """Return float32[I], the rewards of items with those of the constraints.

        The multiplier of a group that needs more exposure is added to the reward of its items, that
        of one with too much is subtracted. The multiplier m of `max_fall` multiplies the rewards of
        the functions by exp(-m): it falls below 0 while the metric has room.

        Args:
            rewards: float32[I] of the reward functions of items; None without any.
        """
        objective = torch.zeros(self._n_items) if rewards is None else rewards
        exposure = torch.zeros(self._n_items)
        for place, (config, groups) in enumerate(zip(self.configs, self._groups, strict=True)):
            multipliers = self.multipliers[self._starts[place] : self._starts[place + 1]].float()
            if groups is None:
                objective = objective * (-multipliers).exp()
                continue
            signed = multipliers if config.at_least is not None else -multipliers
            index = groups.numbers.clamp(min=0)
            exposure += torch.where(groups.numbers >= 0, signed[index], 0.0)
        return objective + exposure


def check_constraints(configs: Sequence[ConstraintConfig], dataset: Dataset) -> None:
    """Raise a ConfigError if a column, its member or the times are missing."""
    features = ItemFeatures(dataset, None)
    for config in configs:
        groups_of(config, features)


def groups_of(config: ConstraintConfig, features: ItemFeatures) -> Groups | None:
    """Return the groups that a constraint bounds; None for the constraint of accuracy.

    Raises:
        ConfigError: a column, its member or the times are missing.
    """
    if config.max_fall is not None:
        return None
    if config.new_days is not None:
        return features.new_items(config.new_days)
    return features.groups(config.column, config.member)


def group_shares(lists: Tensor, groups: Groups) -> Tensor:
    """Return float[G], the share of each group in the exposure of int64[B, k] lists."""
    return exposure_shares(lists, groups.numbers, len(groups.names))


def violations(config: ConstraintConfig, shares: Tensor) -> Tensor:
    """Return float64[G], how far shares, or a fall, are beyond the bound; negative within it."""
    bound = config.at_least or config.at_most or config.max_fall or 0.0
    beyond = bound - shares if config.at_least is not None else shares - bound
    return (beyond / shares.abs().clamp(min=bound)).double()


def _worst(
    config: ConstraintConfig, groups: Groups | None, shares: Tensor, beyond: Tensor
) -> Measured:
    place = int(beyond.argmax())
    name = "" if groups is None else str(groups.names[place])
    return Measured(config, name, float(shares[place]), float(beyond[place]))
