"""The items that stand close to each item in the training sessions: GCE-GNN's global graph."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recoach.data.dataset import RaggedArray

Ints = npt.NDArray[np.int64]
PairWeights = Literal["raw", "log"]


class NeighbourTable(nn.Module):
    """The most frequent neighbours of each item, from train only and without parameters.

    Two items are neighbours where they are at most `window` positions apart in a session. Each such
    pair of positions counts once for both directions, so that a pair of equal items counts twice.
    Of neighbours with equal counts, those that occur first in train are kept.

    Args:
        train: the training sessions, one a row.
        n_items: I, size of the catalogue.
        neighbours: K, neighbours of an item that are kept.
        window: distance in positions.
        weights: `raw` counts, or `log` of 1 + count.
    """

    def __init__(
        self,
        train: RaggedArray,
        n_items: int,
        *,
        neighbours: int,
        window: int,
        weights: PairWeights,
    ) -> None:
        super().__init__()
        items = torch.arange(n_items)[:, None].repeat(1, neighbours)
        counts = torch.zeros(n_items, neighbours)
        if not items.is_meta:
            _fill(items.numpy(), counts.numpy(), pair_counts(train, n_items, window))
        self.items = items
        """int64[I, K], neighbours by decreasing count; the item itself where there are fewer. On
        the host, as the weights: neighbourhoods are looked up there."""
        self.weights = counts.log1p() if weights == "log" else counts
        """float32[I, K], positive for a neighbour, 0 where there is none."""

    def __deepcopy__(self, memo: dict[int, object]) -> "NeighbourTable":
        """Return the table itself, which is constant and can be shared by copies of a model."""
        return self


def pair_counts(train: RaggedArray, n_items: int, window: int) -> tuple[Ints, Ints, Ints]:
    """Return (items, neighbours, counts) of all neighbours, by item, then by decreasing count.

    Of equal counts, the pair that occurs first in train comes first; within a session, pairs of
    adjacent items come before those of a larger distance.
    """
    values = train.values.astype(np.int64)
    rows = np.repeat(np.arange(len(train)), train.lengths)
    parts = []
    for distance in range(1, window + 1):
        first = np.flatnonzero(rows[distance:] == rows[:-distance])
        parts.append(np.stack([rows[first], values[first], values[first + distance]]))
    sessions, first_items, second_items = np.concatenate(parts, axis=1)
    order = np.argsort(sessions, kind="stable")
    first_items, second_items = first_items[order], second_items[order]
    keys = np.stack([first_items * n_items + second_items, second_items * n_items + first_items])
    keys, places, counts = np.unique(keys.T.ravel(), return_index=True, return_counts=True)
    items, neighbours = np.divmod(keys, max(1, n_items))
    order = np.lexsort((places, -counts, items))
    return items[order], neighbours[order], counts[order]


def _fill(
    table: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], pairs: tuple[Ints, Ints, Ints]
) -> None:
    """Write the first neighbours of each item into the rows of a table and of their counts."""
    items, neighbours, counts = pairs
    ranks = np.arange(len(items)) - np.searchsorted(items, items)
    kept = ranks < table.shape[1]
    table[items[kept], ranks[kept]] = neighbours[kept]
    weights[items[kept], ranks[kept]] = counts[kept]
