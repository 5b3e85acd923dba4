"""Reward smoothing: part of each reward goes to items that the same users interact with.

A log rewards one item where the user might have chosen others. This is label smoothing (Szegedy et
al. 2016) with item-to-item collaborative filtering (Sarwar et al. 2001) in place of the uniform
distribution.
"""

import itertools

import numpy as np
import torch
from scipy import sparse

from recoach.data.dataset import RaggedArray
from recoach.policy.rewards import Rewards

_SHRINKAGE = 5
"""Added to each item's number of users in the cosine: two rare items that share their only user
are not certainly similar."""
_PAIRS = 2**24
"""Maximum number of item pairs compared at a time, unless one item has more."""


class Smoothing:
    """Gives part of each reward to the rewarded item's neighbours.

    Args:
        train: the training histories; no held-out item can leak in.
        n_items: size of the catalogue.
        weight: part of a reward that goes to the neighbours, 0..1.
        count: maximum number of neighbours of an item. An item without neighbours keeps its reward.
    """

    def __init__(self, train: RaggedArray, n_items: int, weight: float, count: int) -> None:
        near = neighbours(train, n_items, count)
        has_neighbours = np.diff(near.indptr) > 0
        kept = sparse.diags_array(np.where(has_neighbours, 1 - weight, 1.0))
        self._matrix = (kept + weight * near).tocsr().astype(np.float32)

    def __call__(self, rewards: Rewards, n_states: int) -> Rewards:
        """Return the smoothed rewards of states 0..n_states - 1; sums of states stay the same."""
        index = rewards.states.numpy(), rewards.items.numpy()
        shape = n_states, self._matrix.shape[0]

        def smoothed(values: torch.Tensor) -> sparse.csr_array:
            matrix = sparse.csr_array((values.numpy(), index), shape=shape) @ self._matrix
            matrix.sort_indices()
            return matrix

        positive = bool((rewards.values > 0).all())
        pairs = smoothed(rewards.values if positive else torch.ones_like(rewards.values))
        states = np.repeat(np.arange(n_states), np.diff(pairs.indptr))

        def values_at_pairs(values: torch.Tensor) -> torch.Tensor:
            if positive and torch.equal(values, rewards.values):
                return torch.from_numpy(pairs.data)
            matrix = smoothed(values)  # may lack pairs whose value is 0
            return torch.from_numpy(np.asarray(matrix[states, pairs.indices], dtype=np.float32))

        parts = rewards.parts
        if parts is not None:
            smoothed_parts = [values_at_pairs(part) for part in parts]
            empty = parts.new_empty(0, pairs.nnz)
            parts = torch.stack(smoothed_parts) if smoothed_parts else empty
        items = torch.from_numpy(pairs.indices.astype(np.int64))
        return Rewards(torch.from_numpy(states), items, values_at_pairs(rewards.values), parts)


def neighbours(train: RaggedArray, n_items: int, count: int) -> sparse.csr_array:
    """Return float32[I, I] the weights of each item's nearest neighbours; a row sums to 1, or is 0.

    The similarity is a shrunk cosine, u_ij / sqrt((u_i + 5) (u_j + 5)), where u_ij is the number of
    users of both items. Ties (to the last bit) are broken by the lower item number.
    """
    users = np.repeat(np.arange(len(train)), train.lengths)
    pairs = np.ones(len(train.values), dtype=np.float32), (users, train.values)
    by_user = sparse.csr_array(pairs, shape=(len(train), n_items))
    by_user.data[:] = 1  # a repeated pair counts once
    by_item = by_user.T.tocsr()
    scale = sparse.diags_array((np.diff(by_item.indptr) + np.float32(_SHRINKAGE)) ** -0.5)
    unit = (scale @ by_item).tocsr()
    others = unit.T.tocsr()
    cuts = _block_edges(by_item, by_user)
    blocks = [_nearest(unit[a:b] @ others, a, count) for a, b in itertools.pairwise(cuts)]
    near = sparse.vstack(blocks, format="csr")
    total = np.asarray(near.sum(axis=1)).ravel()
    return (sparse.diags_array(1 / np.where(total > 0, total, 1)) @ near).tocsr()


def _block_edges(by_item: sparse.csr_array, by_user: sparse.csr_array) -> list[int]:
    """Return the edges of blocks of items that are compared with about `_PAIRS` items in all."""
    n_items = by_item.shape[0]
    compared = np.minimum(by_item @ np.diff(by_user.indptr).astype(float), n_items)
    block = np.cumsum(compared) // _PAIRS
    return [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), n_items]


def _nearest(cosines: sparse.csr_array, start: int, count: int) -> sparse.csr_array:
    """Return the `count` largest entries of each row, without item `start + row` itself."""
    cosines.sort_indices()
    items, values, ends = cosines.indices, cosines.data, cosines.indptr
    rows = np.repeat(np.arange(cosines.shape[0]), np.diff(ends))
    values[items == rows + start] = 0
    kept = values > 0
    for first, last in itertools.pairwise(ends):
        if last - first > count:
            row = values[first:last]
            least = np.partition(row, -count)[-count]
            kept[first:last] &= row > least
            equal = np.flatnonzero((row == least) & (least > 0))
            kept[first + equal[: count - int(kept[first:last].sum())]] = True
    entries = values[kept], (rows[kept], items[kept])
    return sparse.csr_array(entries, shape=cosines.shape)
