"""Tables of the k best related items of each item, and scores that are read from them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from recoach.data.dataset import RaggedArray


class ItemTable(NamedTuple):
    """The related items of each item, the best first."""

    items: Tensor
    """int64[I+1, k], padded with I; the last row belongs to the padding item."""
    weights: Tensor
    """float32[I+1, k], positive; 0 for the padding."""


def item_table(
    rows: npt.NDArray[np.integer],
    columns: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    shape: tuple[int, int],
) -> ItemTable:
    """Return the k largest weights of each row; of equal weights the lower column comes first.

    Args:
        rows: int[n] item of each weight.
        columns: int[n] related item, no (row, column) twice.
        weights: float[n].
        shape: (I, k).
    """
    n_items, k = shape
    kept = largest_of_rows(rows, columns, weights, k)
    rows = rows[kept]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    width = int(rank.max(initial=-1)) + 1
    items = np.full((n_items + 1, width), n_items, dtype=np.int64)
    values = np.zeros((n_items + 1, width), dtype=np.float32)
    items[rows, rank] = columns[kept]
    values[rows, rank] = weights[kept]
    return ItemTable(torch.from_numpy(items), torch.from_numpy(values))


def largest_of_rows(
    rows: npt.NDArray[np.integer],
    columns: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    k: int,
) -> npt.NDArray[np.int64]:
    """Return the indices of the k largest weights of each row, by row, the largest first.

    Of equal weights the one with the lower column comes first.
    """
    order = np.lexsort((columns, -weights, rows))
    rows = rows[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return order[rank < k]


def table_scores(table: ItemTable, history: Tensor, unscored: Tensor) -> Tensor:
    """Return the sum of the weights from the items of each history to every item.

    Args:
        table: the related items.
        history: int64[B, T] items, padded with I.
        unscored: float32[I] the scores of items that no item of the history relates to.

    Returns:
        float32[B, I].
    """
    n_items, width = len(table.items) - 1, table.items.shape[1]
    sums = torch.zeros(len(history), n_items + 1, device=history.device)
    states_at_once = max(1, 2**22 // max(1, history.shape[1] * width))
    for start in range(0, len(history), states_at_once):
        part = history[start : start + states_at_once]
        related, weights = table.items[part].flatten(1), table.weights[part].flatten(1)
        sums[start : start + states_at_once].scatter_add_(1, related, weights)
    scores = sums[:, :-1]
    return torch.where(scores > 0, scores, unscored)


def interaction_matrix(train: RaggedArray, n_items: int) -> sparse.csr_matrix:
    """Return the sparse matrix, float32[U, I], with a one for each item of each row of train."""
    ones = np.ones(len(train.values), dtype=np.float32)
    shape = (len(train), n_items)
    matrix = sparse.csr_matrix((ones, train.values.astype(np.int64), train.offsets), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
