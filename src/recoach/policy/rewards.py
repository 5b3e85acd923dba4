"""Verifiable rewards: what a logged future says an action was worth."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach.data.batch import Batch, Seen
from recoach.data.split import Ragged

RewardName = Literal["next", "future", "train_set"]


class Rewards(NamedTuple):
    """The rewarded items of each state; every other item is worth 0."""

    states: Tensor
    """int64[N] sorted."""
    items: Tensor
    """int64[N], no pair (state, item) twice."""
    values: Tensor
    """float32[N] > 0."""

    def to(self, device: torch.device) -> "Rewards":
        """Return the same rewards on another device."""
        return Rewards(*(tensor.to(device) for tensor in self))


def future_items(batch: Batch, train: Ragged, *, horizon: int, discount: float) -> Rewards:
    """Reward an item the user takes k interactions later with `discount ** (k - 1)`, k <= horizon.

    A horizon of 1 is the next-item reward of the paper. An item taken more than once counts at
    its first place.

    Args:
        batch: states with the places of their next items.
        train: the training histories those places point into; nothing held out can leak in.
        horizon: number of coming interactions looked at.
        discount: in (0, 1].
    """
    users = batch.queries.state_users.cpu().numpy()
    steps = batch.positions[:, None] + np.arange(horizon)
    inside = steps < train.offsets[users + 1][:, None]
    states, ahead = np.nonzero(inside)
    items = train.values[steps[inside]].astype(np.int64)
    values = discount ** ahead.astype(np.float64)
    return _distinct(states, items, values, train)


def train_set(batch: Batch, train: Ragged) -> Rewards:
    """Reward every training item of the state's user with 1 (the paper's reading for graphs)."""
    users = batch.queries.state_users.cpu().numpy()
    counts = train.lengths[users]
    states = np.repeat(np.arange(len(users)), counts)
    within = np.arange(len(states)) - np.repeat(np.cumsum(counts) - counts, counts)
    items = train.values[train.offsets[users][states] + within].astype(np.int64)
    return _distinct(states, items, np.ones(len(items)), train)


def without_seen(rewards: Rewards, seen: Seen) -> Rewards:
    """Drop rewards that no shown item can earn, because the policy masks them.

    Args:
        rewards: as drawn from the log.
        seen: the masked items of the same states.
    """
    width = int(torch.cat([rewards.items, seen.items]).max()) + 1 if len(seen.items) else 1
    earned = ~torch.isin(rewards.states * width + rewards.items, seen.states * width + seen.items)
    return Rewards(*(tensor[earned] for tensor in rewards)) if len(seen.items) else rewards


def _distinct(states: np.ndarray, items: np.ndarray, values: np.ndarray, train: Ragged) -> Rewards:
    width = int(train.values.max(initial=0)) + 1
    # np.unique keeps the first of equal keys: the nearest, most rewarded place.
    keys, first = np.unique(states * width + items, return_index=True)
    return Rewards(
        torch.from_numpy(keys // width),
        torch.from_numpy(keys % width),
        torch.from_numpy(values[first].astype(np.float32)),
    )
