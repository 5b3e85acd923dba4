"""Ranking kernels: ranks of target items and top-k items under full ranking.

Ties and NaN scores count against the target. Masked (seen) items are left out of the ranking; the
target itself is never masked. Scores are computed in blocks of states. The size of a block depends
on the number of items only, so that results do not depend on the number of states in a call.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_SIZE = 256
_MAX_SCORES = 2**26
"""Scores in a block at most, 256 MiB: with more than 262,144 items a block has fewer states."""


class TopItems(NamedTuple):
    """The k items with the highest scores of each state, best first."""

    items: Tensor
    """int64[B, k]; -1 where a state has fewer than k items left."""
    scores: Tensor
    """float[B, k]; -inf where there is no item."""


@torch.no_grad()
def target_ranks(
    users: Tensor,
    items: Tensor,
    targets: tuple[Tensor, Tensor],
    seen: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the 1-based rank of each target among the items that are not masked for its state.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        targets: (int64[N] states, int64[N] items), sorted by state; a state may have none, one
            or several targets.
        seen: (int64[S] states, int64[S] items) to mask, sorted by state, no pair twice; None masks
            nothing.

    Returns:
        int64[N] ranks in 1..I.
    """
    target_states, target_items = targets
    ranks = torch.empty_like(target_states)
    buffer = _score_buffer(users, items)
    for start in range(0, len(users), len(buffer)):
        stop = start + len(buffer)
        scores = _block_scores(users, items, start, buffer)
        block = between(target_states, start, stop)
        rows, block_items = target_states[block] - start, target_items[block]
        target_scores = scores[rows, block_items]
        # The target counts as "not worse than itself", which makes the rank 1-based.
        ranks[block] = 0
        if seen is not None:
            pairs = between(seen[0], start, stop)
            ranks[block] -= _seen_not_worse(
                scores, (rows, block_items, target_scores), (seen[0][pairs] - start, seen[1][pairs])
            )
        ranks[block] += _count_not_worse(scores, rows, target_scores)
    return ranks


@torch.no_grad()
def top_items(
    users: Tensor,
    items: Tensor,
    k: int,
    seen: tuple[Tensor, Tensor] | None = None,
    *,
    block_size: int = BLOCK_SIZE,
) -> TopItems:
    """Return the k items with the highest scores of each state, without the masked ones.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        k: list length; at most I items are returned.
        seen: (int64[S] states, int64[S] items) to mask, sorted by state; None masks nothing.
        block_size: states per block; small for a server, whose requests hold few states.
    """
    k = min(k, len(items))
    best_items = torch.empty(len(users), k, dtype=torch.int64, device=users.device)
    best_scores = users.new_empty(len(users), k)
    buffer = _score_buffer(users, items, block_size)
    for start in range(0, len(users), len(buffer)):
        scores = _block_scores(users, items, start, buffer)
        if seen is not None:
            pairs = between(seen[0], start, start + len(buffer))
            scores[seen[0][pairs] - start, seen[1][pairs]] = -torch.inf
        rows = min(len(buffer), len(users) - start)
        values, index = scores[:rows].topk(k, dim=1)
        best_scores[start : start + rows] = values
        best_items[start : start + rows] = index.masked_fill(values == -torch.inf, -1)
    return TopItems(best_items, best_scores)


def _score_buffer(users: Tensor, items: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return float[b, I] that all blocks reuse: an allocation costs as much as the product."""
    rows = min(block_size, max(1, _MAX_SCORES // max(1, len(items))))
    return users.new_empty(rows, len(items))


def _block_scores(users: Tensor, items: Tensor, start: int, buffer: Tensor) -> Tensor:
    """Write the scores of the states from `start` on into the buffer and return it."""
    block = users[start : start + len(buffer)]
    missing = len(buffer) - len(block)
    # A product of another shape may round differently: the last block is padded with zeros.
    if missing:
        block = torch.cat([block, block.new_zeros(missing, block.shape[1])])
    return torch.mm(block, items.T, out=buffer)


def between(sorted_states: Tensor, start: int, stop: int) -> slice:
    """Return the slice of a sorted int64[S] that holds the states start..stop-1."""
    edges = torch.tensor([start, stop], device=sorted_states.device)
    low, high = torch.searchsorted(sorted_states, edges).tolist()
    return slice(low, high)


def _count_not_worse(scores: Tensor, rows: Tensor, target_scores: Tensor) -> Tensor:
    """Count the items that score at least as high as each target; overwrites `scores`.

    Comparisons are written and summed as floats, which is several times faster than bools on a
    CPU; the sums are exact up to 2^24 items.
    """
    one_per_row = torch.arange(len(scores), device=rows.device)
    if torch.equal(rows, one_per_row):  # the common case: no copy of the scores
        return scores.shape[1] - scores.lt_(target_scores[:, None]).sum(dim=1).to(rows.dtype)
    counts = torch.empty_like(rows)
    for start in range(0, len(rows), len(scores)):
        part = slice(start, start + len(scores))
        worse = scores[rows[part]] < target_scores[part, None]
        counts[part] = scores.shape[1] - worse.sum(dim=1)
    return counts


def _seen_not_worse(
    scores: Tensor, targets: tuple[Tensor, Tensor, Tensor], seen: tuple[Tensor, Tensor]
) -> Tensor:
    """Count the masked items of each target's state that score at least as high as the target."""
    rows, target_items, target_scores = targets
    seen_rows, seen_items = seen
    n_items = scores.shape[1]
    # All (target, masked item) pairs of the same state.
    first = torch.searchsorted(seen_rows, rows)
    count = torch.searchsorted(seen_rows, rows, right=True) - first
    target = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
    within = torch.arange(len(target), device=rows.device)
    within = within - torch.repeat_interleave(count.cumsum(0) - count, count)
    pair = first[target] + within
    masked_items = seen_items[pair]
    masked_scores = scores.view(-1)[rows[target] * n_items + masked_items]
    not_worse = ~(masked_scores < target_scores[target]) & (masked_items != target_items[target])
    return torch.zeros_like(rows).index_add_(0, target, not_worse.to(rows.dtype))
