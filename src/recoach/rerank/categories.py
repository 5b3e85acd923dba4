"""Re-rankers that serve the categories of a user's history: xQuAD and calibration."""

from typing import Final

import torch
from torch import Tensor

from recoach.rerank.base import Reranker, greedy_order, rows_of
from recoach.rerank.candidates import Candidates

SMOOTHING: Final = 0.01
"""Weight of the history in the smoothed distribution of a list, as in `miscalibration`."""


class _ByCategory(Reranker):
    reads_profiles = True

    @property
    def width(self) -> int:
        """Numbers in memory for each candidate: one for each category."""
        return self.features.categories.shape[1]

    @staticmethod
    def _profiles(candidates: Candidates) -> Tensor:
        if candidates.profiles is None:
            raise ValueError("The re-ranker needs profiles of Candidates.")
        return candidates.profiles


class XQuAD(_ByCategory):
    """Explicit aspect coverage; λ is the knob.

    (1 - λ) P(i|u) + λ Σ_c P(c|u) P(i|c) Π_j (1 - P(j|c)), j in the list. P(c|u) is the distribution
    of categories in the history, P(i|u) the score scaled to 0..1 for each state, and P(i|c) the
    same for an item of the category, 0 for others. Without categories in the history the list is
    the model's.

    Source: Santos, Macdonald & Ounis 2010. Departure: P(i|c) depends on the user's score, so that a
    relevant item leaves less to cover than an irrelevant one of the same category.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """See `Reranker.select`."""
        relevance = candidates.relevance()
        covers = self.features.categories[candidates.item_index] * relevance[:, :, None]
        criterion = _Coverage(relevance, covers, self._profiles(candidates), self.config.knob)
        return greedy_order(criterion, candidates.is_item, k)


class _Coverage:
    def __init__(self, relevance: Tensor, covers: Tensor, profiles: Tensor, weight: float) -> None:
        self._relevance, self._covers, self._weight = relevance, covers, weight
        self._uncovered = profiles.clone()

    def gains(self) -> Tensor:
        diversity = torch.einsum("bmc,bc->bm", self._covers, self._uncovered)
        return (1 - self._weight) * self._relevance + self._weight * diversity

    def add(self, chosen: Tensor) -> None:
        self._uncovered = self._uncovered * (1 - rows_of(self._covers, chosen))


class Calibration(_ByCategory):
    """Calibrated lists: (1 - λ) Σ s_i - λ KL(p || q'); λ is the knob.

    p is the distribution of categories in the history, q that of the list and q' = 0.99 q + 0.01 p:
    the divergence of the metric `miscalibration`. The scores s are scaled to 0..1 for each state.
    Without categories in the history the list is the model's.

    Source: Steck 2018, greedy. Departure: events of the history are not weighted by their age.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """See `Reranker.select`."""
        shares = self.features.shares[candidates.item_index]
        relevance = candidates.relevance()
        criterion = _Divergence(relevance, shares, self._profiles(candidates), self.config.knob)
        return greedy_order(criterion, candidates.is_item, k)


class _Divergence:
    def __init__(self, relevance: Tensor, shares: Tensor, profiles: Tensor, weight: float) -> None:
        self._relevance, self._shares, self._weight = relevance, shares, weight
        self._profiles = profiles[:, None, :]
        self._sums = torch.zeros_like(profiles)

    def gains(self) -> Tensor:
        sums = self._sums[:, None, :] + self._shares
        q = sums / sums.sum(dim=2, keepdim=True).clamp(min=1e-12)
        smoothed = (1 - SMOOTHING) * q + SMOOTHING * self._profiles
        # KL up to the entropy of p, which is the same for all candidates.
        cross_entropy = -torch.where(self._profiles > 0, self._profiles * smoothed.log(), 0.0)
        return (1 - self._weight) * self._relevance - self._weight * cross_entropy.sum(dim=2)

    def add(self, chosen: Tensor) -> None:
        self._sums = self._sums + rows_of(self._shares, chosen)
