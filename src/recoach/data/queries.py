"""States with the histories that models read, gathered from flat arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recoach.data.dataset import Dataset, RaggedArray, join_rows
from recoach.data.log_columns import Columns
from recoach.data.transfer import to_device
from recoach.errors import ConfigError

Split = Literal["valid", "test"]


class Seen(NamedTuple):
    """Distinct pairs (state, item), sorted by state, then item.

    They are the seen items of each state or, in `Queries.hidden`, the items that it must not use.
    """

    states: Tensor
    """int64[S], index of the state within its queries."""
    items: Tensor
    """int64[S], the item of each pair."""
    host_states: np.ndarray | None = None
    """`states` on the host, where the pairs come from there: reading them stops no device."""

    def to(self, device: torch.device | str) -> "Seen":
        """Return the same pairs on a device."""
        states, items = (to_device(part, torch.device(device)) for part in self[:2])
        return Seen(states, items, states_on_host(self.states, self.host_states))

    def between(self, start: int, stop: int) -> "Seen":
        """Return the pairs of states start..stop-1, with states renumbered from 0."""
        host_states = states_on_host(self.states, self.host_states)
        pairs = slice_of_states(host_states, start, stop)
        return Seen(self.states[pairs] - start, self.items[pairs], host_states[pairs] - start)


class Prepared(Protocol):
    """Tensors that a model computes of states on the host."""

    def to(self, device: torch.device) -> Self:
        """Return the same tensors on a device."""


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
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """The columns of the log that the model reads (`Recommender.reads`), each [R, T] like
    `history`: int64 (times in ms, codes of event types from 0, hashes of other text), or float32.
    Event types are padded with their number, the code of an event without a type; other columns
    with 0."""
    hidden: Seen | None = None
    """Training interactions that a graph model must leave out of its graph, because the states are
    rewarded for predicting them; the other models ignore this."""
    hidden_edges_of_batch: tuple[Tensor, Tensor] | None = None
    """(int64[H] users, int64[H] items), set by `select` instead of `hidden`: the hidden
    interactions of all states of the batch, not only of the selected ones."""
    prepared: "Prepared | None" = None
    """What the model computes of these states on the host (`Recommender.prepare_queries`)."""
    only_trained_users: bool = False
    """Whether all users are in the training data; False where that is not known."""
    host: "Queries | None" = None
    """The same queries on the host, which `to` keeps: what depends on their values is computed
    there, so that no kernel has to finish first."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def on_host(self) -> "Queries":
        """The same queries on the host."""
        if self.host is not None:
            return self.host
        return self if self.users.device.type == "cpu" else self.to(torch.device("cpu"))

    @property
    def state_users(self) -> Tensor:
        """int64[B], user of each state."""
        return self.users[self.rows]

    @property
    def has_new_users(self) -> bool:
        """Whether a user is not in the training data."""
        return not self.only_trained_users and bool((self.on_host.users < 0).any())

    @property
    def hidden_edges(self) -> tuple[Tensor, Tensor] | None:
        """(int64[H] users, int64[H] items) of the hidden interactions; None if there are none."""
        if self.hidden_edges_of_batch is not None:
            return self.hidden_edges_of_batch
        return self.hidden and (self.state_users[self.hidden.states], self.hidden.items)

    def select(self, which: slice) -> "Queries":
        """Return the states `which` with the rows that they are read from, both renumbered.

        All states are returned as they are, without renumbering. The hidden interactions remain
        those of all states, so that a graph model returns the same scores as for the whole batch.
        """
        if which.start == 0 and which.stop >= len(self):
            return replace(self, hidden=None, hidden_edges_of_batch=self.hidden_edges)
        source = self.on_host
        rows, renumbered = torch.unique(source.rows[which], return_inverse=True)
        selected = None if source is self else source.select(which)
        rows, renumbered = (to_device(index, self.rows.device) for index in (rows, renumbered))
        return Queries(
            users=self.users[rows],
            history=self.history[rows],
            lengths=self.lengths[rows],
            rows=renumbered,
            ends=self.ends[which],
            columns={name: values[rows] for name, values in self.columns.items()},
            seen=self.seen and self.seen.between(which.start, which.stop),
            hidden_edges_of_batch=self.hidden_edges,
            only_trained_users=self.only_trained_users,
            host=selected,
        )

    def to(self, device: torch.device) -> "Queries":
        """Return the same queries on another device, which keep those on the host."""
        if self.host is not None and self.users.device == device:
            return self
        edges = self.hidden_edges_of_batch
        edges = edges and (to_device(edges[0], device), to_device(edges[1], device))
        return replace(
            self,
            users=to_device(self.users, device),
            history=to_device(self.history, device),
            lengths=to_device(self.lengths, device),
            rows=to_device(self.rows, device),
            ends=to_device(self.ends, device),
            columns={name: to_device(values, device) for name, values in self.columns.items()},
            seen=self.seen and self.seen.to(device),
            hidden=self.hidden and self.hidden.to(device),
            prepared=self.prepared and self.prepared.to(device),
            hidden_edges_of_batch=edges,
            host=self if self.users.device.type == "cpu" else self.host,
        )


def states_on_host(states: Tensor, host_states: np.ndarray | None) -> np.ndarray:
    """Return int64[N] states as an array: the one that is at hand, or else read from the device."""
    return states.cpu().numpy() if host_states is None else host_states


def slice_of_states(states: np.ndarray, start: int, stop: int) -> slice:
    """Return the slice of a sorted int64[N] that holds the states start..stop-1."""
    low, high = np.searchsorted(states, [start, stop]).tolist()
    return slice(low, high)


def gather_windows(values: np.ndarray, starts: np.ndarray, stops: np.ndarray, pad: int) -> Tensor:
    """Gather `values[start:stop]` of ranges into int64[R, T], right-padded with `pad`.

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
    return _distinct(states, items)


def _distinct(states: np.ndarray, items: np.ndarray) -> Seen:
    """Return the distinct pairs of int64[S] states, nondecreasing, and int64[S] items."""
    width = int(items.max(initial=0)) + 1
    # The pairs are already ordered by state, so the stable sort is 30 times faster than np.unique.
    pairs = np.sort(states * width + items, kind="stable")
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    return Seen(torch.from_numpy(pairs // width), torch.from_numpy(pairs % width))


def histories(
    dataset: Dataset, split: Split | Literal["all"], reads: Sequence[str] = ()
) -> RaggedArray:
    """Return the history of each user from which the items of a split are predicted.

    It is train for "valid", train and valid for "test"; "all" returns all three parts, for serving.
    `reads` names the columns to keep.

    Raises:
        ConfigError: there is no such split.
    """
    parts = {
        "valid": (dataset.train,),
        "test": (dataset.train, dataset.valid),
        "all": (dataset.train, dataset.valid, dataset.test),
    }
    if split not in parts:
        raise ConfigError(f"There is no split {split!r}. Choose 'valid', 'test' or 'all'.")
    return join_rows([part.keep_columns(reads) for part in parts[split]])


def user_queries(
    past: RaggedArray, users: np.ndarray, history_length: int, n_items: int, *, mask_seen: bool
) -> Queries:
    """Return queries with one state per user: the state after all of the user's past items.

    Each history has the user's last `history_length` items (0 for a model that reads no history).
    With `mask_seen` all past items are masked, also those before the history.
    """
    starts, stops = past.offsets[users], past.offsets[users + 1]
    queries = single_state_queries(past, (users, starts, stops), history_length, n_items)
    seen = seen_before(past.values, starts, stops) if mask_seen else None
    return replace(queries, seen=seen)


def state_queries(
    past: RaggedArray,
    states: tuple[np.ndarray, np.ndarray],
    model: "HistoryReader",
    *,
    user_numbers: np.ndarray,
    mask_seen: bool,
    negatives: RaggedArray | None = None,
) -> Queries:
    """Return queries for states that end anywhere in the users' sequences.

    Args:
        past: the users' sequences.
        states: int64[B] users and int64[B] numbers of events of their sequences that are history.
        user_numbers: int64[n_users], number of each user for the model, see
            `Dataset.trained_users`.
        model: how much of a history it reads, and which columns.
        mask_seen: whether to mask the items of the history, also those before the window.
        negatives: items that users rejected, with the column "after"; those rejected before the
            end of the history are masked.
    """
    users, ends = states
    starts = past.offsets[users]
    ranges = (user_numbers[users], starts, starts + ends)
    source = past.keep_columns(model.reads)
    queries = single_state_queries(source, ranges, model.history_length, model.n_items)
    seen = masked_items(past, states, negatives, mask_seen=mask_seen)
    return replace(queries, seen=seen)


def masked_items(
    past: RaggedArray,
    states: tuple[np.ndarray, np.ndarray],
    negatives: RaggedArray | None,
    *,
    mask_seen: bool,
) -> Seen | None:
    """Return the masked items of states, see `state_queries`; None if nothing is masked."""
    users, ends = states
    starts = past.offsets[users]
    seen = seen_before(past.values, starts, starts + ends) if mask_seen else None
    if negatives is None:
        return seen
    rejected = rejected_before(negatives, users, ends)
    return rejected if seen is None else join_pairs(seen, rejected)


class HistoryReader(Protocol):
    """What a model reads of a history."""

    reads: tuple[str, ...]
    n_items: int

    @property
    def history_length(self) -> int:
        """Number of last items the model reads."""


def rejected_before(negatives: RaggedArray, users: np.ndarray, ends: np.ndarray) -> Seen:
    """Return the distinct items that users had rejected after `ends` events, as (state, item)."""
    states, items, after = _rejections(negatives, users)
    is_before = after <= ends[states]
    return _distinct(states[is_before], items[is_before])


def rejected_after(dataset: Dataset, users: np.ndarray, ends: np.ndarray) -> Seen:
    """Return the distinct items that users reject after `ends` events, before their last in train.

    Items that they had rejected before are left out.
    """
    if dataset.negatives is None:
        return _distinct(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    states, items, after = _rejections(dataset.negatives, users)
    is_later = (after > ends[states]) & (after < dataset.train.lengths[users][states])
    keys = states * dataset.n_items + items
    is_later &= ~np.isin(keys, keys[after <= ends[states]])
    return _distinct(states[is_later], items[is_later])


def _rejections(
    negatives: RaggedArray, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return state, item and number of events before it of all rejections of the states' users."""
    counts = negatives.lengths[users]
    states = np.repeat(np.arange(len(users)), counts)
    index_in_row = np.arange(len(states)) - np.repeat(np.cumsum(counts) - counts, counts)
    positions = negatives.offsets[users][states] + index_in_row
    items = negatives.values[positions].astype(np.int64)
    return states, items, negatives.columns["after"].to_numpy()[positions]


def join_pairs(first: Seen, second: Seen) -> Seen:
    """Return the distinct pairs of both."""
    states = torch.cat([first.states, second.states])
    items = torch.cat([first.items, second.items])
    width = int(items.max()) + 1 if len(items) else 1
    keys = torch.unique(states * width + items)
    return Seen(keys // width, keys % width)


def single_state_queries(
    source: RaggedArray,
    ranges: tuple[np.ndarray, np.ndarray, np.ndarray],
    history_length: int,
    n_items: int,
) -> Queries:
    """Return queries with one row for each state.

    Args:
        source: the rows, with the columns that the model reads.
        ranges: int64[B] users, starts and stops of the states' histories in `source.values`.
        history_length: number of last items to keep.
        n_items: size of the catalogue.
    """
    users, starts, stops = ranges
    starts = np.maximum(starts, stops - history_length)
    lengths = torch.from_numpy(stops - starts)
    return Queries(
        users=torch.from_numpy(users.astype(np.int64)),
        history=gather_windows(source.values, starts, stops, n_items),
        lengths=lengths,
        rows=torch.arange(len(users)),
        ends=lengths,
        columns=column_windows(source.columns, starts, stops),
    )


def column_windows(columns: Columns, starts: np.ndarray, stops: np.ndarray) -> dict[str, Tensor]:
    """Return columns as [R, T] like the history, padded as `Queries.columns`."""
    index = starts[:, None] + np.arange(int((stops - starts).max(initial=0)))
    is_event = index < stops[:, None]
    return {
        name: _window(values.gather(index[is_event]), is_event) for name, values in columns.items()
    }


def column_padding(values: pl.Series) -> int:
    """Return what stands for no event in a column: the number of event types, or 0."""
    return len(values.dtype.categories) if isinstance(values.dtype, pl.Enum) else 0


def _window(values: pl.Series, is_event: np.ndarray) -> Tensor:
    """Return [R, T] with the values where bool[R, T] `is_event` is true, row by row."""
    padding = column_padding(values)
    if isinstance(values.dtype, pl.Enum):
        values = values.to_physical()
    elif values.dtype == pl.String:
        values = values.hash().reinterpret(signed=True)
    numbers = values.cast(pl.Float32 if values.dtype.is_float() else pl.Int64).fill_null(padding)
    window = np.full(is_event.shape, padding, dtype=numbers.to_numpy().dtype)
    window[is_event] = numbers.to_numpy()
    return torch.from_numpy(window)
