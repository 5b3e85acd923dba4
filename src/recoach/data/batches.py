"""What a model is asked: states read from histories, gathered from flat arrays on the fly."""

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

_BUCKET = 16
"""Batches whose rows are sorted by length together: little padding, still random batches."""


class Seen(NamedTuple):
    """Items of states, such as those they may not be shown; pairs sorted by state, then item."""

    states: Tensor
    """int64[S] index of the state within its queries."""
    items: Tensor
    """int64[S] item, no pair twice."""

    def between(self, start: int, stop: int) -> "Seen":
        """Return the pairs of states start..stop-1, renumbered from 0."""
        edges = torch.tensor([start, stop], device=self.states.device)
        low, high = torch.searchsorted(self.states, edges).tolist()
        return Seen(self.states[low:high] - start, self.items[low:high])


@dataclass(frozen=True, slots=True)
class Queries:
    """B states read from R histories: the only thing a model is ever given.

    A state is a place in a history: the user has taken the first `ends` items of row `rows`.
    Several states may share one row, so that a causal model reads them all in one pass.
    """

    users: Tensor
    """int64[R] user of each row, -1 for a user the model has never met."""
    history: Tensor
    """int64[R, T] items, oldest first, padded on the right with n_items."""
    lengths: Tensor
    """int64[R] number of real items in each row."""
    rows: Tensor
    """int64[B] row of each state."""
    ends: Tensor
    """int64[B] number of items of its row a state has seen."""
    seen: Seen | None = None
    """Items to mask, if any."""
    hidden: Seen | None = None
    """What these states' users took later: a model that propagates over the log must not use it."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def state_users(self) -> Tensor:
        """int64[B] user of each state."""
        return self.users[self.rows]

    @property
    def hidden_edges(self) -> tuple[Tensor, Tensor] | None:
        """(int64[H] users, int64[H] items) of the hidden interactions, if there are any."""
        return self.hidden and (self.state_users[self.hidden.states], self.hidden.items)

    def to(self, device: torch.device) -> "Queries":
        """Return the same queries on another device."""
        if self.users.device == device:
            return self
        names = ("users", "history", "lengths", "rows", "ends")
        moved = {name: getattr(self, name).to(device) for name in names}
        seen, hidden = (
            pairs and Seen(*(part.to(device) for part in pairs))
            for pairs in (self.seen, self.hidden)
        )
        return replace(self, **moved, seen=seen, hidden=hidden)


class Batch(NamedTuple):
    """States to learn from, each with the place of its next item in the flat training items."""

    queries: Queries
    positions: np.ndarray
    """int64[B] index into `Ragged.values` of the item that came next."""
    targets: Tensor
    """int64[B] that item."""


def gather_windows(values: np.ndarray, starts: np.ndarray, stops: np.ndarray, pad: int) -> Tensor:
    """Gather ranges of a flat array into rows padded on the right.

    Args:
        values: int32[m] flat items.
        starts: int64[R] first index of each row.
        stops: int64[R] index after the last of each row.
        pad: value for the places after a row's end.

    Returns:
        int64[R, T] with T the longest range (0 where all are empty).
    """
    width = int((stops - starts).max(initial=0))
    index = starts[:, None] + np.arange(width)
    rows = np.where(index < stops[:, None], values[np.minimum(index, len(values) - 1)], pad)
    return torch.from_numpy(rows.astype(np.int64))


def seen_before(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Seen:
    """Return the distinct items of each range `values[start:stop]` as pairs (state, item)."""
    counts = stops - starts
    states = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(len(states)) - np.repeat(np.cumsum(counts) - counts, counts)
    items = values[np.repeat(starts, counts) + within].astype(np.int64)
    width = int(items.max(initial=0)) + 1
    # Users come one after the other: a merge sort of runs, where np.unique hashes (30 times).
    pairs = np.sort(states * width + items, kind="stable")
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    return Seen(torch.from_numpy(pairs // width), torch.from_numpy(pairs % width))


def histories(dataset: Dataset, split: Split | Literal["future"]) -> RaggedArray:
    """Return what each user had taken before the split: train, and valid too before the test.

    `"future"` is everything known, for serving.
    """
    parts = {
        "valid": (dataset.train,),
        "test": (dataset.train, dataset.valid),
        "future": (dataset.train, dataset.valid, dataset.test),
    }[split]
    users = np.concatenate([np.repeat(np.arange(dataset.n_users), p.lengths) for p in parts])
    values = np.concatenate([p.values for p in parts])
    order = np.argsort(users, kind="stable")
    lengths = np.sum([p.lengths for p in parts], axis=0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RaggedArray(offsets, values[order])


def user_queries(
    past: RaggedArray, users: np.ndarray, history_length: int, n_items: int, *, mask_seen: bool
) -> Queries:
    """Ask for one recommendation for each of these users, after all of their past.

    Args:
        past: one row a user.
        users: int64[B] users to ask for.
        history_length: items a model reads at most; 0 for a model that reads none.
        n_items: size of the catalogue, the padding value.
        mask_seen: whether to list the items of the past as seen.
    """
    starts, stops = past.offsets[users], past.offsets[users + 1]
    queries = _one_state_a_row(past.values, (users, starts, stops), history_length, n_items)
    seen = seen_before(past.values, starts, stops) if mask_seen else None
    return replace(queries, seen=seen)


def _one_state_a_row(
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
    """Every place in the training histories that has a next item, cut into batches of states.

    `rows="all_positions"` lets states share the history they are read from (one pass of a causal
    model serves all of them); `"prefix"` gives each its own row, as RecBole does. A history
    longer than the model reads is cut into windows from its end backwards.
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
        shared = rows == "all_positions" and states == "prefix" and history_length > 0
        self._windows = (
            _shared_windows(train, history_length) if shared else _single_windows(train, states)
        )
        self._shared = shared

    @property
    def n_states(self) -> int:
        """Number of states in one epoch."""
        return int(self._sizes().sum())

    def __len__(self) -> int:
        return max(1, -(-self.n_states // self.batch_size))

    def cut(self, fewest: int) -> None:
        """Let a batch have a `fewest`-th of the states at the most."""
        self.batch_size = max(1, min(self.batch_size, -(-self.n_states // fewest)))

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield one epoch of batches in an order drawn from the generator."""
        users, starts, stops = self._windows
        sizes = self._sizes()
        order = torch.randperm(len(users), generator=generator).numpy()
        if self._shared:
            chunk = (np.cumsum(sizes[order]) - 1) // (self.batch_size * _BUCKET)
            order = order[np.lexsort((sizes[order], chunk))]
        batch_of = (np.cumsum(sizes[order]) - 1) // self.batch_size
        parts = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
        for index in torch.randperm(len(parts), generator=generator).tolist():
            part = distributed.shard_rows(parts[index])
            yield self._batch(users[part], starts[part], stops[part])

    def _sizes(self) -> np.ndarray:
        users, starts, stops = self._windows
        return stops - starts if self._shared else np.ones(len(users), dtype=np.int64)

    def _batch(self, users: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Batch:
        values = self.train.values
        if not self._shared:
            ranges = (users, starts, stops)
            queries = _one_state_a_row(values, ranges, self.history_length, self.n_items)
            # A user-state has no next item: its place is the end of the history.
            targets = torch.from_numpy(values[np.minimum(stops, len(values) - 1)].astype(np.int64))
            return Batch(queries, stops, targets)
        sizes = stops - starts
        rows = np.repeat(np.arange(len(users)), sizes)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        positions = starts[rows] + within + 1
        queries = Queries(
            users=torch.from_numpy(users.astype(np.int64)),
            history=gather_windows(values, starts, stops, self.n_items),
            lengths=torch.from_numpy(sizes),
            rows=torch.from_numpy(rows),
            ends=torch.from_numpy(within + 1),
        )
        return Batch(queries, positions, torch.from_numpy(values[positions].astype(np.int64)))


def _shared_windows(train: RaggedArray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (users, starts, stops) of input ranges that cover all but each user's last item."""
    stops = train.offsets[1:] - 1
    inputs = stops - train.offsets[:-1]
    pieces = np.maximum(0, -(-inputs // length))
    users = np.repeat(np.arange(len(train)), pieces)
    back = np.arange(len(users)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    ends = stops[users] - back * length
    return users, np.maximum(train.offsets[users], ends - length), ends


def _single_windows(
    train: RaggedArray, states: States
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (users, starts, stops) of the history before each state."""
    first, after = train.offsets[:-1], train.offsets[1:]
    if states == "user":
        users = np.flatnonzero(train.lengths > 0)
        return users, first[users], after[users]
    if states == "last_prefix":
        users = np.flatnonzero(train.lengths > 1)
        return users, first[users], after[users] - 1
    users = np.repeat(np.arange(len(train)), train.lengths)
    stops = np.arange(len(train.values))
    keep = stops > first[users]
    return users[keep], first[users[keep]], stops[keep]


class EdgeBatches:
    """Every training interaction as a (user, item) pair, cut into batches."""

    def __init__(self, train: RaggedArray, *, batch_size: int) -> None:
        self.train, self.batch_size = train, batch_size
        self._users = np.repeat(np.arange(len(train)), train.lengths)

    def __len__(self) -> int:
        return max(1, -(-len(self._users) // self.batch_size))

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield one epoch of batches in an order drawn from the generator."""
        order = torch.randperm(len(self._users), generator=generator)
        for whole in torch.split(order, self.batch_size):
            part = distributed.shard_rows(whole)
            positions = part.numpy()
            empty = torch.zeros(len(part), dtype=torch.int64)
            queries = Queries(
                users=torch.from_numpy(self._users[positions]),
                history=torch.empty(len(part), 0, dtype=torch.int64),
                lengths=empty,
                rows=torch.arange(len(part)),
                ends=empty,
            )
            targets = torch.from_numpy(self.train.values[positions].astype(np.int64))
            yield Batch(queries, positions, targets)
