"""The interaction log as frozen arrays: dense ids, their external names, times, ratings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
RowArray = npt.NDArray[np.uint32]

_BLOCK = 1 << 18  # rows compared at once


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """A log of N interactions in file order, users and items numbered by first appearance.

    Attributes:
        users: int32[N] in 0..n_users-1; every number occurs.
        items: int32[N] in 0..n_items-1; every number occurs.
        user_ids: String[n_users], the external id of each user.
        item_ids: String[n_items], the external id of each item.
        times: int64[N] milliseconds since 1970 UTC; None where file order is time order.
        ratings: float32[N]; None where the log has none.
    """

    users: IntArray
    items: IntArray
    user_ids: pl.Series
    item_ids: pl.Series
    times: LongArray | None = None
    ratings: FloatArray | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        has = [name for name in ("times", "ratings") if getattr(self, name) is not None]
        return (
            f"Interactions({len(self):,} of {self.n_users:,} users and {self.n_items:,} items"
            f"{', with ' if has else ''}{' and '.join(has)})"
        )

    def frame(self) -> pl.DataFrame:
        """Return the log under its external ids: user_id, item_id[, timestamp][, rating]."""
        columns = {
            "user_id": self.user_ids.gather(self.users),
            "item_id": self.item_ids.gather(self.items),
        }
        if self.times is not None:
            stamps = pl.Series(self.times, dtype=pl.Int64)
            columns["timestamp"] = stamps.cast(pl.Datetime("ms"))
        if self.ratings is not None:
            columns["rating"] = pl.Series(self.ratings)
        return pl.DataFrame(columns)

    def keep(self, rows: npt.NDArray[np.bool_]) -> "Interactions":
        """Return the rows where `rows` (bool[N]) is true, users and items numbered anew.

        The order of the rows stays; ids that no longer occur leave the vocabularies.
        """
        users, user_codes = number(self.users[rows], self.n_users)
        items, item_codes = number(self.items[rows], self.n_items)
        return Interactions(
            users,
            items,
            self.user_ids.gather(user_codes),
            self.item_ids.gather(item_codes),
            None if self.times is None else self.times[rows],
            None if self.ratings is None else self.ratings[rows],
        )


def number(codes: npt.NDArray[np.integer], n_codes: int) -> tuple[IntArray, LongArray]:
    """Renumber codes densely in order of first appearance.

    Args:
        codes: int[N] in 0..n_codes-1, with gaps.
        n_codes: how many codes there could be.

    Returns:
        int32[N] the new numbers, and int64[n] the old code of each new number.
    """
    absent = len(codes)
    first = np.full(n_codes, absent, dtype=np.int64)
    first[codes[::-1]] = np.arange(absent - 1, -1, -1)  # of equal codes the last written stays
    present = np.flatnonzero(first < absent)
    present = present[np.argsort(first[present])]
    renumbered = np.empty(n_codes, dtype=np.int32)
    renumbered[present] = np.arange(len(present), dtype=np.int32)
    return renumbered[codes], present


def first_rows(values: pl.Series) -> RowArray:
    """Return uint32[N], the first of the rows that hold the same value; no value may be null.

    A hash table that takes all rows at once: of the values that meet in a slot the earliest stays,
    and the rows of the others try again with another hash.
    """
    slots = 1 << max(1, len(values).bit_length() - 1)
    table = np.empty(slots, dtype=np.uint32)
    first = np.empty(len(values), dtype=np.uint32)
    rows, held, seed = np.arange(len(values), dtype=np.uint32), values, 0
    while len(rows):
        slot = held.hash(seed).to_numpy() & np.uint64(slots - 1)
        table[slot[::-1]] = rows[::-1]  # the earliest is written last
        first[rows] = table[slot]
        clash = _differ(held, values, first[rows])
        rows, held, seed = rows[clash], held.filter(pl.Series(clash)), seed + 1
    return first


def _differ(held: pl.Series, values: pl.Series, rows: RowArray) -> npt.NDArray[np.bool_]:
    """Return bool[N], whether held differs from values[rows]; a block at a time, to save memory."""
    different = np.empty(len(rows), dtype=np.bool_)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        different[block] = (held[block] != values.gather(rows[block])).to_numpy()
    return different
