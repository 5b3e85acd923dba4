"""Ranking kernels: ranks of target items and top-k items under full ranking.

Ties and NaN scores count against the target. Masked (seen) items are left out of the ranking; the
target itself is never masked. Scores are computed in blocks of states. The size of a block depends
on the number of items only, so that the ranks of dot products do not depend on the number of states
in a call.
"""

from typing import Any, NamedTuple, Protocol

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


class ScoreMatrix(Protocol):
    """The scores of B states for I items, computed a block of states at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(B, I)."""

    @property
    def device(self) -> torch.device:
        """The device of the scores."""

    def block(self, start: int, rows: int) -> Tensor:
        """Return the scores of the states start..start+rows-1.

        Args:
            start: the first state.
            rows: states of a block, the same number in all calls.

        Returns:
            float[n, I], contiguous, n at most `rows`; rows after the last state have arbitrary
            scores. The memory may be overwritten, and is reused by the next call.
        """


class DotProducts:
    """The scores of vectors; blocks share one buffer: an allocation costs as much as the product.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
    """

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self.users, self.items = users, items
        self._buffer = users.new_empty(0, len(items))

    @property
    def shape(self) -> tuple[int, int]:
        """(B, I)."""
        return len(self.users), len(self.items)

    @property
    def device(self) -> torch.device:
        """The device of the vectors."""
        return self.users.device

    def block(self, start: int, rows: int) -> Tensor:
        """Return float[rows, I], the scores of the states from `start` on, see `ScoreMatrix`."""
        if len(self._buffer) != rows:
            self._buffer = self.users.new_empty(rows, len(self.items))
        users = self.users[start : start + rows]
        missing = rows - len(users)
        # A product of another shape may round differently: the last block is padded with zeros.
        if missing:
            users = torch.cat([users, users.new_zeros(missing, users.shape[1])])
        return torch.mm(users, self.items.T, out=self._buffer)


def target_ranks(
    users: Tensor,
    items: Tensor,
    targets: tuple[Tensor, Tensor],
    seen: tuple[Any, ...] | None = None,
) -> Tensor:
    """Return the 1-based rank of each target under the scores of vectors, see `ranks_of_scores`.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        targets: see `ranks_of_scores`.
        seen: see `ranks_of_scores`.

    Returns:
        int64[N] ranks in 1..I.
    """
    return ranks_of_scores(DotProducts(users, items), targets, seen)


@torch.no_grad()
def ranks_of_scores(
    scores: ScoreMatrix,
    targets: tuple[Tensor, Tensor],
    seen: tuple[Any, ...] | None = None,
) -> Tensor:
    """Return the 1-based rank of each target among the items that are not masked for its state.

    Args:
        scores: of B states for I items.
        targets: (int64[N] states, int64[N] items), sorted by state; a state may have none, one
            or several targets.
        seen: (int64[S] states, int64[S] items) to mask, sorted by state, no pair twice; None masks
            nothing.

    Returns:
        int64[N] ranks in 1..I.
    """
    target_states, target_items = targets
    ranks = torch.empty_like(target_states)
    n_states, n_items = scores.shape
    rows_per_block = _rows_per_block(n_items)
    for start in range(0, n_states, rows_per_block):
        stop = start + rows_per_block
        block_scores = scores.block(start, rows_per_block)
        block = between((target_states,), start, stop)
        rows, block_items = target_states[block] - start, target_items[block]
        target_scores = block_scores[rows, block_items]
        # The target counts as "not worse than itself", which makes the rank 1-based.
        ranks[block] = 0
        if seen is not None:
            pairs = between(seen, start, stop)
            ranks[block] -= _seen_not_worse(
                block_scores,
                (rows, block_items, target_scores),
                (seen[0][pairs] - start, seen[1][pairs]),
            )
        ranks[block] += _count_not_worse(block_scores, rows, target_scores)
    return ranks


def top_items(
    users: Tensor,
    items: Tensor,
    k: int,
    seen: tuple[Any, ...] | None = None,
    *,
    block_size: int = BLOCK_SIZE,
) -> TopItems:
    """Return the k items with the highest scores of vectors, see `top_of_scores`.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        k: see `top_of_scores`.
        seen: see `top_of_scores`.
        block_size: see `top_of_scores`.
    """
    return top_of_scores(DotProducts(users, items), k, seen, block_size=block_size)


@torch.no_grad()
def top_of_scores(
    scores: ScoreMatrix,
    k: int,
    seen: tuple[Any, ...] | None = None,
    *,
    block_size: int = BLOCK_SIZE,
) -> TopItems:
    """Return the k items with the highest scores of each state, without the masked ones.

    Args:
        scores: of B states for I items.
        k: list length; at most I items are returned.
        seen: (int64[S] states, int64[S] items) to mask, sorted by state; None masks nothing.
        block_size: states per block; small for a server, whose requests hold few states.
    """
    n_states, n_items = scores.shape
    k, rows_per_block = min(k, n_items), _rows_per_block(n_items, block_size)
    best_items = [torch.empty(0, k, dtype=torch.int64, device=scores.device)]
    best_scores: list[Tensor] = []
    for start in range(0, n_states, rows_per_block):
        block_scores = scores.block(start, rows_per_block)
        if seen is not None:
            pairs = between(seen, start, start + rows_per_block)
            block_scores[seen[0][pairs] - start, seen[1][pairs]] = -torch.inf
        values, index = block_scores[: n_states - start].topk(k, dim=1)
        best_scores.append(values)
        best_items.append(index.masked_fill_(values == -torch.inf, -1))
    if not best_scores:
        best_scores = [torch.empty(0, k, device=scores.device)]
    return TopItems(torch.cat(best_items), torch.cat(best_scores))


def _rows_per_block(n_items: int, block_size: int = BLOCK_SIZE) -> int:
    return min(block_size, max(1, _MAX_SCORES // max(1, n_items)))


def between(pairs: tuple[Any, ...], start: int, stop: int) -> slice:
    """Return the slice of pairs, sorted by state, that holds the states start..stop-1."""
    host_states = getattr(pairs, "host_states", None)
    if host_states is not None:
        low, high = host_states.searchsorted([start, stop]).tolist()
        return slice(low, high)
    sorted_states = pairs[0]
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
