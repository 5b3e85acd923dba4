"""Draws from rows of probabilities: with replacement, without, and as ranked lists."""

import torch
from torch import Tensor

_LIST_DRAWS_PER_PLACE = 3
"""Draws for each place of a list, so that enough of them differ."""
_LISTS_PER_COMPLETION = 256
"""Incomplete lists completed at once; each needs a row of the catalogue."""


def draw_items(p: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw items from each row with replacement, sorted.

    The uniforms are generated in ascending order (as normalised sums of exponentials), so that the
    search through the cumulative probabilities and all later gathers walk forward through memory.

    Args:
        p: float[B, I] probabilities; overwritten.
        count: draws for each row.
        generator: on the device of `p`.

    Returns:
        int64[B, count].
    """
    mass = p.cumsum_(dim=1)
    shape = (len(p), count + 1)
    # Twice as fast as exponential_; 1 - rand is never 0.
    gaps = 1 - torch.rand(shape, generator=generator, dtype=mass.dtype, device=mass.device)
    points = gaps.log_().cumsum_(dim=1)
    uniform = points[:, :-1] * (mass[:, -1:] / points[:, -1:])
    highest = torch.nextafter(mass[:, -1:], mass.new_zeros(()))
    return torch.searchsorted(mass, uniform.clamp_(max=highest), right=True)


def draw_distinct_items(p: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw items from each row without replacement, sorted.

    An exponential race: the first `count` arrivals at rates p are a draw without replacement.

    Args:
        p: float[B, I] probabilities; overwritten.
        count: different items for each row; at most the number of items with p > 0.
        generator: on the device of `p`.

    Returns:
        int64[B, count].
    """
    arrivals = _inverse_arrival_times(p, generator)
    return arrivals.topk(count, dim=1, sorted=False).indices.sort(dim=1).values


def draw_ranked_lists(
    p: Tensor, items: Tensor, shape: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Turn draws with replacement into Plackett-Luce lists of different items, best first.

    Draws with replacement, in random order and without repetitions, are such a list. Where fewer
    than `length` items differ, the remaining places are drawn from the remaining items.

    Args:
        p: float[B, I] probabilities.
        items: int64[B, count * draws_per_list(length)], sorted draws from the rows of `p`.
        shape: (count, length) lists for each row and items in a list.
        generator: on the device of `p`.

    Returns:
        int64[B, count, length].
    """
    count, length = shape
    rand = torch.rand(items.shape, generator=generator, device=items.device)
    lists = items.gather(1, rand.argsort(dim=1)).view(len(p), count, draws_per_list(length))
    order = lists.argsort(dim=2, stable=True)
    ranked = lists.gather(2, order)
    again = torch.zeros_like(ranked, dtype=torch.bool)
    again[:, :, 1:] = ranked[:, :, 1:] == ranked[:, :, :-1]
    repeated = torch.zeros_like(again).scatter_(2, order, again)
    first_occurrences = repeated.byte().argsort(dim=2, stable=True)[:, :, :length]
    n_distinct = (~repeated).sum(dim=2)
    lists = lists.gather(2, first_occurrences)
    for incomplete in torch.split(torch.nonzero(n_distinct < length), _LISTS_PER_COMPLETION):
        rows, numbers = incomplete.T
        lists[rows, numbers] = _completed(
            lists[rows, numbers], n_distinct[rows, numbers][:, None], p[rows], generator
        )
    return lists


def draws_per_list(length: int) -> int:
    """Return how many draws with replacement `draw_ranked_lists` needs for a list."""
    return _LIST_DRAWS_PER_PLACE * length


def _completed(lists: Tensor, n_distinct: Tensor, p: Tensor, generator: torch.Generator) -> Tensor:
    """Fill the places of int64[n, L] lists after their first `n_distinct` int64[n, 1] items."""
    length = lists.shape[1]
    places = torch.arange(length, device=lists.device)
    remaining = p.to(torch.promote_types(p.dtype, torch.float32))
    remaining.scatter_(1, torch.where(places < n_distinct, lists, lists[:, :1]), 0)
    rest = _inverse_arrival_times(remaining, generator).topk(length, dim=1).indices
    rest = rest.gather(1, (places - n_distinct).clamp(min=0))
    return torch.where(places < n_distinct, lists, rest)


def _inverse_arrival_times(p: Tensor, generator: torch.Generator) -> Tensor:
    """Return 1 / arrival time of items that arrive at rate p; overwrites p."""
    rand = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=p.device)
    return p.div_((1 - rand).log_().neg_().clamp_(min=1e-37))  # 1 - rand is never 0
