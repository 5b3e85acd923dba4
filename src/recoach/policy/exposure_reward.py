"""The reward of an even exposure: a property of all lists together, as a reward of items.

Whether the exposure of the items is even is decided by the lists of all users. No list has this
property by itself, so that it cannot be rewarded list by list; but the gradient of a function F of
the exposure is a reward of items, which changes as the exposure does.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from recoach.data.dataset import Dataset
from recoach.errors import ConfigError
from recoach.rerank.exposure import exposure_shares
from recoach.rerank.features import ItemFeatures

KEPT: Final = 0.5
"""Factor of the moving average: what an evaluation leaves of the average before it."""
_SMOOTHING: Final = 0.01
"""Part of the shares that is uniform, so that the reward of an item that no list has is finite."""


class ExposureReward(nn.Module):
    """Reward items, or items of groups, whose share of the exposure is small (`exposure`).

    The lists of the model in training are measured after every evaluation: a softmax may be even
    where its best ten items are not. With e[G] the shares of the exposure of G groups, averaged
    over all lists, F(e) is the entropy of the smoothed shares s = 0.99 e / Σe + 0.01 / G:

        F(e) = -Σ_g s_g log s_g / (0.99 log(100 G)),    between 0 and 1,
        dF/de_g = r_g - Σ_h e_h r_h,    r_g = log(s_g) / log(0.01 / G).

    dF/de is the reward of the items of group g at the moving average of e, whose factor is 0.5 per
    evaluation. Like `novelty`, with the served exposure in place of the training interactions, r is
    1 for a group without exposure and nearly 0 for one with all of it. Minus its mean over the
    exposure it is 0 for all where the shares are equal, below 0 for groups with much exposure, and
    never beyond ±1. Before the first evaluation, and for items without a group, it is 0.

    The shares of groups are equal at the optimum, however many items the groups have.

    Given the optimal exposure, the reward is a constant for each item, and a constant *offset* of
    the scores has the same optimum without training: see `RerankConfig`, `exposure_cap` and
    `exposure_floor`.

    Args:
        dataset: with the column in its items table.
        column: its values are the groups; None makes every item a group. Items without a value are
            in no group.

    Raises:
        ConfigError: there is no such column, or it has fewer than two values.

    Source: the gradient at an average as the reward for a concave function of what a policy visits
    is the Frank-Wolfe method (Hazan et al. 2019, "Provably efficient maximum entropy exploration").
    Departure: the average forgets, because the policy of each evaluation replaces the one before.
    """

    scope: Final = "served"
    shares: Tensor
    """float64[G], the moving average of the shares of the exposure."""
    is_measured: Tensor

    def __init__(self, dataset: Dataset, column: str | None = None) -> None:
        super().__init__()
        self.__name__, self.column = "exposure", column
        groups = ItemFeatures(dataset, None).groups(column)
        self._group_of, self._n_groups = groups.numbers, len(groups.names)
        if self._n_groups < 2:
            where = "the catalogue" if column is None else f"column {column!r}"
            raise ConfigError(
                f"reward 'exposure' compares groups of items, and {where} has {self._n_groups}; "
                "name another column of the items table, or none for every item by itself."
            )
        self.register_buffer("shares", torch.zeros(self._n_groups, dtype=torch.float64))
        self.register_buffer("is_measured", torch.tensor(data=False))

    def forward(self, prompts: Tensor, completions: Tensor, **_: Tensor) -> Tensor:
        """Return the current reward of each item, for every user."""
        del prompts
        rewards = nn.functional.pad(self.group_rewards(), (0, 1))  # the last is that of no group
        return rewards.float()[self._group_of[completions]]

    def group_rewards(self) -> Tensor:
        """Return float64[G], the current reward of the items of each group."""
        if not self.is_measured:
            return torch.zeros_like(self.shares)
        rewards = self._smoothed(self.shares).log() / math.log(_SMOOTHING / self._n_groups)
        return rewards - (self.shares * rewards).sum()

    def reset(self) -> None:
        """Forget what was measured."""
        self.is_measured.fill_(value=False)

    def measure(self, lists: Tensor) -> float:
        """Move the average towards the exposure of int64[B, k] lists, and return their F.

        The item at rank r is exposed by 1 / log2(r + 1); -1 in place of an item is none. Lists
        without an item of any group are left out of the average, and their F is 0.
        """
        shares = exposure_shares(lists, self._group_of, self._n_groups).double()
        if not shares.any():
            return 0.0
        shares = shares / shares.sum()
        self.shares.lerp_(shares, 1 - KEPT if self.is_measured else 1.0)
        self.is_measured.fill_(value=True)
        return self.value(shares)

    @property
    def highest(self) -> float:
        """F of equal shares."""
        return self.value(torch.full_like(self.shares, 1 / self._n_groups))

    def value(self, shares: Tensor) -> float:
        """Return F of float64[G] shares that sum to 1."""
        smoothed = self._smoothed(shares)
        scale = (1 - _SMOOTHING) * math.log(self._n_groups / _SMOOTHING)
        return float(-(smoothed * smoothed.log()).sum()) / scale

    def _smoothed(self, shares: Tensor) -> Tensor:
        return (1 - _SMOOTHING) * shares + _SMOOTHING / self._n_groups
