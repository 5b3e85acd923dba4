"""The contract of re-rankers, and the greedy choice that several of them share."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from recoach.evaluation.ranking import TopItems
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import ItemFeatures

_CELLS = 2**23
"""Numbers of a feature of all candidates in memory at once: 32 MiB."""


class Reranker(ABC):
    """Chooses lists from candidates.

    Args:
        config: the settings, whose knob is in range.
        features: of the items.

    Raises:
        ConfigError: the data lack what the re-ranker reads.
    """

    reads_profiles: ClassVar[bool] = False
    """Whether it reads `Candidates.profiles`."""
    fits: ClassVar[bool] = False
    """Whether `fit` computes something."""
    optimum: ClassVar[str] = ""
    """Why no fine-tuning can be better, where theory says so: one sentence."""

    def __init__(self, config: RerankConfig, features: ItemFeatures) -> None:
        self.config, self.features = config, features

    @property
    def width(self) -> int:
        """Numbers in memory for each candidate."""
        return 1

    def unit(self, candidates: Candidates, k: int) -> float:
        """Return the unit of the knob values of a front, from lists of some states."""
        del candidates, k
        return 1.0

    def fit(self, candidates: Candidates, k: int) -> None:
        """Compute what depends on the lists of all users, such as offsets, from some states.

        Args:
            candidates: of a sample of states.
            k: list length.
        """
        del candidates, k

    @abstractmethod
    def select(self, candidates: Candidates, k: int) -> Tensor:
        """Return int64[B, k], the position of each list's items among the candidates; -1 for none.

        Args:
            candidates: of B states.
            k: list length, at most the number of candidates.
        """

    @final
    @torch.no_grad()
    def __call__(self, candidates: Candidates, k: int) -> TopItems:
        """Return the lists of B states, with the scores of the model, which need not descend.

        Args:
            candidates: of B states.
            k: list length; a list is not longer than its candidates.
        """
        n_states, depth = candidates.items.shape
        k = min(k, depth)
        rows = max(1, _CELLS // (depth * self.width))
        blocks = [candidates.rows(start, start + rows) for start in range(0, n_states, rows)]
        positions = torch.cat(
            [torch.empty(0, k, dtype=torch.int64), *(self.select(block, k) for block in blocks)]
        )
        is_item, index = positions >= 0, positions.clamp(min=0)
        items = candidates.items.gather(1, index).masked_fill(~is_item, -1)
        scores = candidates.scores.gather(1, index).masked_fill(~is_item, -torch.inf)
        return TopItems(items, scores)


class Criterion(Protocol):
    """What a greedy choice maximises."""

    def gains(self) -> Tensor:
        """Return float[B, M], the gain of each candidate as the next item; finite."""

    def add(self, chosen: Tensor) -> None:
        """Take int64[B] positions of candidates into the lists."""


def greedy_order(criterion: Criterion, is_item: Tensor, k: int) -> Tensor:
    """Return int64[B, k], the positions of the k items that have the largest gain one by one.

    Of equal gains the candidate that the model ranks higher is chosen. -1 after the last item.

    Args:
        criterion: gains, given the items chosen so far.
        is_item: bool[B, M], where there is a candidate.
        k: list length.
    """
    is_left = is_item.clone()
    positions = []
    for _ in range(k):
        chosen = criterion.gains().masked_fill(~is_left, -torch.inf).argmax(dim=1)
        positions.append(chosen.masked_fill(~is_left.any(dim=1), -1))
        criterion.add(chosen)
        is_left.scatter_(1, chosen[:, None], value=False)
    return torch.stack(positions, dim=1)


def rows_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Return float[B, D], the row of float[B, M, D] at int64[B] positions."""
    index = chosen[:, None, None].expand(-1, 1, values.shape[2])
    return values.gather(1, index).squeeze(1)
