"""Split a log into train, valid and test: one row of items per user in each."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.interactions import FloatArray, IntArray, Interactions, LongArray
from recoach.errors import DataError

_IDS_PER_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class RaggedArray:
    """Rows of different lengths in one flat array.

    Attributes:
        offsets: int64[n+1], nondecreasing from 0; row i is values[offsets[i]:offsets[i+1]].
        values: int32[m].
    """

    offsets: LongArray
    values: IntArray

    @classmethod
    def from_lengths(cls, lengths: npt.NDArray[np.integer], values: IntArray) -> "RaggedArray":
        """Return the rows of int[n] lengths, which follow each other in `values`."""
        return cls(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))), values)

    @property
    def lengths(self) -> LongArray:
        """Return int64[n], the length of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> IntArray:
        """Return row `index` as a view, int32[length]; IndexError outside 0..n-1."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is out of range for {len(self)} rows")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"RaggedArray({len(self):,} rows, {len(self.values):,} values)"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A split log: per part, one row of item numbers in time order for each user.

    Attributes:
        name: the name in reports.
        user_ids: String[n_users], the external id of each user.
        item_ids: String[n_items], the external id of each item.
        train: the histories to train on; rows may be empty.
        valid: the targets of model selection, zero or more per user.
        test: the targets of the reported metrics, zero or more per user.
        fingerprint: 16 hex digits, a hash of the ids and the three parts.
        split: the kind of split: "leave_last_out", "leave_last_5_out", "as given".
        ratings: float32[m], the rating of each of `train.values`; None if the log has none or was
            split before it was read. Not part of the fingerprint: no model or metric reads it.
    """

    name: str
    user_ids: pl.Series
    item_ids: pl.Series
    train: RaggedArray
    valid: RaggedArray
    test: RaggedArray
    fingerprint: str
    split: str = "leave_last_out"
    ratings: FloatArray | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{len(part.values):,} {name}"
            for name, part in (("train", self.train), ("valid", self.valid), ("test", self.test))
        )
        return (
            f"Dataset({self.name or 'unnamed'}: {self.n_users:,} users, {self.n_items:,} items, "
            f"{sizes}, {self.split}, fingerprint {self.fingerprint})"
        )


class OrderedLog(NamedTuple):
    """A log ordered by user, then time."""

    user_ids: pl.Series
    """String[n_users]."""
    item_ids: pl.Series
    """String[n_items]."""
    counts: LongArray
    """int64[n_users], number of rows of each user."""
    items: IntArray
    """int32[N], the item of each row."""
    ratings: FloatArray | None = None
    """float32[N]; None without ratings."""


def leave_last_out(interactions: Interactions, name: str = "", *, test_items: int = 1) -> Dataset:
    """Hold out each user's last interaction for test and the one before for validation.

    File order breaks ties in time. A user with two rows has one in train and one in test, a user
    with one row has it in train.

    Args:
        interactions: the log.
        name: the name of the dataset.
        test_items: number of last interactions held out for test, fewer for users for whom no
            interaction would be left for validation and one for training.

    Raises:
        DataError: no user has three rows.
    """
    return split_ordered_log(order_log(interactions), name, test_items=test_items)


def split_ordered_log(log: OrderedLog, name: str = "", *, test_items: int = 1) -> Dataset:
    """Split an ordered log as `leave_last_out` does."""
    counts = log.counts
    longest = int(counts.max(initial=0))
    if longest < 3:
        raise DataError(
            "users have too little history: holding out the last two interactions needs a user "
            f"with at least 3, the longest history here has {longest}. Use a longer log or weaker "
            "filters."
        )
    n_test = np.clip(counts - 2, counts >= 2, test_items).astype(np.int64)
    split = "leave_last_out" if test_items == 1 else f"leave_last_{test_items}_out"
    n_valid = (counts >= 3).astype(np.int64)
    return replace(_hold_out(log, n_valid, n_test, name), split=split)


def hold_out(
    interactions: Interactions, n_valid: LongArray, n_test: LongArray, name: str = ""
) -> Dataset:
    """Hold out each user's last `n_test` rows for test and the `n_valid` before for validation.

    `n_valid` and `n_test` are int64[n_users] and together at most the number of a user's rows. File
    order breaks ties in time.
    """
    return _hold_out(order_log(interactions), n_valid, n_test, name)


def order_log(interactions: Interactions) -> OrderedLog:
    """Return a log ordered by user, then time; file order breaks ties."""
    order = chronological(interactions)
    return OrderedLog(
        interactions.user_ids,
        interactions.item_ids,
        np.bincount(interactions.users, minlength=interactions.n_users),
        interactions.items[order],
        None if interactions.ratings is None else interactions.ratings[order],
    )


def _hold_out(log: OrderedLog, n_valid: LongArray, n_test: LongArray, name: str) -> Dataset:
    lengths = np.stack((log.counts - n_test - n_valid, n_valid, n_test))
    # The part (0 train, 1 valid, 2 test) of each row of the log.
    parts = np.repeat(np.tile(np.arange(3, dtype=np.uint8), len(log.counts)), lengths.T.ravel())
    train, valid, test = (
        RaggedArray.from_lengths(lengths[part], log.items[parts == part]) for part in range(3)
    )
    ratings = None if log.ratings is None else log.ratings[parts == 0]
    dataset = assemble(name, (log.user_ids, log.item_ids), (train, valid, test))
    return replace(dataset, ratings=ratings)


def drop_last(rows: RaggedArray, count: int) -> RaggedArray:
    """Return the rows without their last `count` values; a row keeps at least its first."""
    if count == 0:
        return rows
    new_lengths = np.maximum(rows.lengths - count, np.minimum(rows.lengths, 1))
    index_in_row = np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)
    return select(rows, index_in_row < np.repeat(new_lengths, rows.lengths))


def select(rows: RaggedArray, mask: npt.NDArray[np.bool_]) -> RaggedArray:
    """Return the rows with only the values where bool[m] `mask` is true; rows may become empty."""
    offsets = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))[rows.offsets]
    return RaggedArray(offsets, rows.values[mask])


def from_parts(
    train: Interactions, valid: Interactions | None, test: Interactions, name: str = ""
) -> Dataset:
    """Join logs that are already split, such as RecBole's benchmark files.

    Ids that occur only in valid or test are kept, numbered after those of train. Without `valid`
    every valid row is empty. DataError if train or test has no rows.
    """
    for part, role in ((train, "train"), (test, "test")):
        if not len(part):
            raise DataError(
                f"{name or 'dataset'}: the {role} part has no interactions. Add at least one row."
            )
    parts = [train, test] if valid is None else [train, valid, test]
    user_ids, users = _union([part.user_ids for part in parts])
    item_ids, items = _union([part.item_ids for part in parts])
    rows = [
        _by_user(part, user_codes, item_codes, len(user_ids))
        for part, user_codes, item_codes in zip(parts, users, items, strict=True)
    ]
    if valid is None:
        no_rows = np.zeros(len(user_ids), dtype=np.int64)
        rows.insert(1, RaggedArray.from_lengths(no_rows, np.empty(0, dtype=np.int32)))
    joined = assemble(name, (user_ids, item_ids), (rows[0], rows[1], rows[2]))
    return replace(joined, split="as given")


def assemble(
    name: str, ids: tuple[pl.Series, pl.Series], rows: tuple[RaggedArray, RaggedArray, RaggedArray]
) -> Dataset:
    """Return the Dataset of (user_ids, item_ids) and (train, valid, test), with its fingerprint."""
    return Dataset(name, *ids, *rows, fingerprint=fingerprint(ids, rows))


def fingerprint(ids: Sequence[pl.Series], rows: Sequence[RaggedArray]) -> str:
    """Return a hash of 16 hex digits over all ids and rows, the same on every machine."""
    digest = hashlib.sha256()
    for series in ids:
        digest.update(series.str.len_bytes().to_numpy().astype("<i8").tobytes())
        for start in range(0, len(series), _IDS_PER_BLOCK):
            digest.update("".join(series[start : start + _IDS_PER_BLOCK].to_list()).encode())
    for ragged in rows:
        digest.update(ragged.offsets.astype("<i8").tobytes())
        digest.update(ragged.values.astype("<i4").tobytes())
    return digest.hexdigest()[:16]


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


def _by_user(
    part: Interactions, user_codes: LongArray, item_codes: LongArray, n_users: int
) -> RaggedArray:
    order = chronological(part)
    users = user_codes[part.users[order]]
    items = item_codes[part.items[order]].astype(np.int32)
    lengths = np.bincount(users, minlength=n_users)
    return RaggedArray.from_lengths(lengths, items[np.argsort(users, kind="stable")])


def _union(vocabularies: list[pl.Series]) -> tuple[pl.Series, list[LongArray]]:
    """Return the union in order of first appearance and int64[n] codes of each vocabulary in it."""
    union = pl.concat(vocabularies).unique(maintain_order=True)
    codes = pl.int_range(len(union), eager=True)
    return union, [ids.replace_strict(union, codes).to_numpy() for ids in vocabularies]
