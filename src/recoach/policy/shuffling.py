"""Shuffled rewards: each state is rewarded with the future of a state of another user.

A control: an algorithm that gains from the information in its rewards gains nothing from these.
"""

from typing import Literal

import numpy as np

from recoach.data.dataset import RaggedArray
from recoach.data.interactions import LongArray

ShuffleRewards = Literal["none", "users", "last_item"]


def source_events(train: RaggedArray, shuffle: ShuffleRewards, seed: int) -> LongArray:
    """Return the last event of the state whose future each state is rewarded with.

    Args:
        train: the training histories.
        shuffle: `users`: users of equal training length exchange their futures, so that the state
            after n events gets the future after n events of another user. A user whose length no
            other has exchanges with users of the nearest lengths above (below for the longest);
            the state with as many events left is then the source. `last_item`: the source is drawn
            from the states of other users that end with the same item and have a next event; where
            there is none, it is that of `users`.
        seed: of the draws.

    Returns:
        int64[m], for each event of `train.values`, seen as the last event of a state, the position
        of another event. Only a user without any other user keeps the own one.
    """
    generator = np.random.default_rng(seed)
    sources = _of_equal_length(train, generator)
    if shuffle == "users":
        return sources
    drawn = _of_equal_item(train, generator)
    return np.where(drawn >= 0, drawn, sources)


def _of_equal_length(train: RaggedArray, generator: np.random.Generator) -> LongArray:
    """Return the event of another user of equal or nearest length with as many events left."""
    lengths, others = train.lengths, np.arange(len(train))
    order = np.lexsort((generator.random(len(train)), lengths))
    order = order[lengths[order] > 0]
    for group in np.split(order, _bounds(lengths[order])):
        others[group] = np.roll(group, -1)
    users = _users(train)
    sources = others[users]
    places = np.arange(len(users)) - train.offsets[users] + lengths[sources] - lengths[users]
    events: LongArray = train.offsets[sources] + np.maximum(places, 0)
    return events


def _bounds(lengths: LongArray) -> list[int]:
    """Return where groups of at least two begin in sorted lengths, but for the first group."""
    bounds = [0]
    for start in np.flatnonzero(np.diff(lengths)) + 1:
        if start - bounds[-1] > 1:
            bounds.append(int(start))
    if len(lengths) - bounds[-1] == 1:
        bounds = bounds[:-1]
    return bounds[1:]


def _of_equal_item(train: RaggedArray, generator: np.random.Generator) -> LongArray:
    """Return an event of the same item of another user, followed by an event; -1 without one."""
    users, items = _users(train), train.values.astype(np.int64)
    has_next = np.ones(len(users), dtype=np.bool_)
    has_next[train.offsets[1:][train.lengths > 0] - 1] = False
    candidates = np.flatnonzero(has_next)
    keys = items * len(train) + users
    candidates = candidates[np.argsort(keys[candidates], kind="stable")]
    of_item, of_pair = (
        [np.searchsorted(sorted_keys[candidates], sorted_keys, side) for side in ("left", "right")]
        for sorted_keys in (items, keys)
    )
    n_own = of_pair[1] - of_pair[0]
    n_others = of_item[1] - of_item[0] - n_own
    drawn = of_item[0] + generator.integers(np.maximum(n_others, 1))
    drawn += np.where(drawn >= of_pair[0], n_own, 0)
    return np.append(candidates, -1)[np.where(n_others > 0, drawn, len(candidates))]


def _users(train: RaggedArray) -> LongArray:
    return np.repeat(np.arange(len(train)), train.lengths)
