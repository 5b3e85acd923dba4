"""A sample that stands for a catalogue too large to enumerate.

The first stratum holds all items that any state of the batch is rewarded for. The second is drawn
from a proposal distribution and weighted by its inverse probability, so that the sum over the
sample is an unbiased estimate of the sum over the catalogue (logQ correction, Bengio & Senecal
2008).
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries, Seen
from recoach.data.transfer import to_device
from recoach.policy.rewards import Rewards


class Candidates(NamedTuple):
    """The sampled items and their weights."""

    items: Tensor
    """int64[C] sorted, no item twice."""
    log_weights: Tensor
    """float[C] log of the number of items that each stands for; 0 in the first stratum."""

    def to(self, device: torch.device) -> "Candidates":
        """Return the same candidates on a device."""
        return Candidates(*(to_device(part, device) for part in self))


class Proposal:
    """Draws items half uniformly and half by their popularity in training."""

    def __init__(self, train: RaggedArray, n_items: int) -> None:
        counts = np.bincount(train.values, minlength=n_items)
        popularity = counts / max(1, counts.sum())
        self.probabilities = torch.from_numpy(0.5 / n_items + 0.5 * popularity)
        self._cumulative = self.probabilities.cumsum(0)

    def candidates(self, rewarded: Tensor, count: int, generator: torch.Generator) -> Candidates:
        """Return the rewarded items, and the drawn ones that are not among them, on the host.

        Args:
            rewarded: int64[N] items in any order, on the host; repetitions are allowed.
            count: number of draws, with replacement.
            generator: on the CPU.
        """
        enumerated = torch.unique(rewarded)
        points = torch.rand(count, generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(self._cumulative, points * self._cumulative[-1], right=True)
        sampled, times = torch.unique(drawn, return_counts=True)
        is_new = ~torch.isin(sampled, enumerated, assume_unique=True)
        sampled, times = sampled[is_new], times[is_new]
        items, order = torch.cat([enumerated, sampled]).sort()
        weights = (times / (count * self.probabilities[sampled])).log()
        log_weights = torch.cat([torch.zeros(len(enumerated)), weights.float()])[order]
        return Candidates(items, log_weights)


def restrict_to_candidates(
    queries: Queries, rewards: Rewards, candidates: Candidates
) -> tuple[Queries, Rewards]:
    """Renumber the seen and the rewarded items of states within the candidates.

    Args:
        queries: seen items that are no candidates are dropped.
        rewards: all of their items must be candidates.
        candidates: the sample.
    """
    rewards = rewards._replace(items=torch.searchsorted(candidates.items, rewards.items))
    if queries.seen is None:
        return queries, rewards
    states, items = queries.seen[:2]
    place = torch.searchsorted(candidates.items, items).clamp(max=len(candidates.items) - 1)
    present = candidates.items[place] == items
    return replace(queries, seen=Seen(states[present], place[present])), rewards
