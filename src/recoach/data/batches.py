"""Batches of states, with the histories that models read, gathered from flat arrays."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach import distributed
from recoach.data.split import Dataset, RaggedArray

Split = Literal["valid", "test"]
States = Literal["prefix", "last_prefix", "user"]
Rows = Literal["all_positions", "prefix"]

_BATCHES_PER_BUCKET = 16
"""Rows are sorted by length within groups of this many batches, which reduces the padding; the
batches of an epoch are still random."""


class Seen(NamedTuple):
    """Distinct pairs (state, item), sorted by state, then item.

    They are the seen items of each state or, in `Queries.hidden`, the items that it must not use.
    """

    states: Tensor
    """int64[S], index of the state within its queries."""
    items: Tensor
    """int64[S], the item of each pair."""

    def between(self, start: int, stop: int) -> "Seen":
        """Return the pairs of states start..stop-1, with states renumbered from 0."""
        edges = torch.tensor([start, stop], device=self.states.device)
        low, high = torch.searchsorted(self.states, edges).tolist()
        return Seen(self.states[low:high] - start, self.items[low:high])


@dataclass(frozen=True, slots=True)
class Queries:
    """B states read from R histories: the input of every model.

    State b consists of the first `ends[b]` items of row `rows[b]` of `history`. Several states may
    share a row, so that a causal model encodes all of them in one pass.
    """

    users: Tensor
    """int64[R], user of each row, -1 for a user outside the training data."""
    history: Tensor
    """int64[R, T], items, oldest first, padded on the right with n_items."""
    lengths: Tensor
    """int64[R], number of items of each row without padding."""
    rows: Tensor
    """int64[B], row of each state."""
    ends: Tensor
    """int64[B], number of items of its row that belong to each state."""
    seen: Seen | None = None
    """Items to mask in the ranking of each state, if any."""
    hidden: Seen | None = None
    """Training interactions that a graph model must leave out of its graph, because the states are
    rewarded for predicting them; the other models ignore this."""
    hidden_edges_of_batch: tuple[Tensor, Tensor] | None = None
    """(int64[H] users, int64[H] items), set by `select` instead of `hidden`: the hidden
    interactions of all states of the batch, not only of the selected ones."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def state_users(self) -> Tensor:
        """int64[B], user of each state."""
        return self.users[self.rows]

    @property
    def hidden_edges(self) -> tuple[Tensor, Tensor] | None:
        """(int64[H] users, int64[H] items) of the hidden interactions; None if there are none."""
        if self.hidden_edges_of_batch is not None:
            return self.hidden_edges_of_batch
        return self.hidden and (self.state_users[self.hidden.states], self.hidden.items)

    def select(self, which: slice) -> "Queries":
        """Return the states `which` with the rows that they are read from, both renumbered.

        The hidden interactions remain those of all states, so that a graph model returns the same
        scores as for the whole batch.
        """
        rows, renumbered = torch.unique(self.rows[which], return_inverse=True)
        return Queries(
            users=self.users[rows],
            history=self.history[rows],
            lengths=self.lengths[rows],
            rows=renumbered,
            ends=self.ends[which],
            seen=self.seen and self.seen.between(which.start, which.stop),
            hidden_edges_of_batch=self.hidden_edges,
        )

    def to(self, device: torch.device) -> "Queries":
        """Return the same queries on another device."""
        if self.users.device == device:
            return self
        names = ("users", "history", "lengths", "rows", "ends")
        tensors = {name: getattr(self, name).to(device) for name in names}
        seen, hidden = (
            pairs and Seen(*(part.to(device) for part in pairs))
            for pairs in (self.seen, self.hidden)
        )
        edges = self.hidden_edges_of_batch and (
            self.hidden_edges_of_batch[0].to(device),
            self.hidden_edges_of_batch[1].to(device),
        )
        return replace(self, **tensors, seen=seen, hidden=hidden, hidden_edges_of_batch=edges)


class Batch(NamedTuple):
    """Training states and the next item of each."""

    queries: Queries
    positions: np.ndarray
    """int64[B], index of the next item in `train.values`. A state "user" has no next item; its
    position is the end of the user's history."""
    targets: Tensor
    """int64[B], the next item; not meaningful for states "user"."""


def gather_windows(values: np.ndarray, starts: np.ndarray, stops: np.ndarray, pad: int) -> Tensor:
    """Gather ranges `values[start:stop]` into int64[R, T], padded on the right with `pad`.

    T is the length of the longest range (0 if all are empty).
    """
    width = int((stops - starts).max(initial=0))
    index = starts[:, None] + np.arange(width)
    rows = np.where(index < stops[:, None], values[np.minimum(index, len(values) - 1)], pad)
    return torch.from_numpy(rows.astype(np.int64))


def seen_before(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Seen:
    """Return the distinct items of each range `values[start:stop]` as pairs (state, item)."""
    counts = stops - starts
    states = np.repeat(np.arange(len(starts)), counts)
    index_in_range = np.arange(len(states)) - np.repeat(np.cumsum(counts) - counts, counts)
    items = values[np.repeat(starts, counts) + index_in_range].astype(np.int64)
    width = int(items.max(initial=0)) + 1
    # The pairs are already ordered by state, so the stable sort is 30 times faster than np.unique.
    pairs = np.sort(states * width + items, kind="stable")
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    return Seen(torch.from_numpy(pairs // width), torch.from_numpy(pairs % width))


def histories(dataset: Dataset, split: Split | Literal["all"]) -> RaggedArray:
    """Return the history of each user from which the items of a split are predicted.

    It is train for "valid", train and valid for "test"; "all" returns all three parts, for serving.
    """
    parts = {
        "valid": (dataset.train,),
        "test": (dataset.train, dataset.valid),
        "all": (dataset.train, dataset.valid, dataset.test),
    }[split]
    users = np.concatenate([np.repeat(np.arange(dataset.n_users), part.lengths) for part in parts])
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(users, kind="stable")
    lengths = np.sum([part.lengths for part in parts], axis=0)
    return RaggedArray.from_lengths(lengths, values[order])


def user_queries(
    past: RaggedArray, users: np.ndarray, history_length: int, n_items: int, *, mask_seen: bool
) -> Queries:
    """Return queries with one state per user: the state after all of the user's past items.

    Each history has the user's last `history_length` items (0 for a model that reads no history).
    With `mask_seen` all past items are masked, also those before the history.
    """
    starts, stops = past.offsets[users], past.offsets[users + 1]
    queries = _single_state_queries(past.values, (users, starts, stops), history_length, n_items)
    seen = seen_before(past.values, starts, stops) if mask_seen else None
    return replace(queries, seen=seen)


def _single_state_queries(
    values: np.ndarray,
    ranges: tuple[np.ndarray, np.ndarray, np.ndarray],
    history_length: int,
    n_items: int,
) -> Queries:
    users, starts, stops = ranges
    starts = np.maximum(starts, stops - history_length)
    lengths = torch.from_numpy(stops - starts)
    return Queries(
        users=torch.from_numpy(users.astype(np.int64)),
        history=gather_windows(values, starts, stops, n_items),
        lengths=lengths,
        rows=torch.arange(len(users)),
        ends=lengths,
    )


class StateBatches:
    """Batches of training states and their next items.

    Args:
        train: the training histories, one row per user.
        n_items: number of items, the padding value.
        history_length: maximum number of items that the model reads; longer histories are split
            into windows of this length, beginning at the end.
        batch_size: number of states in a batch, summed over all processes.
        states: "prefix": one state before every item but the first; "last_prefix": one state per
            user, before the last item; "user": one state per user, after all items.
        rows: "all_positions": the states "prefix" of a window share one row, for causal models,
            which encode all of them in one pass; "prefix": one row per state, as in RecBole.
    """

    def __init__(
        self,
        train: RaggedArray,
        *,
        n_items: int,
        history_length: int,
        batch_size: int,
        states: States = "prefix",
        rows: Rows = "all_positions",
    ) -> None:
        self.train, self.n_items, self.batch_size = train, n_items, batch_size
        self.history_length = history_length
        self.states: States = states
        self._shares_rows = rows == "all_positions" and states == "prefix" and history_length > 0
        if self._shares_rows:
            users, starts, stops = _window_ranges(train, history_length)
            self._sizes = stops - starts  # states per row
        else:
            users, starts, stops = _state_ranges(train, states)
            self._sizes = np.ones(len(users), dtype=np.int64)
        self._ranges = users, starts, stops

    @property
    def n_states(self) -> int:
        """Number of states in one epoch."""
        return int(self._sizes.sum())

    def __len__(self) -> int:
        return max(1, -(-self.n_states // self.batch_size))

    def limit_batch_size(self, min_batches: int) -> None:
        """Reduce the batch size if an epoch would have fewer than `min_batches` batches."""
        self.batch_size = max(1, min(self.batch_size, -(-self.n_states // min_batches)))

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield one epoch of batches in an order drawn from the generator."""
        users, starts, stops = self._ranges
        sizes = self._sizes
        order = torch.randperm(len(users), generator=generator).numpy()
        if self._shares_rows:
            bucket = (np.cumsum(sizes[order]) - 1) // (self.batch_size * _BATCHES_PER_BUCKET)
            order = order[np.lexsort((sizes[order], bucket))]
        batch_of = (np.cumsum(sizes[order]) - 1) // self.batch_size
        batches = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
        for index in torch.randperm(len(batches), generator=generator).tolist():
            rows = distributed.shard_rows(batches[index])
            yield self._batch(users[rows], starts[rows], stops[rows])

    def _batch(self, users: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Batch:
        values = self.train.values
        if not self._shares_rows:
            ranges = (users, starts, stops)
            queries = _single_state_queries(values, ranges, self.history_length, self.n_items)
            # States "user" have no next item; their target is arbitrary and not used.
            targets = torch.from_numpy(values[np.minimum(stops, len(values) - 1)].astype(np.int64))
            return Batch(queries, stops, targets)
        sizes = stops - starts
        rows = np.repeat(np.arange(len(users)), sizes)
        index_in_row = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        positions = starts[rows] + index_in_row + 1
        queries = Queries(
            users=torch.from_numpy(users.astype(np.int64)),
            history=gather_windows(values, starts, stops, self.n_items),
            lengths=torch.from_numpy(sizes),
            rows=torch.from_numpy(rows),
            ends=torch.from_numpy(index_in_row + 1),
        )
        return Batch(queries, positions, torch.from_numpy(values[positions].astype(np.int64)))


def _window_ranges(train: RaggedArray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (users, starts, stops) of the windows, which leave out each user's last item."""
    input_stops = train.offsets[1:] - 1
    n_inputs = input_stops - train.offsets[:-1]
    n_windows = np.maximum(0, -(-n_inputs // length))
    users = np.repeat(np.arange(len(train)), n_windows)
    windows_after = np.arange(len(users)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    stops = input_stops[users] - windows_after * length
    return users, np.maximum(train.offsets[users], stops - length), stops


def _state_ranges(train: RaggedArray, states: States) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (users, starts, stops), the range of `train.values` that belongs to each state."""
    starts, stops = train.offsets[:-1], train.offsets[1:]
    if states == "user":
        users = np.flatnonzero(train.lengths > 0)
        return users, starts[users], stops[users]
    if states == "last_prefix":
        users = np.flatnonzero(train.lengths > 1)
        return users, starts[users], stops[users] - 1
    users = np.repeat(np.arange(len(train)), train.lengths)
    positions = np.arange(len(train.values))
    keep = positions > starts[users]
    return users[keep], starts[users[keep]], positions[keep]


class EdgeBatches:
    """Batches of training interactions as (user, item) pairs."""

    def __init__(self, train: RaggedArray, *, batch_size: int) -> None:
        self.train, self.batch_size = train, batch_size
        self._users = np.repeat(np.arange(len(train)), train.lengths)

    def __len__(self) -> int:
        return max(1, -(-len(self._users) // self.batch_size))

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield one epoch of batches in an order drawn from the generator."""
        order = torch.randperm(len(self._users), generator=generator)
        for batch in torch.split(order, self.batch_size):
            positions, values = distributed.shard_rows(batch).numpy(), self.train.values
            ranges = (self._users[positions], positions, positions)
            queries = _single_state_queries(values, ranges, history_length=0, n_items=0)
            yield Batch(queries, positions, torch.from_numpy(values[positions].astype(np.int64)))
