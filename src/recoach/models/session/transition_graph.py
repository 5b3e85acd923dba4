"""The directed graph of transitions between items in the training sessions (COTREC)."""

from typing import Literal

import numpy as np
from scipy import sparse

from recoach.data.dataset import RaggedArray
from recoach.models.sparse_product import SparseProduct

Normalisation = Literal["rows", "columns"]


def transition_graph(
    train: RaggedArray, n_items: int, normalisation: Normalisation = "rows"
) -> SparseProduct:
    """Return the normalised transitions of the training sessions as a matrix that multiplies.

    Entry (i, j) counts how often j directly follows i. An item that is followed by another one at
    least once gets 1 on the diagonal; one that is seen only at the end of sessions, or never, has
    an empty row.

    Args:
        train: the training sessions, one row each.
        n_items: size of the catalogue.
        normalisation: whether rows are divided by their sums (the paper), or columns (the code).

    Returns:
        float[I, I].
    """
    is_followed = np.ones(len(train.values), dtype=bool)
    is_followed[train.offsets[1:][train.lengths > 0] - 1] = False
    places = np.flatnonzero(is_followed)
    sources, receivers = train.values[places], train.values[places + 1]
    followed_items = np.unique(sources)
    rows = np.concatenate([sources, followed_items])
    columns = np.concatenate([receivers, followed_items])
    matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n_items, n_items))
    sums = np.asarray(matrix.sum(axis=1 if normalisation == "rows" else 0)).ravel()
    scale = sparse.diags(1 / np.maximum(sums, 1))  # an item without entries has the sum 0
    return SparseProduct(scale @ matrix if normalisation == "rows" else matrix @ scale)
