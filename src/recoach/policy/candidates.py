"""A sample that stands for a catalogue too large to enumerate.

Stratum one is every item that any state of the batch may be rewarded for, all of them; stratum
two is drawn from a proposal and weighted by what each draw stands for, so that the sum over the
sample estimates the sum over the catalogue without bias (logQ correction, Bengio & Senecal 2008).
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach.data.batches import Queries, Seen
from recoach.data.split import RaggedArray
from recoach.policy.rewards import Rewards


class Candidates(NamedTuple):
    """The items that take part, and how many each one stands for."""

    items: Tensor
    """int64[C] sorted, no item twice."""
    log_weights: Tensor
    """float[C]; 0 for what is enumerated."""


class Proposal:
    """Half uniform, half by popularity in training: every item can be drawn, heads often are."""

    def __init__(self, train: RaggedArray, n_items: int) -> None:
        counts = np.bincount(train.values, minlength=n_items)
        share = counts / max(1, counts.sum())
        self.probabilities = torch.from_numpy(0.5 / n_items + 0.5 * share)
        self._cumulated = self.probabilities.cumsum(0)

    def candidates(self, rewarded: Tensor, count: int, generator: torch.Generator) -> Candidates:
        """Return the rewarded items and those of `count` draws that are not among them.

        Args:
            rewarded: int64[N] items, in any order, repeated or not.
            count: draws, with replacement.
            generator: on the CPU.
        """
        certain = torch.unique(rewarded.cpu())
        points = torch.rand(count, generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(self._cumulated, points * self._cumulated[-1], right=True)
        found, times = torch.unique(drawn, return_counts=True)
        fresh = ~torch.isin(found, certain, assume_unique=True)
        found, times = found[fresh], times[fresh]
        items, order = torch.cat([certain, found]).sort()
        weights = (times / (count * self.probabilities[found])).log()
        log_weights = torch.cat([torch.zeros(len(certain)), weights.float()])[order]
        return Candidates(items.to(rewarded.device), log_weights.to(rewarded.device))


def restrict_to_candidates(
    queries: Queries, rewards: Rewards, candidates: Candidates
) -> tuple[Queries, Rewards]:
    """Number the seen and the rewarded items of states within the candidates.

    Args:
        queries: seen items that are no candidates need no mask and are dropped.
        rewards: all of their items are candidates.
        candidates: what takes part.
    """
    rewards = rewards._replace(items=torch.searchsorted(candidates.items, rewards.items))
    if queries.seen is None:
        return queries, rewards
    states, items = queries.seen
    place = torch.searchsorted(candidates.items, items).clamp(max=len(candidates.items) - 1)
    present = candidates.items[place] == items
    return replace(queries, seen=Seen(states[present], place[present])), rewards
