"""Negatives that all states of a batch share, drawn by popularity."""

import numpy as np
import torch
from torch import Tensor, nn

from recoach.data.dataset import RaggedArray


class PopularitySampler(nn.Module):
    """Draws items with probability proportional to count^alpha.

    An item that does not occur in train counts as if it occurred once.

    Args:
        train: the training histories, which are counted.
        n_items: size of the catalogue.
        alpha: 0 is uniform, 1 proportional to the counts.
    """

    log_p: Tensor
    """float[I], log-probability of drawing each item."""
    log_shares: Tensor
    """float[I], log of each item's share of the interactions, of which targets are a sample."""

    def __init__(self, train: RaggedArray, n_items: int, alpha: float) -> None:
        super().__init__()
        counts = np.bincount(train.values, minlength=n_items).clip(min=1)
        weights = counts.astype(np.float64) ** alpha
        for name, numbers in {
            "log_p": np.log(weights / weights.sum()).astype(np.float32),
            "log_shares": np.log(counts / counts.sum()).astype(np.float32),
        }.items():
            self.register_buffer(name, torch.from_numpy(numbers), persistent=False)
        self.host_log_p, self.host_log_shares = self.log_p, self.log_shares
        self._cumulative = torch.from_numpy(np.cumsum(weights / weights.sum()))
        """On the host, where items are drawn, unlike buffers on whatever device the model is."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return int64[count] on the host, items drawn with replacement.

        Args:
            count: number of items.
            generator: on the CPU, in the same state in all processes, which draw the same items.
        """
        points = torch.rand(count, generator=generator, dtype=torch.float64)
        items = torch.searchsorted(self._cumulative, points, right=True)
        return items.clamp(max=len(self._cumulative) - 1)
