"""An interaction log as arrays: dense user and item numbers, external ids, optional columns."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.log_columns import Columns, take
from recoach.data.read_report import ReadReport

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class IdTypes(NamedTuple):
    """The types that the ids have in the source of a log; ids are text in all computations."""

    users: pl.DataType = pl.String()
    """An integer type, or String for every other source."""
    items: pl.DataType = pl.String()
    """The same for items."""

    def names(self) -> dict[str, str]:
        """Return the names of the types, as `from_names` takes them."""
        return {side: str(dtype) for side, dtype in self._asdict().items()}

    @classmethod
    def from_names(cls, names: object) -> "IdTypes":
        """Return the types of these names; text for everything else than an integer type."""
        names = names if isinstance(names, dict) else {}
        users, items = (_INTEGERS.get(str(names.get(side)), pl.String()) for side in cls._fields)
        return cls(users, items)

    def users_of(self, ids: pl.Series) -> pl.Series:
        """Return ids of users in the type of the source; as text if one of them is none of it."""
        return _as_type(ids, self.users)

    def items_of(self, ids: pl.Series) -> pl.Series:
        """Return ids of items in the type of the source; as text if one of them is none of it."""
        return _as_type(ids, self.items)


TEXT_IDS = IdTypes()
_INTEGERS = {
    str(dtype): dtype()
    for dtype in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
}


def _as_type(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    typed = ids.cast(dtype, strict=False)
    # Not "007" for 7: the text must come back.
    return typed if typed.null_count() == 0 and bool((typed.cast(pl.String) == ids).all()) else ids


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """A log of N interactions in file order, users and items numbered by first appearance.

    Attributes:
        users: int32[N] in 0..n_users-1; every number occurs.
        items: int32[N] in 0..n_items-1; every number occurs.
        user_ids: String[n_users], the external id of each user.
        item_ids: String[n_items], the external id of each item.
        columns: the optional columns of the log, see `log_columns`; N values each. Without
            "timestamp" file order is time order.
        report: how the log was read; None for a log that was not read from a source.
        id_types: the types of the ids in the source.
    """

    users: IntArray
    items: IntArray
    user_ids: pl.Series
    item_ids: pl.Series
    columns: Columns = field(default_factory=dict)
    report: ReadReport | None = None
    id_types: IdTypes = TEXT_IDS

    @property
    def times(self) -> LongArray | None:
        """int64[N] milliseconds since 1970 UTC; None without times."""
        return self.columns["timestamp"].to_numpy() if "timestamp" in self.columns else None

    @property
    def ratings(self) -> FloatArray | None:
        """float32[N]; None without ratings."""
        return self.columns["rating"].to_numpy() if "rating" in self.columns else None

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        with_columns = f", with {', '.join(self.columns)}" if self.columns else ""
        return (
            f"Interactions({len(self):,} of {self.n_users:,} users and {self.n_items:,} items"
            f"{with_columns})"
        )

    def frame(self) -> pl.DataFrame:
        """Return the log with its external ids: user_id, item_id and the optional columns.

        The ids have the types of the source.
        """
        columns = dict(self.columns)
        if "timestamp" in columns:
            columns["timestamp"] = columns["timestamp"].cast(pl.Datetime("ms"))
        ids = {
            "user_id": self.id_types.users_of(self.user_ids).gather(self.users),
            "item_id": self.id_types.items_of(self.item_ids).gather(self.items),
        }
        return pl.DataFrame(ids | columns)

    def keep(self, rows: npt.NDArray[np.bool_]) -> "Interactions":
        """Return the rows where the mask `rows` (bool[N]) is true, in the same order.

        Users and items are renumbered; ids that no longer occur are dropped.
        """
        users, user_codes = renumber(self.users[rows], self.n_users)
        items, item_codes = renumber(self.items[rows], self.n_items)
        return Interactions(
            users,
            items,
            self.user_ids.gather(user_codes),
            self.item_ids.gather(item_codes),
            take(self.columns, rows),
            self.report,
            self.id_types,
        )


def renumber(codes: npt.NDArray[np.integer], n_codes: int) -> tuple[IntArray, LongArray]:
    """Number codes 0, 1, ... in order of first appearance.

    Args:
        codes: int[N] in 0..n_codes-1, with gaps.
        n_codes: number of possible codes.

    Returns:
        int32[N] the new numbers, and int64[n] the old code of each new number.
    """
    absent = len(codes)
    first_row = np.full(n_codes, absent, dtype=np.int64)
    first_row[codes[::-1]] = np.arange(absent - 1, -1, -1)  # the first row is written last
    present = np.flatnonzero(first_row < absent)
    present = present[np.argsort(first_row[present])]
    new_codes = np.empty(n_codes, dtype=np.int32)
    new_codes[present] = np.arange(len(present), dtype=np.int32)
    return new_codes[codes], present


def encode_ids(ids: pl.Series) -> tuple[IntArray, pl.Series]:
    """Return int32[N] numbers by first appearance, and String[n] the id of each number.

    No id may be null.
    """
    distinct = ids.unique(maintain_order=True).cast(pl.String).alias("")
    numbers = ids.cast(pl.String).cast(pl.Enum(distinct)).to_physical()
    return numbers.to_numpy().astype(np.int32), distinct
