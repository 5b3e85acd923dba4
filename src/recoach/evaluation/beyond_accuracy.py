"""Beyond-accuracy metrics of recommendation lists: coverage, popularity, novelty, diversity.

The popularity of an item is its number of training interactions. All metrics are computed from the
log; no item features are needed.
"""

import numpy as np
from scipy import sparse

from recoach.data.dataset import RaggedArray

_LISTS_AT_ONCE = 2048


def list_metrics(lists: np.ndarray, train: RaggedArray, n_items: int) -> dict[str, float]:
    """Return coverage, Gini, popularity, novelty and diversity of lists, named like "gini@10".

    Args:
        lists: int[B, k] items, best first; -1 after the end of a shorter list.
        train: the training histories.
        n_items: number of items in the catalogue.

    Returns:
        `coverage`: fraction of all items that are in at least one list. `gini`: Gini coefficient
        of the exposure of items, 0 if all have the same, near 1 if few have all of it.
        `popularity`: mean popularity of the recommended items. `novelty`: mean -log2 of the
        fraction of users with the item in their history (at least one user is counted).
        `diversity`: 1 - mean cosine similarity of the item pairs within a list, where an item is
        the binary vector of its users.
    """
    k = lists.shape[1]
    recommended = lists[lists >= 0]
    exposure = np.bincount(recommended, minlength=n_items)
    popularity = np.bincount(train.values, minlength=n_items)
    n_users = np.maximum(np.diff(_item_user_matrix(train, n_items).indptr), 1)
    return {
        f"coverage@{k}": float((exposure > 0).mean()),
        f"gini@{k}": gini(exposure),
        f"popularity@{k}": float(popularity[recommended].mean()),
        f"novelty@{k}": float(-np.log2(n_users[recommended] / len(train)).mean()),
        f"diversity@{k}": _diversity(lists, train, n_items),
    }


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of counts, 0 if all are equal.

    Args:
        counts: int64[I] >= 0, not all 0.
    """
    ascending = np.sort(counts).astype(np.float64)
    weights = 2 * np.arange(1, len(ascending) + 1) - len(ascending) - 1
    return float((weights * ascending).sum() / (len(ascending) * ascending.sum()))


def _item_user_matrix(train: RaggedArray, n_items: int) -> sparse.csr_matrix:
    """Return the binary items × users matrix of the training interactions."""
    users = np.repeat(np.arange(len(train)), train.lengths)
    ones = np.ones(len(train.values), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (train.values, users)), shape=(n_items, len(train)))
    matrix.data[:] = 1
    return matrix


def _diversity(lists: np.ndarray, train: RaggedArray, n_items: int) -> float:
    """Return 1 - mean cosine over the pairs within lists; 0 if there are no pairs.

    The squared norm of the sum of a list's unit vectors is the sum of the cosines of all its
    ordered pairs, plus 1 for each item with users.
    """
    matrix = _item_user_matrix(train, n_items)
    norms = np.sqrt(np.diff(matrix.indptr))
    unit_vectors = (sparse.diags(1 / np.maximum(norms, 1)) @ matrix).tocsr()
    similarity, n_pairs = 0.0, 0
    for start in range(0, len(lists), _LISTS_AT_ONCE):
        part = lists[start : start + _LISTS_AT_ONCE]
        rows, columns = np.nonzero(part >= 0)
        items = part[rows, columns]
        indicator = sparse.csr_matrix(
            (np.ones(len(items), dtype=np.float32), (rows, items)), shape=(len(part), n_items)
        )
        sums = indicator @ unit_vectors
        n_with_users = np.bincount(rows, weights=norms[items] > 0, minlength=len(part))
        sizes = np.bincount(rows, minlength=len(part))
        similarity += float(sums.multiply(sums).sum() - n_with_users.sum())
        n_pairs += int((sizes * (sizes - 1)).sum())
    return 1 - similarity / n_pairs if n_pairs else 0.0
