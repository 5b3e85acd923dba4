"""The rewards of drawn items, found among the rewarded pairs."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from recoach.data import transfer

_MOST_ITEMS: Final = 2**31
"""More than any catalogue holds: pairs (state, item) are searched for by one number."""


def lookup_rewards(items: Tensor, pairs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return float[B, G], the reward of each item of each state, 0 for unlisted items.

    Args:
        items: int64[B, G], each row sorted, so that the copies of an item are adjacent.
        pairs: state, item and value of the rewarded pairs.
    """
    states, rewarded, values = pairs
    rows = torch.arange(len(items), device=items.device)
    keys = (items + rows[:, None] * _MOST_ITEMS).view(-1)
    pair_keys = states * _MOST_ITEMS + rewarded
    first = torch.searchsorted(keys, pair_keys)
    count = torch.searchsorted(keys, pair_keys, right=True) - first
    total = items.numel()
    if transfer.is_read_free(items):
        n_copies = None
    else:
        # In fixed shapes: a last pair stands for all other items, and is written behind the rest.
        n_copies, others = total, (total - count.sum())[None]
        count, first = torch.cat([count, others]), functional.pad(first, (0, 1))
        values = functional.pad(values, (0, 1))
    numbers = torch.arange(len(count), device=items.device)
    pair = torch.repeat_interleave(numbers, count, output_size=n_copies)
    within = torch.arange(len(pair), device=items.device) - (count.cumsum(0) - count)[pair]
    places = first[pair] + within
    if n_copies is not None:
        places = places.where(pair < len(rewarded), total)
    rewards = values.new_zeros(total + 1)
    rewards[places] = values[pair]
    return rewards[:total].view(items.shape)
