"""Transitions of a batch: state, logged action, reward, next state, and how the episode ends."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recoach.data.batches import Batch
from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.queries import Queries, masked_items
from recoach.errors import ConfigError
from recoach.policy.rewards import Rewards, lookup_rewards


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
    """bool[B] whether the user's whole log (train, valid and test) ends with this action."""
    truncated: Tensor
    """bool[B] whether the training history, or the window cut from it, ends with this action
    although the user goes on."""
    masked: Tensor
    """bool[B] whether the policy masks the action: the user has interacted with it before."""

    def to(self, device: torch.device) -> "Transitions":
        """Return the same transitions on another device."""
        queries = None if self.next_queries is None else self.next_queries.to(device)
        names = ("actions", "rewards", "terminated", "truncated", "masked")
        moved = {name: getattr(self, name).to(device) for name in names}
        return Transitions(next_queries=queries, **moved)


def build_transitions(
    batch: Batch,
    dataset: Dataset,
    rewards: Rewards,
    *,
    history_length: int,
    mask_seen: bool,
    negatives: RaggedArray | None = None,
) -> Transitions:
    """Return the transitions of a batch of states, on the CPU.

    Args:
        batch: states with their next items.
        dataset: its training histories hold the states; valid and test only tell whether a user
            goes on.
        rewards: of the same states.
        history_length: items that the model reads; 0 makes every transition terminated, because
            the model's state does not change with the action (a contextual bandit).
        mask_seen: whether the policy masks seen items, in the next states too.
        negatives: items that users rejected, which the policy masks after that.

    Raises:
        ConfigError: the states have no next items.
    """
    train, queries = dataset.train, batch.queries
    users = queries.state_users.numpy()
    if bool((batch.positions >= train.offsets[users + 1]).any()):
        raise ConfigError(
            "transitions need a next item for every state, which state 'user' does not have; use "
            "state 'prefix' or 'last_prefix'."
        )
    column = batch.targets[:, None]
    values = lookup_rewards(column, (rewards.states, rewards.items, rewards.values))[:, 0]
    ends = batch.positions - train.offsets[users]
    seen = masked_items(train, (users, ends), negatives, mask_seen=mask_seen)
    masked = torch.zeros(len(queries), dtype=torch.bool)
    if seen is not None:
        ones = torch.ones(len(seen.items))
        masked = lookup_rewards(column, (seen.states, seen.items, ones))[:, 0] > 0
    if not history_length:
        everywhere = torch.ones(len(queries), dtype=torch.bool)
        return Transitions(batch.targets, values, None, everywhere, ~everywhere, masked)
    held_out = dataset.valid.lengths[users] + dataset.test.lengths[users]
    is_last = batch.positions == train.offsets[users + 1] - 1
    terminated = torch.from_numpy(is_last & (held_out == 0))
    truncated = (queries.ends == queries.lengths[queries.rows]) & ~terminated
    following = _next_queries(queries, batch.targets, history_length, dataset.n_items)
    seen = masked_items(train, (users, ends + 1), negatives, mask_seen=mask_seen)
    following = replace(following, seen=seen)
    return Transitions(batch.targets, values, following, terminated, truncated, masked)


def _next_queries(queries: Queries, actions: Tensor, length: int, n_items: int) -> Queries:
    """Return the states after the actions; states that share a row still do.

    A row that is not full gets its last action appended. For a full row, the state after its last
    action is read from a new row without the first item.
    """
    last = torch.nonzero(queries.ends == queries.lengths[queries.rows])[:, 0]
    rows = queries.rows[last]
    is_full = queries.lengths[rows] >= length
    history = functional.pad(queries.history, (0, 1), value=n_items)
    lengths, open_rows = queries.lengths.clone(), rows[~is_full]
    history[open_rows, lengths[open_rows]] = actions[last[~is_full]]
    lengths[open_rows] += 1
    full = last[is_full]
    new_rows = torch.cat([queries.history[rows[is_full], 1:length], actions[full][:, None]], dim=1)
    new_rows = functional.pad(new_rows, (0, history.shape[1] - new_rows.shape[1]), value=n_items)
    state_rows, ends = queries.rows.clone(), queries.ends + 1
    state_rows[full] = len(history) + torch.arange(len(full))
    ends[full] = length
    width = min(length, history.shape[1])
    return Queries(
        users=torch.cat([queries.users, queries.users[rows[is_full]]]),
        history=torch.cat([history, new_rows])[:, :width],
        lengths=torch.cat([lengths, lengths.new_full((len(full),), length)]),
        rows=state_rows,
        ends=ends,
    )
