"""What may be seen when: each user's history as ragged train, valid and test rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.interactions import FloatArray, IntArray, Interactions, LongArray
from recoach.errors import DataError

_IDS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class RaggedArray:
    """Rows of different lengths in one flat array.

    Attributes:
        offsets: int64[n+1], rising from 0; row i is values[offsets[i]:offsets[i+1]].
        values: int32[m].
    """

    offsets: LongArray
    values: IntArray

    @property
    def lengths(self) -> LongArray:
        """Return int64[n], the length of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> IntArray:
        """Return row `index` as a view, int32[length]; IndexError outside 0..n-1."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Ragged({len(self):,} rows, {len(self.values):,} values)"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A split log: n_users rows of item numbers in time order, three times.

    Attributes:
        name: what to call it in reports.
        user_ids: String[n_users], the external id of each user.
        item_ids: String[n_items], the external id of each item.
        train: the history to learn from; rows may be empty.
        valid: the targets that choose between models, none or one (or more) a user.
        test: the targets that are reported, none or one (or more) a user.
        fingerprint: 16 hex digits, a hash of everything above but the name.
        split: how it was split: "leave_last_out", "leave_last_5_out", "as given".
        ratings: what users gave for `train.values`; None where the log has none or somebody else
            has split it. No part of the fingerprint: no model and no metric reads it.
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


class Ordered(NamedTuple):
    """A log by user and time."""

    user_ids: pl.Series
    """String[n_users]."""
    item_ids: pl.Series
    """String[n_items]."""
    counts: LongArray
    """int64[n_users] rows of each user."""
    items: IntArray
    """int32[N]."""
    ratings: FloatArray | None = None
    """float32[N]."""


def leave_last_out(interactions: Interactions, name: str = "", *, test_items: int = 1) -> Dataset:
    """Hold out each user's last interaction for test and the one before for validation.

    Ties in time keep file order. A user with two rows gives one to train and one to test, a
    user with one row only trains. DataError where no user has three rows.

    Args:
        interactions: the log.
        name: what to call it.
        test_items: last interactions held out for test, to judge more than the next click; a user
            gives as many as leave one for validation and one to train on.
    """
    return last_out(in_order(interactions), name, test_items=test_items)


def last_out(log: Ordered, name: str = "", *, test_items: int = 1) -> Dataset:
    """Hold out as `leave_last_out` does, of a log that is in order."""
    counts = log.counts
    longest = int(counts.max(initial=0))
    if longest < 3:
        raise DataError(
            "users have too little history: holding out the last two interactions needs a user "
            f"with at least 3, the longest history here has {longest}; use a longer log or weaker "
            "filters"
        )
    n_test = np.clip(counts - 2, counts >= 2, test_items).astype(np.int64)
    split = "leave_last_out" if test_items == 1 else f"leave_last_{test_items}_out"
    n_valid = (counts >= 3).astype(np.int64)
    return replace(_held_out(log, n_valid, n_test, name), split=split)


def hold_out(
    interactions: Interactions, n_valid: LongArray, n_test: LongArray, name: str = ""
) -> Dataset:
    """Hold out each user's last `n_test` interactions, and the `n_valid` before them.

    Args:
        interactions: the log; ties in time keep file order.
        n_valid: int64[n_users].
        n_test: int64[n_users]; a user has `n_valid + n_test` rows at least.
        name: what to call it.
    """
    return _held_out(in_order(interactions), n_valid, n_test, name)


def in_order(interactions: Interactions) -> Ordered:
    """Return a log by user and time; ties keep file order."""
    order = chronological(interactions)
    return Ordered(
        interactions.user_ids,
        interactions.item_ids,
        np.bincount(interactions.users, minlength=interactions.n_users),
        interactions.items[order],
        None if interactions.ratings is None else interactions.ratings[order],
    )


def _held_out(log: Ordered, n_valid: LongArray, n_test: LongArray, name: str) -> Dataset:
    lengths = np.stack((log.counts - n_test - n_valid, n_valid, n_test))
    roles = np.repeat(np.tile(np.arange(3, dtype=np.uint8), len(log.counts)), lengths.T.ravel())
    train, valid, test = (_ragged(lengths[role], log.items[roles == role]) for role in range(3))
    ratings = None if log.ratings is None else log.ratings[roles == 0]
    parts = assemble(name, (log.user_ids, log.item_ids), (train, valid, test))
    return replace(parts, ratings=ratings)


def drop_last(rows: RaggedArray, count: int) -> RaggedArray:
    """Return the rows without their last `count` values; a row keeps at least its first."""
    if count == 0:
        return rows
    kept = np.maximum(rows.lengths - count, np.minimum(rows.lengths, 1))
    within = np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)
    return select(rows, within < np.repeat(kept, rows.lengths))


def select(rows: RaggedArray, which: npt.NDArray[np.bool_]) -> RaggedArray:
    """Return the rows with the values alone that bool[m] `which` keeps; rows may become empty."""
    kept = np.concatenate(([0], np.cumsum(which, dtype=np.int64)))[rows.offsets]
    return RaggedArray(kept, rows.values[which])


def from_parts(
    train: Interactions, valid: Interactions | None, test: Interactions, name: str = ""
) -> Dataset:
    """Join logs that somebody else has split, such as RecBole's benchmark files.

    The vocabularies are unions: ids that occur only in valid or test are kept, behind the others.
    Without `valid` every valid row is empty. DataError where train or test has no rows.
    """
    for part, role in ((train, "train"), (test, "test")):
        if not len(part):
            raise DataError(f"the {role} part has no interactions; a split needs some in each")
    parts = [train, test] if valid is None else [train, valid, test]
    user_ids, users = _union([part.user_ids for part in parts])
    item_ids, items = _union([part.item_ids for part in parts])
    rows = [
        _by_user(part, user_codes, item_codes, len(user_ids))
        for part, user_codes, item_codes in zip(parts, users, items, strict=True)
    ]
    if valid is None:
        empty = RaggedArray(
            np.zeros(len(user_ids) + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
        )
        rows.insert(1, empty)
    joined = assemble(name, (user_ids, item_ids), (rows[0], rows[1], rows[2]))
    return replace(joined, split="as given")


def assemble(
    name: str, ids: tuple[pl.Series, pl.Series], rows: tuple[RaggedArray, RaggedArray, RaggedArray]
) -> Dataset:
    """Return the Dataset of (user_ids, item_ids) and (train, valid, test), fingerprint included."""
    return Dataset(name, *ids, *rows, fingerprint=fingerprint(ids, rows))


def fingerprint(ids: Sequence[pl.Series], rows: Sequence[RaggedArray]) -> str:
    """Return 16 hex digits that change with any id or any row, on every machine the same."""
    digest = hashlib.sha256()
    for series in ids:
        digest.update(series.str.len_bytes().to_numpy().astype("<i8").tobytes())
        for start in range(0, len(series), _IDS_AT_ONCE):
            digest.update("".join(series[start : start + _IDS_AT_ONCE].to_list()).encode())
    for ragged in rows:
        digest.update(ragged.offsets.astype("<i8").tobytes())
        digest.update(ragged.values.astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def chronological(interactions: Interactions) -> LongArray:
    """Return int64[N], the rows ordered by user, then time; ties keep file order."""
    users, times = interactions.users, interactions.times
    if times is None or not len(times):
        return np.argsort(users, kind="stable")
    since = times - times.min()
    bits = int(since.max()).bit_length()
    if interactions.n_users.bit_length() + bits > 62:
        return np.lexsort((times, users))
    keys = (users.astype(np.int64) << bits) | since  # one sort by one number is thrice as fast
    ordered = pl.DataFrame({"key": keys}).with_row_index("row").sort("key", maintain_order=True)
    return ordered["row"].to_numpy().astype(np.int64)


def _ragged(lengths: LongArray, values: IntArray) -> RaggedArray:
    return RaggedArray(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))), values)


def _by_user(
    part: Interactions, user_codes: LongArray, item_codes: LongArray, n_users: int
) -> RaggedArray:
    order = chronological(part)
    users = user_codes[part.users[order]]
    items = item_codes[part.items[order]].astype(np.int32)
    counts = np.bincount(users, minlength=n_users)
    return _ragged(counts, items[np.argsort(users, kind="stable")])


def _union(vocabularies: list[pl.Series]) -> tuple[pl.Series, list[LongArray]]:
    """Return the union in order of first appearance and int64[n] codes of each vocabulary in it."""
    union = pl.concat(vocabularies).unique(maintain_order=True)
    codes = pl.int_range(len(union), eager=True)
    return union, [ids.replace_strict(union, codes).to_numpy() for ids in vocabularies]
