"""A log ordered by user and time, the input of all splits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.dataset import RaggedArray
from recoach.data.interactions import TEXT_IDS, IdTypes, IntArray, Interactions, LongArray
from recoach.data.log_columns import Columns


class OrderedLog(NamedTuple):
    """A log ordered by user, then time, without the items that users rejected."""

    user_ids: pl.Series
    """String[n_users]."""
    item_ids: pl.Series
    """String[n_items]."""
    counts: LongArray
    """int64[n_users], number of rows of each user."""
    items: IntArray
    """int32[N], the item of each row."""
    columns: Columns
    """The optional columns in any order, without "negative"."""
    rows: LongArray
    """int64[N], row of each interaction in `columns`: they are gathered once, for each part."""
    negatives: RaggedArray | None = None
    """The rejected items, see `Dataset.negatives`."""
    id_types: IdTypes = TEXT_IDS
    """The types of the ids in the source."""

    @property
    def times(self) -> LongArray | None:
        """int64[N] milliseconds; None without times."""
        times = self.columns.get("timestamp")
        return None if times is None else times.to_numpy()[self.rows]


def order_log(interactions: Interactions) -> OrderedLog:
    """Return a log ordered by user, then time; file order breaks ties."""
    order = chronological(interactions)
    ids = (interactions.user_ids, interactions.item_ids)
    users, items = interactions.users[order], interactions.items[order]
    log = ordered_log(ids, users, items, interactions.columns, order)
    return log._replace(id_types=interactions.id_types)


def ordered_log(
    ids: tuple[pl.Series, pl.Series],
    users: IntArray,
    items: IntArray,
    columns: Columns,
    rows: LongArray | None = None,
) -> OrderedLog:
    """Return rows that are ordered by user and time, the rejected items apart.

    Args:
        ids: String[n_users] and String[n_items].
        users: int32[N], nondecreasing.
        items: int32[N].
        columns: N values each.
        rows: int64[N], row of each interaction in the columns; None if they have the same order.
    """
    columns = dict(columns)
    rows = np.arange(len(users)) if rows is None else rows
    negative = columns.pop("negative", None)
    n_users, negatives = len(ids[0]), None
    if negative is not None and negative.any():
        is_negative = negative.fill_null(value=False).to_numpy()[rows]
        negatives = _rejected(users, items, is_negative, n_users)
        users, items, rows = users[~is_negative], items[~is_negative], rows[~is_negative]
    return OrderedLog(*ids, np.bincount(users, minlength=n_users), items, columns, rows, negatives)


def shuffle_ties(
    log: OrderedLog, seed: int, parts: npt.NDArray[np.uint8] | None = None
) -> OrderedLog:
    """Return the log with the events of a user that have equal times in random order.

    Args:
        log: the log; without times it stays as it is.
        seed: of the order.
        parts: uint8[N], the part of each row; events of different parts are not tied.
    """
    if log.times is None:
        return log
    users = np.repeat(np.arange(len(log.counts)), log.counts)
    keys = np.random.default_rng(seed).permutation(len(users))
    order = np.lexsort((keys, log.times, users if parts is None else parts, users))
    return log._replace(items=log.items[order], rows=log.rows[order])


def chronological(interactions: Interactions) -> LongArray:
    """Return int64[N], the rows ordered by user, then time; file order breaks ties."""
    users, times = interactions.users, interactions.times
    if times is None or not len(times):
        return np.argsort(users, kind="stable")
    since = times - times.min()
    bits = int(since.max()).bit_length()
    if interactions.n_users.bit_length() + bits > 62:
        return np.lexsort((times, users))
    keys = (users.astype(np.int64) << bits) | since  # one sort key is 3 times as fast as two
    ordered = pl.DataFrame({"key": keys}).with_row_index("row").sort("key", maintain_order=True)
    return ordered["row"].to_numpy().astype(np.int64)


def _rejected(
    users: IntArray, items: IntArray, is_negative: npt.NDArray[np.bool_], n_users: int
) -> RaggedArray:
    """Return the rejected items of each user, with the number of events before each."""
    events_before: LongArray = np.cumsum(~is_negative) - ~is_negative
    first_rows = np.searchsorted(users, np.arange(n_users))
    user_starts = np.append(events_before, len(users) - is_negative.sum())[first_rows]
    after = (events_before - user_starts[users])[is_negative]
    lengths = np.bincount(users[is_negative], minlength=n_users)
    columns = {"after": pl.Series(after, dtype=pl.Int64)}
    return RaggedArray.from_lengths(lengths, items[is_negative], columns)
