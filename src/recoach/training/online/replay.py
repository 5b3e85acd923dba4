"""A replay buffer whose content is part of checkpoints."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recoach.training.online.rollouts import Rollout
from recoach.training.online.states import States


class Replayed(NamedTuple):
    """B transitions."""

    states: States
    actions: Tensor
    """int64[B]."""
    rewards: Tensor
    """float[B]."""
    next_states: States
    terminated: Tensor
    """bool[B], whether the next state has no value."""


class ReplayBuffer(nn.Module):
    """The last transitions of single-item actions; the oldest are overwritten.

    Args:
        capacity: number of transitions.
        like: a state, which gives shapes and dtypes.
    """

    count: Tensor

    def __init__(self, capacity: int, like: States) -> None:
        super().__init__()
        self.capacity = capacity
        for side in ("state", "next"):
            for name, values in zip(States._fields, like, strict=True):
                empty = values.new_zeros(capacity, *values.shape[1:])
                self.register_buffer(f"{side}_{name}", empty)
        self.register_buffer("actions", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("rewards", torch.zeros(capacity))
        self.register_buffer("terminated", torch.zeros(capacity, dtype=torch.bool))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(self.capacity, int(self.count))

    def add(self, rollout: Rollout) -> None:
        """Append the active turns of a rollout, the last `capacity` of them."""
        rows = rollout.rows[-self.capacity :]
        n = rollout.rewards.shape[1]
        places = (int(self.count) + torch.arange(len(rows))) % self.capacity
        for side, index in (("state", rows), ("next", rows + n)):
            for name, values in zip(States._fields, rollout.states.select(index), strict=True):
                self.get_buffer(f"{side}_{name}")[places] = values
        self.get_buffer("actions")[places] = rollout.actions.flatten(0, 1)[rows, 0]
        self.get_buffer("rewards")[places] = rollout.rewards.flatten()[rows]
        self.get_buffer("terminated")[places] = rollout.terminated.flatten()[rows]
        self.count += len(rows)

    def draw(self, size: int, generator: torch.Generator) -> Replayed:
        """Draw transitions uniformly, with replacement."""
        places = torch.randint(len(self), (size,), generator=generator)
        sides = (
            States(*(self.get_buffer(f"{side}_{name}")[places] for name in States._fields))
            for side in ("state", "next")
        )
        states, next_states = sides
        parts = (self.get_buffer(n)[places] for n in ("actions", "rewards", "terminated"))
        actions, rewards, terminated = parts
        return Replayed(states, actions, rewards, next_states, terminated)
