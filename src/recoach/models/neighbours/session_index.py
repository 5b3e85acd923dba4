"""Training sessions that share items with a state: an inverted index and its neighbours.

A session is a row of train. Sessions are numbered by recency, the oldest 0: by the time of their
last interaction, or in file order where the log has no times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.neighbours.history_model import interaction_times, state_histories

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_PAIRS = 2**22
"""(state, item, session) triples, or sums of a state and an item, that are in memory at once."""


class StateItems(NamedTuple):
    """The distinct items of states, by state, then by the place at which they occur last."""

    states: Ints
    """int64[n]."""
    items: Ints
    """int64[n]."""
    places: Ints
    """int64[n], last place of the item in the history, from 1."""
    lengths: Ints
    """int64[B], number of items of each history."""
    users: Ints
    """int64[B], see `Queries.state_users`."""


class Neighbours(NamedTuple):
    """Pairs of a state and a session that shares items with it, by state, the oldest first."""

    states: Ints
    """int64[P]."""
    sessions: Ints
    """int64[P], by recency."""
    dots: Floats
    """float64[P], the sum of the weights of the shared items."""
    state_places: Ints
    """int64[P], place in the history of the most recent shared item."""
    session_places: Ints
    """int64[P], last place in the session of a shared item."""

    def select(self, which: Ints | npt.NDArray[np.bool_]) -> "Neighbours":
        """Return some of the pairs."""
        return Neighbours(
            self.states[which],
            self.sessions[which],
            self.dots[which],
            self.state_places[which],
            self.session_places[which],
        )


def state_items(queries: Queries, n_items: int) -> StateItems:
    """Return the distinct items of all states, on the CPU."""
    history = state_histories(queries, n_items).cpu().numpy()
    states, columns = np.nonzero(history < n_items)
    items = history[states, columns]
    keys = (states * n_items + items)[::-1]
    last = np.sort(len(keys) - 1 - np.unique(keys, return_index=True)[1])
    return StateItems(
        states[last],
        items[last],
        columns[last] + 1,
        np.count_nonzero(history < n_items, axis=1),
        queries.state_users.cpu().numpy(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class SessionIndex:
    """The distinct items of each training session, and the sessions of each item."""

    n_items: int
    item_offsets: Ints
    """int64[I+1]."""
    item_sessions: npt.NDArray[np.int32]
    """int32[m], the sessions of each item, the oldest first."""
    item_places: npt.NDArray[np.int32]
    """int32[m], last place of the item in each of them, from 1."""
    session_offsets: Ints
    """int64[S+1]."""
    session_items: npt.NDArray[np.int32]
    """int32[m], the distinct items of each session."""
    session_places: npt.NDArray[np.int32]
    """int32[m], the last place of each of them, from 1."""
    users: Ints
    """int64[S], the row of train of each session."""
    times: Ints | None
    """int64[S], ms of the last interaction; None without times."""

    def __deepcopy__(self, memo: object) -> "SessionIndex":
        """Return the index itself, which copies of a model share."""
        return self

    @classmethod
    def of(cls, train: RaggedArray, n_items: int) -> "SessionIndex":
        """Index the rows of train."""
        users = np.flatnonzero(train.lengths > 0)
        times = interaction_times(train)
        ends = None if times is None else times[train.offsets[users + 1] - 1]
        if ends is not None:
            order = np.argsort(ends, kind="stable")
            users, ends = users[order], ends[order]
        session_of_row = np.zeros(len(train), dtype=np.int64)
        session_of_row[users] = np.arange(len(users))
        rows = np.repeat(np.arange(len(train)), train.lengths)
        places = np.arange(len(rows)) - train.offsets[rows] + 1
        keys = (session_of_row[rows] * n_items + train.values)[::-1]
        keys, index = np.unique(keys, return_index=True)
        places = places[::-1][index].astype(np.int32)
        sessions, items = np.divmod(keys, max(1, n_items))
        by_item = np.argsort(items, kind="stable")
        return cls(
            n_items,
            np.searchsorted(items[by_item], np.arange(n_items + 1)),
            sessions[by_item].astype(np.int32),
            places[by_item],
            np.searchsorted(sessions, np.arange(len(users) + 1)),
            items.astype(np.int32),
            places,
            users,
            ends,
        )

    @property
    def support(self) -> Ints:
        """int64[I], number of sessions with each item."""
        return np.diff(self.item_offsets)

    @property
    def sizes(self) -> Ints:
        """int64[S], number of distinct items of each session."""
        return np.diff(self.session_offsets)

    @property
    def idf(self) -> Floats:
        """float64[I], log of the sessions over those with the item; 0 where there are none."""
        return np.log(max(1, len(self.users)) / np.maximum(1, self.support)) * (self.support > 0)

    @property
    def longest(self) -> int:
        """The largest place of an item in a session."""
        return int(self.session_places.max(initial=0))

    def neighbours(self, states: StateItems, weights: Floats, sample: int) -> Iterator[Neighbours]:
        """Yield, for one block of states after another, the sessions that share an item.

        Args:
            states: the items of B states.
            weights: float64[n], weight of each of them in `Neighbours.dots`.
            sample: most recent sessions of each state that are returned. The training row of the
                state's own user is none of them.
        """
        # More sessions of an item cannot be among the `sample` most recent; one may be the user's.
        stops = self.item_offsets[states.items + 1]
        counts = np.minimum(stops - self.item_offsets[states.items], sample + 1)
        for entries in _blocks(states.states, counts):
            starts = stops[entries] - counts[entries]
            pairs = self._pairs(states, weights, (entries, starts, counts[entries]))
            yield pairs.select(_ranks_from_end(pairs.states) < sample)

    def _pairs(
        self, states: StateItems, weights: Floats, postings: tuple[slice, Ints, Ints]
    ) -> Neighbours:
        """Return all pairs of the states of some entries."""
        entries, starts, counts = postings
        entry, posting = expand(starts, counts)
        entry += entries.start
        keys = states.states[entry] * len(self.users) + self.item_sessions[posting]
        # Stable, so that the last entry of a pair is its most recent shared item.
        order = np.argsort(keys, kind="stable")
        keys, entry, posting = keys[order], entry[order], posting[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        if not len(first):
            empty = np.empty(0, dtype=np.int64)
            return Neighbours(empty, empty, np.empty(0), empty, empty)
        last = np.append(first[1:], len(keys)) - 1
        pair_states, sessions = np.divmod(keys[first], len(self.users))
        pairs = Neighbours(
            pair_states,
            sessions,
            np.add.reduceat(weights[entry], first),
            states.places[entry[last]],
            np.maximum.reduceat(self.item_places[posting], first).astype(np.int64),
        )
        return pairs.select(self.users[sessions] != states.users[pair_states])

    def add_scores(
        self,
        scores: Tensor,
        pairs: Neighbours,
        similarities: Floats,
        factors: Floats,
        decay: Floats | None = None,
    ) -> None:
        """Set the scores of all items of neighbours to the sums of their similarities.

        Args:
            scores: float32[B, I] on the CPU, changed in place where a sum is positive.
            pairs: neighbours of some of the states.
            similarities: float64[P].
            factors: float64[I], factor of each item.
            decay: float64[D], factor by the distance, in places of the session, of an item from
                the last common one; None has 1.
        """
        starts = self.session_offsets[pairs.sessions]
        counts = self.session_offsets[pairs.sessions + 1] - starts
        flat_scores = scores.view(-1).numpy()
        for block in _blocks(pairs.states, counts, self.n_items):
            pair, index = expand(starts[block], counts[block])
            pair += block.start
            values = similarities[pair] * factors[self.session_items[index]]
            if decay is not None:
                values *= decay[np.abs(self.session_places[index] - pairs.session_places[pair])]
            first = pairs.states[block.start] * self.n_items
            cells = pairs.states[pair] * self.n_items + self.session_items[index] - first
            sums = np.bincount(cells, weights=values)
            scored = np.flatnonzero(sums)
            flat_scores[first + scored] = sums[scored]


def most_similar(pairs: Neighbours, similarities: Floats, k: int) -> Ints:
    """Return the indices of the k most similar sessions of each state; of equals, the most recent.

    The order of the pairs is kept.
    """
    crowded = np.bincount(pairs.states, minlength=1)[pairs.states] > k
    candidates = np.flatnonzero(crowded)[::-1]
    order = np.argsort(-similarities[candidates], kind="stable")
    order = order[np.argsort(-pairs.states[candidates[order]], kind="stable")]
    states = pairs.states[candidates[order]]
    rank = np.arange(len(states)) - np.searchsorted(-states, -states)
    kept = ~crowded
    kept[candidates[order[rank < k]]] = True
    return np.flatnonzero(kept)


def expand(starts: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Return the number of the range and the index of each element of ranges of some lengths."""
    owner = np.repeat(np.arange(len(starts)), counts)
    return owner, np.arange(len(owner)) + np.repeat(starts - np.cumsum(counts) + counts, counts)


def _ranks_from_end(states: Ints) -> Ints:
    """Return the number of later elements of the same state, for sorted states."""
    return np.searchsorted(states, states, side="right") - 1 - np.arange(len(states))


def _blocks(states: Ints, counts: Ints, per_state: int = 0) -> Iterator[slice]:
    """Yield slices of whole states whose counts sum to about `_PAIRS`, at least one state each.

    Every state counts `per_state` more.
    """
    first = np.flatnonzero(np.diff(states, prepend=-1))
    if not len(first):
        return
    sizes = np.add.reduceat(counts, first) + per_state
    block_of = np.cumsum(sizes) // _PAIRS
    starts = first[np.flatnonzero(np.diff(block_of, prepend=-1))]
    for start, stop in zip(starts, np.append(starts[1:], len(states)), strict=True):
        yield slice(int(start), int(stop))
