"""Re-rankers that avoid similar items in a list: MMR and determinantal point processes."""

from typing import Final

import torch
from torch import Tensor

from recoach.rerank.base import Reranker, greedy_order, rows_of
from recoach.rerank.candidates import Candidates

KERNEL_WEIGHT: Final = 0.99
"""Weight of the similarities beside the identity in the kernel of a DPP."""
_SMALLEST: Final = 1e-10


class _BySimilarity(Reranker):
    @property
    def width(self) -> int:
        """Numbers in memory for each candidate: those of its vector."""
        return self.features.vectors.shape[1]


class MMR(_BySimilarity):
    """Maximal marginal relevance: (1 - λ) s_i - λ max_j cos(i, j), j in the list; λ is the knob.

    The scores s are scaled to 0..1 for each state (`Candidates.relevance`).

    Source: Carbonell & Goldstein 1998, with 1 - λ for their λ.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """See `Reranker.select`."""
        vectors = self.features.vectors[candidates.item_index]
        criterion = _Marginal(candidates.relevance(), vectors, self.config.knob)
        return greedy_order(criterion, candidates.is_item, k)


class _Marginal:
    def __init__(self, relevance: Tensor, vectors: Tensor, weight: float) -> None:
        self._relevance, self._vectors, self._weight = relevance, vectors, weight
        self._nearest: Tensor | None = None

    def gains(self) -> Tensor:
        if self._nearest is None:
            return self._relevance
        return (1 - self._weight) * self._relevance - self._weight * self._nearest

    def add(self, chosen: Tensor) -> None:
        similarity = cosines(self._vectors, chosen)
        nearest = self._nearest
        self._nearest = similarity if nearest is None else torch.maximum(nearest, similarity)


class DPP(_BySimilarity):
    """Greedy MAP of a DPP: (1 - λ) Σ s_i + λ log det S over the items of the list; λ is the knob.

    It is the determinantal point process with kernel L = diag(q) S diag(q), q_i = exp(θ s_i) and
    θ = (1 - λ) / 2λ, as log det L = 2θ Σ s_i + log det S. The scores s are scaled to 0..1 for each
    state. Each step costs O(M) for each item in the list: the Cholesky factor grows by one row.

    Source: Chen, Zhang & Zhou 2018 (fast greedy MAP inference), equations 6 and 15. Departure: S =
    0.99 cos + 0.01 I in place of cos, so that two items of the same vector can be in one list.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """See `Reranker.select`."""
        vectors = self.features.vectors[candidates.item_index]
        criterion = _LogDeterminant(candidates.relevance(), vectors, self.config.knob)
        return greedy_order(criterion, candidates.is_item, k)


class _LogDeterminant:
    def __init__(self, relevance: Tensor, vectors: Tensor, weight: float) -> None:
        self._relevance, self._vectors, self._weight = relevance, vectors, weight
        self._rests = torch.ones_like(relevance)  # d² of each candidate
        self._factors: list[Tensor] = []  # one row of the Cholesky factors for each item, [B, M]

    def gains(self) -> Tensor:
        return (1 - self._weight) * self._relevance + self._weight * self._rests.log()

    def add(self, chosen: Tensor) -> None:
        at = chosen[:, None]
        row = KERNEL_WEIGHT * cosines(self._vectors, chosen)
        for factor in self._factors:
            row = row - factor.gather(1, at) * factor
        factor = row / self._rests.gather(1, at).sqrt()
        self._rests = (self._rests - factor.square()).clamp(min=_SMALLEST)
        self._factors.append(factor)


def cosines(vectors: Tensor, chosen: Tensor) -> Tensor:
    """Return float[B, M], the products of unit vectors [B, M, D] with those at int64[B]."""
    return torch.einsum("bmd,bd->bm", vectors, rows_of(vectors, chosen))
