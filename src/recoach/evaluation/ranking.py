"""The ranking kernels: one place that decides who is ahead of whom.

Ties and NaN count against the target; a seen item cannot be ahead of anything; the target itself
is never masked. Scores are made in blocks whose size the catalogue alone decides, so that results
do not depend on how many states are asked for at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_SIZE = 256
_ROOM = 2**26
"""Scores held at once, 256 MiB: beyond 262,144 items a block has fewer states."""


class TopItems(NamedTuple):
    """The best items of each state, best first."""

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
    """Return the 1-based rank of each target among the items its state may be shown.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        targets: (int64[N] state, int64[N] item), sorted by state; a state may have any number.
        seen: (int64[S] state, int64[S] item), sorted by state, no pair twice; None masks nothing.

    Returns:
        int64[N] ranks in 1..I.
    """
    states, wanted = targets
    ranks = torch.empty_like(states)
    room = _room(users, items)
    for start in range(0, len(users), len(room)):
        stop = start + len(room)
        scores = _block_scores(users, items, start, room)
        which = between(states, start, stop)
        rows, own_items = states[which] - start, wanted[which]
        own = scores[rows, own_items]
        # The target is not worse than itself: that one stands for the 1 of a 1-based rank.
        ranks[which] = 0
        if seen is not None:
            pairs = between(seen[0], start, stop)
            ranks[which] -= _seen_not_worse(
                scores, (rows, own_items, own), (seen[0][pairs] - start, seen[1][pairs])
            )
        ranks[which] += _count_not_worse(scores, rows, own)
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
    """Return the k best items of each state among those it may be shown.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        k: list length; cut to I.
        seen: (int64[S] state, int64[S] item), sorted by state; None masks nothing.
        block_size: states scored together; a server, asked by few at once, takes a small one.
    """
    k = min(k, len(items))
    best_items = torch.empty(len(users), k, dtype=torch.int64, device=users.device)
    best_scores = users.new_empty(len(users), k)
    room = _room(users, items, block_size)
    for start in range(0, len(users), len(room)):
        scores = _block_scores(users, items, start, room)
        if seen is not None:
            pairs = between(seen[0], start, start + len(room))
            scores[seen[0][pairs] - start, seen[1][pairs]] = -torch.inf
        rows = min(len(room), len(users) - start)
        values, index = scores[:rows].topk(k, dim=1)
        best_scores[start : start + rows] = values
        best_items[start : start + rows] = index.masked_fill(values == -torch.inf, -1)
    return TopItems(best_items, best_scores)


def _room(users: Tensor, items: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return float[b, I] for every block to fill: fresh memory costs as much as a product."""
    rows = min(block_size, max(1, _ROOM // max(1, len(items))))
    return users.new_empty(rows, len(items))


def _block_scores(users: Tensor, items: Tensor, start: int, room: Tensor) -> Tensor:
    block = users[start : start + len(room)]
    short = len(room) - len(block)
    # A product of another shape may round differently: the last block is filled up.
    if short:
        block = torch.cat([block, block.new_zeros(short, block.shape[1])])
    return torch.mm(block, items.T, out=room)


def between(sorted_states: Tensor, start: int, stop: int) -> slice:
    """Return where the states start..stop-1 stand in a sorted int64[S]."""
    edges = torch.tensor([start, stop], device=sorted_states.device)
    low, high = torch.searchsorted(sorted_states, edges).tolist()
    return slice(low, high)


def _count_not_worse(scores: Tensor, rows: Tensor, own: Tensor) -> Tensor:
    """Count the items not worse than each target; overwrites the scores.

    Comparisons are written and summed as floats, which CPUs do several times faster than bools;
    the sums are exact up to 2^24 items.
    """
    one_each = torch.arange(len(scores), device=rows.device)
    if torch.equal(rows, one_each):  # the common case: no copy of the scores
        return scores.shape[1] - scores.lt_(own[:, None]).sum(dim=1).to(rows.dtype)
    counts = torch.empty_like(rows)
    for start in range(0, len(rows), len(scores)):
        part = slice(start, start + len(scores))
        counts[part] = scores.shape[1] - (scores[rows[part]] < own[part, None]).sum(dim=1)
    return counts


def _seen_not_worse(
    scores: Tensor, targets: tuple[Tensor, Tensor, Tensor], seen: tuple[Tensor, Tensor]
) -> Tensor:
    """Count, for each target, the seen items of its state that would be ahead of it."""
    rows, own_items, own = targets
    seen_rows, seen_items = seen
    width = scores.shape[1]
    # All (target, seen item) pairs of the same state.
    first = torch.searchsorted(seen_rows, rows)
    count = torch.searchsorted(seen_rows, rows, right=True) - first
    target = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
    within = torch.arange(len(target), device=rows.device)
    within = within - torch.repeat_interleave(count.cumsum(0) - count, count)
    pair = first[target] + within
    rival_items = seen_items[pair]
    rival = scores.view(-1)[rows[target] * width + rival_items]
    ahead = ~(rival < own[target]) & (rival_items != own_items[target])
    return torch.zeros_like(rows).index_add_(0, target, ahead.to(rows.dtype))
