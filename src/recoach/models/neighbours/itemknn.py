"""Item-kNN: items that occur in the same sessions, or with the same users."""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import sparse
from torch import Tensor

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import (
    HistoryConfig,
    HistoryModel,
    last_items,
    state_histories,
)
from recoach.models.neighbours.item_table import (
    ItemTable,
    interaction_matrix,
    item_table,
    largest_of_rows,
    table_scores,
)

_PRODUCTS = 2**26
"""Multiplications of one sparse product, about 1 GiB of results at most."""


class ItemKNNConfig(HistoryConfig):
    """Settings of ItemKNN; `shrinkage = 0` with `alpha = 0.5` is the cosine of RecBole and BARS."""

    query: Literal["history", "last"] = "history"
    """Items whose neighbours are scored: all distinct ones of the history, or the last one (as
    usual for sessions)."""
    neighbours: int = Field(default=100, gt=0)
    """Most similar items kept for each item."""
    shrinkage: float = Field(default=20.0, ge=0)
    """Added to the support of both items, so that rare pairs are less similar."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Exponent of the support of the item of the history; that of the scored item has 1 - alpha."""


class ItemKNN(HistoryModel):
    """Score items by their co-occurrence with the items of the history.

        sim(i, j) = co(i, j) / ((n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha))

    co(i, j) is the number of training rows (users or sessions) with both items, n_i that with item
    i. Each item i keeps its most similar j != i (Deshpande and Karypis 2004), and the score of j is
    the sum over the query items i. A repeated item counts once.
    """

    config: ItemKNNConfig

    def fit(self, train: RaggedArray) -> None:
        """Compute the most similar items of each item."""
        matrix = interaction_matrix(train, self.n_items)
        table = _similar_items(matrix, self.config)
        self.register_buffer("similar_items", table.items, persistent=False)
        self.register_buffer("similarities", table.weights, persistent=False)

    def catalogue_scores(self, queries: Queries) -> Tensor:
        """Return the sums of the similarities to the query items, see `HistoryModel`."""
        table = ItemTable(self.get_buffer("similar_items"), self.get_buffer("similarities"))
        if self.config.query == "last":
            history = last_items(queries, self.n_items)[:, None]
        else:
            history = distinct(state_histories(queries, self.n_items), self.n_items)
        return table_scores(table, history, self.get_buffer("popularity_scores"))


def distinct(history: Tensor, n_items: int) -> Tensor:
    """Return int64[B, T], sorted histories in which the padding I replaces repetitions."""
    items = history.sort(dim=1).values
    repeats = items[:, 1:] == items[:, :-1]
    items[:, 1:] = items[:, 1:].masked_fill(repeats, n_items)
    return items


def _similar_items(matrix: sparse.csr_matrix, config: ItemKNNConfig) -> ItemTable:
    """Return the most similar items of a matrix [rows, I] of ones, one block of items at a time."""
    n_items, by_item = matrix.shape[1], matrix.T.tocsr()
    support = np.diff(by_item.indptr) + config.shrinkage
    # Zero support occurs only in items without a pair.
    support = np.maximum(support, 1e-12)
    block_of = np.cumsum(np.diff(matrix.indptr) @ matrix) // _PRODUCTS
    parts = []
    for items in np.split(np.arange(n_items), np.flatnonzero(np.diff(block_of)) + 1):
        pairs = (by_item[items] @ matrix).tocoo()
        rows, columns = items[pairs.row], pairs.col
        norms = support[rows] ** config.alpha * support[columns] ** (1 - config.alpha)
        weights = np.where(rows == columns, 0, pairs.data / norms)
        kept = largest_of_rows(rows, columns, weights, config.neighbours + 1)
        kept = kept[weights[kept] > 0]
        parts.append((rows[kept], columns[kept], weights[kept]))
    rows, columns, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return item_table(rows, columns, weights, (n_items, config.neighbours))
