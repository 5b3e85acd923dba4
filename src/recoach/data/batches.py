"""Batches of training states and of training interactions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries, column_windows, gather_windows, single_state_queries
from recoach.data.transfer import to_device

States = Literal["prefix", "last_prefix", "user"]
Rows = Literal["all_positions", "prefix"]

_BATCHES_PER_BUCKET = 16
"""Rows are sorted by length within groups of this many batches, which reduces the padding; the
batches of an epoch are still random."""


class Batch(NamedTuple):
    """Training states and the next item of each."""

    queries: Queries
    positions: np.ndarray
    """int64[B], index of the next item in `train.values`. A state "user" has no next item; its
    position is the end of the user's history."""
    targets: Tensor
    """int64[B], the next item; not meaningful for states "user"."""
    weights: Tensor | None = None
    """float[B], the weight of each state in the loss, with mean 1 over the batch of all
    processes; None where every state counts the same."""

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on another device."""
        weights = None if self.weights is None else to_device(self.weights, device)
        targets = to_device(self.targets, device)
        return Batch(self.queries.to(device), self.positions, targets, weights)


class StateBatches:
    """Batches of training states and their next items.

    Args:
        train: the training histories, one row per user, with the columns that the model reads.
        n_items: number of items, the padding value.
        history_length: maximum number of items that the model reads; longer histories are split
            into windows of this length, beginning at the end.
        batch_size: number of states in a batch, summed over all processes.
        states: "prefix": one state before every item but the first; "last_prefix": one state per
            user, before the last item; "user": one state per user, after all items.
        rows: "all_positions": the states "prefix" of a window share one row, for causal models,
            which encode all of them in one pass; "prefix": one row per state, as in RecBole.
        targets: bool[m], which of `train.values` are next items; None: all.
        weights: float64[m], at least 0: the weight of the state before each of `train.values`; a
            state of weight 0 is left out. None: all states have the same weight.
    """

    def __init__(  # noqa: PLR0913 - what the states are and how they are batched
        self,
        train: RaggedArray,
        *,
        n_items: int,
        history_length: int,
        batch_size: int,
        states: States = "prefix",
        rows: Rows = "all_positions",
        targets: npt.NDArray[np.bool_] | None = None,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        if weights is not None:
            targets = weights > 0 if targets is None else targets & (weights > 0)
        self._targets, self._weights = targets, weights
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
        if targets is not None:
            before = np.append(0, np.cumsum(targets, dtype=np.int64))
            first = starts + 1 if self._shares_rows else stops
            self._sizes = before[stops + 1] - before[first]
            keep = self._sizes > 0
            self._sizes, users, starts, stops = (
                values[keep] for values in (self._sizes, users, starts, stops)
            )
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
            batch = self._batch(users[rows], starts[rows], stops[rows])
            yield batch if self._weights is None else self._with_weights(batch, self._weights)

    def _with_weights(self, batch: Batch, weights: npt.NDArray[np.float64]) -> Batch:
        of_states = weights[batch.positions]
        total = distributed.data_sum(float(of_states.sum())) or 1.0  # without any state
        of_states = of_states * (distributed.data_sum(len(of_states)) / total)
        weights_of_batch = torch.from_numpy(of_states).to(torch.get_default_dtype())
        return batch._replace(weights=weights_of_batch)

    def _batch(self, users: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Batch:
        values = self.train.values
        if not self._shares_rows:
            ranges = (users, starts, stops)
            queries = single_state_queries(self.train, ranges, self.history_length, self.n_items)
            queries = replace(queries, only_trained_users=True)
            # States "user" have no next item; their target is arbitrary and not used.
            targets = torch.from_numpy(values[np.minimum(stops, len(values) - 1)].astype(np.int64))
            return Batch(queries, stops, targets)
        sizes = stops - starts
        rows = np.repeat(np.arange(len(users)), sizes)
        index_in_row = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        positions = starts[rows] + index_in_row + 1
        if self._targets is not None:
            is_target = self._targets[positions]
            rows, index_in_row, positions = (
                values[is_target] for values in (rows, index_in_row, positions)
            )
        queries = Queries(
            users=torch.from_numpy(users.astype(np.int64)),
            history=gather_windows(values, starts, stops, self.n_items),
            lengths=torch.from_numpy(sizes),
            rows=torch.from_numpy(rows),
            ends=torch.from_numpy(index_in_row + 1),
            columns=column_windows(self.train.columns, starts, stops),
            only_trained_users=True,
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
    """Batches of training interactions as (user, item) pairs.

    Args:
        train: the training histories.
        batch_size: number of pairs in a batch, summed over all processes.
        targets: bool[m], which of `train.values` are learned; None: all.
    """

    def __init__(
        self,
        train: RaggedArray,
        *,
        batch_size: int,
        targets: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.train, self.batch_size = train.keep_columns(()), batch_size
        self._users = np.repeat(np.arange(len(train)), train.lengths)
        self._positions = np.arange(len(self._users)) if targets is None else targets.nonzero()[0]

    def __len__(self) -> int:
        return max(1, -(-len(self._positions) // self.batch_size))

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield one epoch of batches in an order drawn from the generator."""
        order = torch.randperm(len(self._positions), generator=generator)
        for batch in torch.split(order, self.batch_size):
            positions = self._positions[distributed.shard_rows(batch).numpy()]
            values = self.train.values
            ranges = (self._users[positions], positions, positions)
            queries = single_state_queries(self.train, ranges, history_length=0, n_items=0)
            queries = replace(queries, only_trained_users=True)
            yield Batch(queries, positions, torch.from_numpy(values[positions].astype(np.int64)))
