"""A split log: for each user one row of items in train, valid and test."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.interactions import TEXT_IDS, FloatArray, IdTypes, IntArray, LongArray
from recoach.data.log_columns import Columns, concatenate, take
from recoach.data.protocol import AnySplit, LeaveLastOut

_IDS_PER_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class RaggedArray:
    """Rows of different lengths in one flat array.

    Attributes:
        offsets: int64[n+1], nondecreasing from 0; row i is values[offsets[i]:offsets[i+1]].
        values: int32[m].
        columns: the optional columns of the log, m values each (see `log_columns`).
    """

    offsets: LongArray
    values: IntArray
    columns: Columns = field(default_factory=dict)

    @classmethod
    def from_lengths(
        cls,
        lengths: npt.NDArray[np.integer],
        values: IntArray,
        columns: Columns | None = None,
    ) -> "RaggedArray":
        """Return the rows of int[n] lengths, which follow each other in `values`."""
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        return cls(offsets, values, columns or {})

    @classmethod
    def empty(cls, n_rows: int) -> "RaggedArray":
        """Return n empty rows."""
        return cls(np.zeros(n_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32))

    @property
    def lengths(self) -> LongArray:
        """Return int64[n], the length of each row."""
        return np.diff(self.offsets)

    def keep_columns(self, names: Sequence[str]) -> "RaggedArray":
        """Return the rows with only these columns, as far as they exist."""
        columns = {name: self.columns[name] for name in names if name in self.columns}
        return replace(self, columns=columns)

    def row(self, index: int) -> IntArray:
        """Return row `index` as a view, int32[length]; IndexError outside 0..n-1."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} is out of range for {len(self)} rows")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take_rows(self, rows: LongArray) -> "RaggedArray":
        """Return the rows of int64[b] indices, in this order, without columns."""
        lengths = self.lengths[rows]
        index = np.repeat(self.offsets[rows] - np.cumsum(lengths) + lengths, lengths)
        return RaggedArray.from_lengths(lengths, self.values[index + np.arange(len(index))])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"RaggedArray({len(self):,} rows, {len(self.values):,} values)"


class IdsFingerprint(NamedTuple):
    """Which users and items the numbers of a dataset stand for."""

    users: str
    """16 hex digits, a hash of the user ids in their order."""
    items: str
    """16 hex digits, a hash of the item ids in their order."""


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
        fingerprint: 16 hex digits, a hash of the ids and the items of the three parts.
        split: how the log was split, and which of the events in valid and test are targets.
        negatives: items that a user rejected (dislike, skip, return), in no other part, with the
            column "after": the number of events of the user's sequence before the rejection.
        item_table: a row for each item, in their order, with what is known about it (title,
            category, text, vectors); the first column is item_id. None without a table.
        id_types: the types of the ids in the source of the log, which lists of items get back.
    """

    name: str
    user_ids: pl.Series
    item_ids: pl.Series
    train: RaggedArray
    valid: RaggedArray
    test: RaggedArray
    fingerprint: str
    split: AnySplit = field(default_factory=LeaveLastOut)
    negatives: RaggedArray | None = None
    item_table: pl.DataFrame | None = None
    id_types: IdTypes = TEXT_IDS
    _hashes: dict[int, tuple[pl.Series, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_frames(
        cls,
        train: object,
        valid: object | None = None,
        test: object | None = None,
        *,
        name: str = "",
        columns: Mapping[str, str] | None = None,
    ) -> "Dataset":
        """Return the dataset of frames that are already split.

        Args:
            train: a pandas, polars or arrow frame of interactions, or a path, with the columns of
                `recoach.read_interactions`.
            valid: the interactions that select weights; without them each user's last training
                event does.
            test: the interactions that are reported.
            name: the name in reports.
            columns: column name of Recoach -> the name in the frames, see `read_interactions`.

        Users and items of all frames are numbered together. The order of the parts holds also where
        times would mix them.

        Raises:
            ConfigError: there is no `test`.
            DataError: a frame cannot be read or is empty.
        """
        # By name, because the readers of logs build datasets.
        benchmark = import_module("recoach.data.benchmark")
        dataset: Dataset = benchmark.join_frames(train, valid, test, name, columns)
        return dataset

    @property
    def ids(self) -> IdsFingerprint:
        """The fingerprint of the ids, to which models are bound; computed once."""
        return IdsFingerprint(self._hash_of(self.user_ids), self._hash_of(self.item_ids))

    def _hash_of(self, ids: pl.Series) -> str:
        # By identity: datasets made by `replace` share the hashes, but may have other ids.
        if id(ids) not in self._hashes:
            digest = hashlib.sha256()
            _add_ids(digest, ids)
            self._hashes[id(ids)] = (ids, digest.hexdigest()[:16])
        return self._hashes[id(ids)][1]

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def trained_users(self) -> LongArray:
        """int64[n_users], the number of each user for models; -1 without a training event."""
        return np.where(self.train.lengths > 0, np.arange(self.n_users), -1)

    @property
    def ratings(self) -> FloatArray | None:
        """float32[m], the rating of each of `train.values`; None without ratings."""
        ratings = self.train.columns.get("rating")
        return None if ratings is None else ratings.to_numpy()

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{len(part.values):,} {name}"
            for name, part in (("train", self.train), ("valid", self.valid), ("test", self.test))
        )
        return (
            f"Dataset({self.name or 'unnamed'}: {self.n_users:,} users, {self.n_items:,} items, "
            f"{sizes}, {self.split.kind}, fingerprint {self.fingerprint})"
        )


def event_types(train: RaggedArray) -> list[str]:
    """Return the event types of histories in their order; none without the column."""
    values = train.columns.get("event_type")
    if values is None or not isinstance(values.dtype, pl.Enum):
        return []
    names: list[str] = values.dtype.categories.to_list()
    return names


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
    return RaggedArray(offsets, rows.values[mask], take(rows.columns, mask))


def join_rows(parts: Sequence[RaggedArray]) -> RaggedArray:
    """Return, for each user, the rows of all parts one after another."""
    n_rows = len(parts[0])
    users = np.concatenate([np.repeat(np.arange(n_rows), part.lengths) for part in parts])
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(users, kind="stable")
    lengths = np.sum([part.lengths for part in parts], axis=0)
    columns = concatenate([part.columns for part in parts if len(part.values)])
    return RaggedArray.from_lengths(lengths, values[order], take(columns, order))


def merge_valid(dataset: Dataset) -> Dataset:
    """Return the dataset with the validation events in train and none in valid.

    Models are trained on it again before test, for as many steps as validation selected.
    """
    train = join_rows([dataset.train, dataset.valid])
    rows = (train, RaggedArray.empty(len(train)), dataset.test)
    ids = (dataset.user_ids, dataset.item_ids)
    return replace(dataset, train=train, valid=rows[1], fingerprint=fingerprint(ids, rows))


def assemble(
    name: str, ids: tuple[pl.Series, pl.Series], rows: tuple[RaggedArray, RaggedArray, RaggedArray]
) -> Dataset:
    """Return the Dataset of (user_ids, item_ids) and (train, valid, test), with its fingerprint."""
    return Dataset(name, *ids, *rows, fingerprint=fingerprint(ids, rows))


def fingerprint(ids: Sequence[pl.Series], rows: Sequence[RaggedArray]) -> str:
    """Return a hash of 16 hex digits over all ids and rows, the same on every machine."""
    digest = hashlib.sha256()
    for series in ids:
        _add_ids(digest, series)
    for ragged in rows:
        digest.update(ragged.offsets.astype("<i8").tobytes())
        digest.update(ragged.values.astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def _add_ids(digest: "hashlib._Hash", ids: pl.Series) -> None:
    digest.update(ids.str.len_bytes().to_numpy().astype("<i8").tobytes())
    for start in range(0, len(ids), _IDS_PER_BLOCK):
        digest.update("".join(ids[start : start + _IDS_PER_BLOCK].to_list()).encode())
