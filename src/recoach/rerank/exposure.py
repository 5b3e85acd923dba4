"""Re-rankers that limit the exposure of items or groups, by dual ascent on offsets of scores."""

from typing import NamedTuple

import torch
from torch import Tensor

from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import Groups, ItemFeatures
from recoach.rerank.offsets import OffsetReranker, order_with_offsets

ROUNDS = 200
"""Steps of dual ascent."""
TOLERANCE = 0.02
"""Relative violation of a limit up to which it counts as met."""


class Limits(NamedTuple):
    """Bounds of the shares of exposure of G groups; the shares of a partition sum to 1."""

    lowest: Tensor
    """float[G], 0 for no bound."""
    highest: Tensor
    """float[G], 1 for no bound."""


class FittedOffsets(NamedTuple):
    """The result of dual ascent."""

    offsets: Tensor
    """float[G], what is added to the scores of a group's items."""
    violation: float
    """The largest relative violation of a limit by the lists that the offsets were fitted on."""

    @property
    def is_feasible(self) -> bool:
        """Whether all limits are met."""
        return self.violation <= TOLERANCE


def exposure_shares(items: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Return float[G], the share of each group in the exposure of lists.

    The item at rank r is exposed by 1 / log2(r + 1), as in `recoach.evaluation.exposure`.

    Args:
        items: int64[B, k], best first; -1 for none.
        groups: int64[I]; -1 for no group, whose exposure counts in the sum only.
        n_groups: number of groups G.
    """
    weights = 1 / torch.log2(torch.arange(items.shape[1]) + 2.0)
    weights = weights.expand(items.shape).masked_fill(items < 0, 0.0)
    group = groups[items.clamp(min=0)]
    sums = torch.zeros(n_groups + 1).index_add_(
        0, torch.where(group >= 0, group, n_groups).flatten(), weights.flatten()
    )
    return sums[:n_groups] / weights.sum().clamp(min=1e-12)


def fit_offsets(candidates: Candidates, groups: Tensor, limits: Limits, k: int) -> FittedOffsets:
    """Return offsets of groups with which the served lists keep to limits of exposure.

    Projected dual ascent: a multiplier of a limit grows while the lists violate it, and falls to 0
    while they do not. Each step ranks by score + offset and measures the exposure of the lists
    themselves, not of a softmax: a softmax may keep to a limit that its best items violate. Steps
    are η/√t in units of the spread of the scores, and proportional to the relative violation. Of
    the steps that keep to all limits the one with the highest mean score is returned, or else the
    one of the smallest violation.

    Args:
        candidates: of the states whose lists are to keep to the limits.
        groups: int64[I], the group of each item; -1 for none.
        limits: of G groups.
        k: list length.

    Source: dual ascent (Bertsekas 1999, chapter 6); offsets as the duals of exposure constraints in
    Singh & Joachims 2018. Departure: relative violations, which let rare and frequent groups move
    alike.
    """
    is_item = candidates.is_item
    spread = float(candidates.scores[is_item].std()) if is_item.sum() > 1 else 1.0
    n_groups = len(limits.highest)
    lower, upper = torch.zeros(n_groups), torch.zeros(n_groups)
    of_item = torch.where(groups >= 0, groups, n_groups)
    best: tuple[tuple[float, float], FittedOffsets] | None = None
    for step in range(1, ROUNDS + 1):
        offsets = torch.cat([lower - upper, torch.zeros(1)])
        positions = order_with_offsets(candidates, offsets[of_item], k)
        index, is_listed = positions.clamp(min=0), positions >= 0
        items = candidates.items.gather(1, index).masked_fill(~is_listed, -1)
        shares = exposure_shares(items, groups, n_groups)
        below, above = _violations(shares, limits)
        violation = max(0.0, float(below.max()), float(above.max()))
        loss = -float(candidates.scores.gather(1, index)[is_listed].mean())
        key = (max(violation, TOLERANCE), loss)
        if best is None or key < best[0]:
            best = key, FittedOffsets(offsets[:-1], violation)
        if step == 1 and violation == 0:
            break  # the model's own lists
        size = spread / step**0.5
        lower = (lower + size * below).clamp(min=0)
        upper = (upper + size * above).clamp(min=0)
    if best is None:
        raise ValueError("ROUNDS must be at least 1.")
    return best[1]


def _violations(shares: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Return float[G], how far shares are below the lowest and above the highest, from -1 to 1."""
    below = (limits.lowest - shares) / torch.maximum(limits.lowest, shares).clamp(min=1e-12)
    above = (shares - limits.highest) / torch.maximum(limits.highest, shares).clamp(min=1e-12)
    return torch.where(limits.lowest > 0, below, -1.0), torch.where(limits.highest < 1, above, -1.0)


class _Exposure(OffsetReranker):
    """Its offsets are fitted on the candidates of some states; before that they are 0."""

    fits = True
    optimum = (
        "Given their multipliers, limits of exposure are sums over items: offsets of the scores "
        "are the optimum, and fine-tuning can only store them in the weights."
    )

    def __init__(self, config: RerankConfig, features: ItemFeatures) -> None:
        super().__init__(config, features)
        self.groups = self._groups()
        self.fitted = FittedOffsets(torch.zeros(len(self.groups.names)), 0.0)

    def _groups(self) -> Groups:
        return self.features.groups(self.config.column)

    def _limits(self) -> Limits:
        raise NotImplementedError

    def offsets(self) -> Tensor:
        """Return the fitted offset of the group of each item; 0 for items in none."""
        fitted, numbers = self.fitted.offsets, self.groups.numbers
        return torch.where(numbers >= 0, fitted[numbers.clamp(min=0)], 0.0)

    def fit(self, candidates: Candidates, k: int) -> None:
        """Fit the offsets, see `fit_offsets`."""
        self.fitted = fit_offsets(candidates, self.groups.numbers, self._limits(), k)


class ExposureCap(_Exposure):
    """At most a share of the exposure for every item or group, such as a provider; the knob.

    Items without a group have no limit.
    """

    def _limits(self) -> Limits:
        n_groups = len(self.groups.names)
        return Limits(torch.zeros(n_groups), torch.full((n_groups,), self.config.knob))

    def unit(self, candidates: Candidates, k: int) -> float:
        """Return the largest share in the model's own lists."""
        numbers, names = self.groups
        return float(exposure_shares(candidates.items[:, :k], numbers, len(names)).max())


class ExposureFloor(_Exposure):
    """At least a share of the exposure for a group, or for new items; the knob."""

    def _groups(self) -> Groups:
        if self.config.new_days is not None:
            return self.features.new_items(self.config.new_days)
        return self.features.groups(self.config.column, self.config.member)

    def _limits(self) -> Limits:
        return Limits(torch.full((1,), self.config.knob), torch.ones(1))
