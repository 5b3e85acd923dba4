"""Reward smoothing: a part of each reward goes to the items that the same users take.

A log pays for the one item a user took where many would have done; which, other users' histories
say. It is label smoothing (Szegedy et al. 2016) by item-to-item collaborative filtering (Sarwar
et al. 2001) in place of the uniform distribution.
"""

import itertools

import numpy as np
import torch
from scipy import sparse

from recoach.data.split import RaggedArray
from recoach.policy.rewards import Rewards

_SHRINKAGE = 5
"""Users added to each item's own when cosines are taken: two rare items that share their only
user are not alike for certain."""
_PAIRS = 2**24
"""Pairs of items that are compared at a time, at the most, or those of one item."""


class Smoothing:
    """Gives `share` of each reward to the rewarded item's neighbours.

    Args:
        train: the histories that say who took what; nothing held out can leak in.
        n_items: size of the catalogue.
        share: part of a reward that goes to the neighbours, 0..1.
        count: neighbours of an item at the most. An item nobody shares keeps all of its reward.
    """

    def __init__(self, train: RaggedArray, n_items: int, share: float, count: int) -> None:
        near = neighbours(train, n_items, count)
        known = np.diff(near.indptr) > 0
        own = sparse.diags_array(np.where(known, 1 - share, 1.0))
        self._spread = (own + share * near).tocsr().astype(np.float32)

    def __call__(self, rewards: Rewards, n_states: int) -> Rewards:
        """Return the rewards of states 0..n_states - 1, spread; their sums stay as they were."""
        index = rewards.states.numpy(), rewards.items.numpy()
        shape = n_states, self._spread.shape[0]

        def spread(values: torch.Tensor) -> sparse.csr_array:
            found = sparse.csr_array((values.numpy(), index), shape=shape) @ self._spread
            found.sort_indices()
            return found

        positive = bool((rewards.values > 0).all())
        every = spread(rewards.values if positive else torch.ones_like(rewards.values))
        states = np.repeat(np.arange(n_states), np.diff(every.indptr))

        def at_every(values: torch.Tensor) -> torch.Tensor:
            if positive and torch.equal(values, rewards.values):
                return torch.from_numpy(every.data)
            found = spread(values)  # without the zeros
            return torch.from_numpy(np.asarray(found[states, every.indices], dtype=np.float32))

        parts = rewards.parts
        if parts is not None:
            spread_parts = [at_every(part) for part in parts]
            parts = torch.stack(spread_parts) if spread_parts else parts.new_empty(0, every.nnz)
        items = torch.from_numpy(every.indices.astype(np.int64))
        return Rewards(torch.from_numpy(states), items, at_every(rewards.values), parts)


def neighbours(train: RaggedArray, n_items: int, count: int) -> sparse.csr_array:
    """Return float32[I, I] the weights of each item's nearest neighbours; a row sums to 1, or is 0.

    Items are near by the cosine of who took them, u_ij / sqrt((u_i + 5) (u_j + 5)) with u_ij the
    users of both; of equal ones (to the last bit) the lower number comes first.
    """
    users = np.repeat(np.arange(len(train)), train.lengths)
    pairs = np.ones(len(train.values), dtype=np.float32), (users, train.values)
    taken = sparse.csr_array(pairs, shape=(len(train), n_items))
    taken.data[:] = 1  # a pair taken twice is one user
    of_items = taken.T.tocsr()
    scale = sparse.diags_array((np.diff(of_items.indptr) + np.float32(_SHRINKAGE)) ** -0.5)
    unit = (scale @ of_items).tocsr()
    others = unit.T.tocsr()
    cuts = _cuts(of_items, taken)
    blocks = [_nearest(unit[a:b] @ others, a, count) for a, b in itertools.pairwise(cuts)]
    near = sparse.vstack(blocks, format="csr")
    total = np.asarray(near.sum(axis=1)).ravel()
    return (sparse.diags_array(1 / np.where(total > 0, total, 1)) @ near).tocsr()


def _cuts(of_items: sparse.csr_array, taken: sparse.csr_array) -> list[int]:
    """Return where to cut the items, for blocks whose users have taken about `_PAIRS` pairs."""
    n_items = of_items.shape[0]
    met = np.minimum(of_items @ np.diff(taken.indptr).astype(float), n_items)
    block = np.cumsum(met) // _PAIRS
    return [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), n_items]


def _nearest(cosines: sparse.csr_array, start: int, count: int) -> sparse.csr_array:
    """Keep the `count` largest of each row, without item `start + row` itself."""
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
    found = values[kept], (rows[kept], items[kept])
    return sparse.csr_array(found, shape=cosines.shape)
