"""Transitions of a batch: state, logged action, reward, next state, and how the episode ends."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recoach.data.batches import Batch
from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.episodes import Doubles, Episodes
from recoach.data.interactions import LongArray
from recoach.data.queries import Queries, Seen, column_padding, column_windows, masked_items
from recoach.data.transfer import to_device
from recoach.errors import ConfigError
from recoach.policy.reward_lookup import lookup_rewards
from recoach.policy.rewards import Rewards


class Transitions(NamedTuple):
    """One transition for each of B states; the state is the batch's query.

    A value-based target bootstraps from the next state unless the transition is terminated.
    """

    actions: Tensor
    """int64[B] the item that the user interacted with next."""
    rewards: Tensor
    """float32[B] the reward of the action; 0 for an action that the policy masks."""
    next_queries: Queries | None
    """The states after the actions, built from training items only; None for a model that reads no
    history."""
    terminated: Tensor
    """bool[B] whether the episode ends with this action: the user's whole log (train, valid and
    test), or the session."""
    truncated: Tensor
    """bool[B] whether the training history, or the window cut from it, ends with this action
    although the episode goes on."""
    masked: Tensor
    """bool[B] whether the policy masks the action: the user has interacted with it before."""
    discounts: Tensor
    """float32[B] the factor of the next state's value; 0 after a terminated transition."""
    next_actions: Tensor
    """int64[B] the item after the action in the same episode of train, -1 where there is none."""
    remaining: Tensor
    """int64[B] number of events after the action in its episode, so far as it is in train."""
    elapsed: Tensor
    """int64[B] number of events before the action in its episode."""

    def to(self, device: torch.device) -> "Transitions":
        """Return the same transitions on another device."""
        queries = None if self.next_queries is None else self.next_queries.to(device)
        fields = self._asdict() | {"next_queries": None}
        moved = {n: to_device(value, device) for n, value in fields.items() if value is not None}
        return Transitions(next_queries=queries, **moved)


@dataclass(frozen=True, slots=True)
class TransitionBuilder:
    """Builds the transitions of batches of states, on the CPU."""

    dataset: Dataset
    """Its training histories hold the states."""
    episodes: Episodes
    """Of the training histories."""
    discounts: Doubles
    """float64[m], see `Episodes.discounts`."""
    history_length: int
    """Items that the model reads; 0 makes every transition terminated, because the model's state
    does not change with the action (a contextual bandit)."""
    mask_seen: bool
    """Whether the policy masks seen items, in the next states too."""
    negatives: RaggedArray | None = None
    """Items that users rejected, which the policy masks after that."""

    def build(self, batch: Batch, rewards: Rewards) -> Transitions:
        """Return the transitions of a batch of states.

        Args:
            batch: states with their next items.
            rewards: of the same states.

        Raises:
            ConfigError: the states have no next items.
        """
        train, queries = self.dataset.train, batch.queries
        users = queries.state_users.numpy()
        if bool((batch.positions >= train.offsets[users + 1]).any()):
            raise ConfigError(
                "transitions need a next item for every state, which state 'user' does not have; "
                "use state 'prefix' or 'last_prefix'."
            )
        column = batch.targets[:, None]
        values = lookup_rewards(column, (rewards.states, rewards.items, rewards.values))[:, 0]
        ends = batch.positions - train.offsets[users]
        seen = self._masked_items(users, ends)
        masked = torch.zeros(len(queries), dtype=torch.bool)
        if seen is not None:
            ones = torch.ones(len(seen.items))
            masked = lookup_rewards(column, (seen.states, seen.items, ones))[:, 0] > 0
        remaining = self.episodes.last[batch.positions] - batch.positions
        elapsed = batch.positions - self.episodes.first[batch.positions]
        shared: dict[str, Tensor] = {
            "actions": batch.targets,
            "rewards": values,
            "masked": masked,
            "next_actions": self._next_actions(batch.positions, remaining),
            "remaining": torch.from_numpy(remaining),
            "elapsed": torch.from_numpy(elapsed),
        }
        if not self.history_length:
            everywhere = torch.ones(len(queries), dtype=torch.bool)
            return Transitions(
                next_queries=None,
                terminated=everywhere,
                truncated=~everywhere,
                discounts=torch.zeros(len(queries)),
                **shared,
            )
        is_closed = self.episodes.is_closed[batch.positions]
        terminated = torch.from_numpy((remaining == 0) & is_closed)
        following = self._next_queries(batch)
        return Transitions(
            next_queries=replace(following, seen=self._masked_items(users, ends + 1)),
            terminated=terminated,
            truncated=(queries.ends == queries.lengths[queries.rows]) & ~terminated,
            discounts=torch.from_numpy(self.discounts[batch.positions]).float(),
            **shared,
        )

    def _next_queries(self, batch: Batch) -> Queries:
        """Return the states after the actions; states that share a row still do."""
        train, queries, positions = self.dataset.train, batch.queries, batch.positions
        append = _Append(queries, self.history_length)
        columns = train.keep_columns(list(queries.columns)).columns
        of_actions = column_windows(columns, positions, positions + 1)
        return Queries(
            users=torch.cat([queries.users, queries.users[append.full_rows]]),
            history=append(queries.history, batch.targets, self.dataset.n_items),
            lengths=append.lengths,
            rows=append.state_rows,
            ends=append.ends,
            columns={
                name: append(queries.columns[name], values[:, 0], column_padding(columns[name]))
                for name, values in of_actions.items()
            },
            only_trained_users=True,
        )

    def _masked_items(self, users: LongArray, ends: LongArray) -> Seen | None:
        """Return the items that the policy masks in states after `ends` events."""
        states = (users, ends)
        return masked_items(self.dataset.train, states, self.negatives, mask_seen=self.mask_seen)

    def _next_actions(self, positions: LongArray, remaining: LongArray) -> Tensor:
        values = self.dataset.train.values
        following = values[np.minimum(positions + 1, len(values) - 1)].astype(np.int64)
        return torch.from_numpy(np.where(remaining > 0, following, -1))


class _Append:
    """Appends the actions of states to the rows that the states are read from.

    A row that is not full gets its last action appended. For a full row, the state after its last
    action is read from a new row without the first item; the new rows follow the others.
    """

    def __init__(self, queries: Queries, length: int) -> None:
        last = torch.nonzero(queries.ends == queries.lengths[queries.rows])[:, 0]
        rows = queries.rows[last]
        is_full = queries.lengths[rows] >= length
        self._length = length
        self._open, self._open_rows = last[~is_full], rows[~is_full]
        self._full, self.full_rows = last[is_full], rows[is_full]
        self._places = queries.lengths[self._open_rows]
        new_lengths = queries.lengths.clone()
        new_lengths[self._open_rows] += 1
        n_new = len(self._full)
        self.lengths = torch.cat([new_lengths, new_lengths.new_full((n_new,), length)])
        self.state_rows, self.ends = queries.rows.clone(), queries.ends + 1
        self.state_rows[self._full] = len(new_lengths) + torch.arange(n_new)
        self.ends[self._full] = length

    def __call__(self, values: Tensor, of_actions: Tensor, padding: int) -> Tensor:
        """Return the rows with the actions.

        Args:
            values: [R, T] items of the rows, or a column of them.
            of_actions: [B] the same of the states' actions.
            padding: what stands behind the end of a row.
        """
        rows = functional.pad(values, (0, 1), value=padding)
        rows[self._open_rows, self._places] = of_actions[self._open]
        kept = values[self.full_rows, 1 : self._length]
        new_rows = torch.cat([kept, of_actions[self._full][:, None]], dim=1)
        new_rows = functional.pad(new_rows, (0, rows.shape[1] - new_rows.shape[1]), value=padding)
        return torch.cat([rows, new_rows])[:, : min(self._length, rows.shape[1])]
