"""A log for off-policy evaluation: what was shown, with which probability, and what it earned."""

from dataclasses import dataclass, replace
from typing import Any, Final

import narwhals as nw
import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.errors import DataError

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NAMES: Final = ("item_id", "reward", "propensity", "position", "impression_id", "user_id")


@dataclass(frozen=True, slots=True, eq=False)
class OffPolicyLog:
    """N rows, each with an item that was shown, its reward and its propensity.

    Raises:
        DataError: columns of different lengths, a reward that is not finite, a propensity outside
            (0, 1], or a list whose rows are not together or not at the positions 1, 2, 3 and on.
    """

    states: pl.DataFrame
    """N rows: whatever a policy reads of the user and the request, such as `user_id`."""
    items: Longs
    """int64[N], number of the shown item in `item_ids`."""
    item_ids: pl.Series
    """ID of each item of the log, distinct."""
    rewards: Floats
    """float64[N]."""
    propensities: Floats | None
    """float64[N], probability of the item at its position given the state and, in a list, the items
    above it; None if nobody logged them."""
    positions: Longs
    """int64[N], from 1."""
    lists: Longs | None
    """int64[N], number of the list of each row, from 0 without gaps, ascending; None where each row
    is a decision of its own."""
    units: Longs
    """int64[N], number of the logging unit of each row (user or request), from 0 without gaps;
    rows of different units are independent."""
    estimated: bool = False
    """Whether the propensities are estimates, not the logging policy's own."""

    def __post_init__(self) -> None:
        self._check_lengths()
        if not np.isfinite(self.rewards).all():
            raise DataError("reward: not all values are finite numbers. Correct or drop the rows.")
        if (
            self.propensities is not None
            and not ((self.propensities > 0) & (self.propensities <= 1)).all()
        ):
            raise DataError(
                "propensity: not all values are above 0 and at most 1. An item that was shown had "
                "a probability above 0; correct or drop the rows."
            )
        if not (self.positions >= 1).all():
            raise DataError("position: a value is below 1. Positions start at 1; add 1 to all.")
        if self.lists is not None:
            self._check_lists(self.lists)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        kind = "rows" if self.lists is None else f"rows in {self.n_lists:,} lists"
        return f"OffPolicyLog({len(self):,} {kind}, {len(self.item_ids):,} items)"

    @property
    def n_lists(self) -> int:
        """Number of decisions: lists, or rows of a log without lists."""
        return len(self) if self.lists is None else int(self.lists[-1]) + 1

    def select(self, rows: npt.NDArray[np.bool_]) -> "OffPolicyLog":
        """Return some rows; lists and units are numbered again.

        Args:
            rows: bool[N]; of a list only the first positions may be kept.
        """
        return OffPolicyLog(
            states=self.states.filter(pl.Series(rows)),
            items=self.items[rows],
            item_ids=self.item_ids,
            rewards=self.rewards[rows],
            propensities=None if self.propensities is None else self.propensities[rows],
            positions=self.positions[rows],
            lists=None if self.lists is None else numbered(self.lists[rows]),
            units=numbered(self.units[rows]),
            estimated=self.estimated,
        )

    def top(self, depth: int) -> "OffPolicyLog":
        """Return the log with lists cut to their first positions.

        The probability of the first positions does not depend on the rest of the list, so that the
        value of the first `depth` positions can be evaluated where that of whole lists cannot.
        """
        return self.select(self.positions <= depth)

    def with_items(self, item_ids: pl.Series) -> "OffPolicyLog":
        """Return the log with more items in `item_ids`, such as those of a run's catalogue.

        Policies that show items which the log never shows can then be compared item by item.
        """
        ids = pl.concat([self.item_ids, item_ids.cast(pl.String).alias(self.item_ids.name)])
        return replace(self, item_ids=ids.unique(maintain_order=True))

    def with_propensities(self, propensities: Floats) -> "OffPolicyLog":
        """Return the log with other propensities, float64[N]."""
        return replace(self, propensities=propensities)

    def _check_lengths(self) -> None:
        arrays = (self.items, self.rewards, self.propensities, self.positions)
        lengths = {len(array) for array in (*arrays, self.lists, self.units) if array is not None}
        if not len(self.items):
            raise DataError("The log has no rows. There is nothing to evaluate a policy from.")
        if lengths | {self.states.height} != {len(self.items)}:
            raise DataError("The columns of an off-policy log must have the same length.")

    def _check_lists(self, lists: Longs) -> None:
        starts = np.flatnonzero(np.diff(lists, prepend=-1))
        expected = np.arange(len(lists)) - np.repeat(starts, np.diff(starts, append=len(lists))) + 1
        if not np.array_equal(lists[starts], np.arange(len(starts))) or not np.array_equal(
            self.positions, expected
        ):
            raise DataError(
                "position: a list has no row at one of its positions, or two. The rows of a list "
                "must be at the positions 1, 2, 3 and on, because the probability of an item "
                "depends on those above it."
            )


def from_frame(frame: Any, *, unit: str | None = None, estimated: bool = False) -> OffPolicyLog:  # noqa: ANN401 - any frame that narwhals reads
    """Return the log of a frame with a row for each item that was shown.

    Rows of a list are sorted by position; lists and single rows stay in the order of the frame.

    Args:
        frame: polars or pandas, with the columns `item_id` and `reward`. Read are also
            `propensity` (given the items above it in its list), `position` (from 1) and
            `impression_id`, which joins the rows of a list. All columns are part of the states.
        unit: the column whose values are independent, such as the user; None for `user_id` where
            it is there without gaps, otherwise the list, otherwise the row.
        estimated: whether the propensities are estimates.

    Raises:
        DataError: a column is missing or has a value that cannot be used.
    """
    table: pl.DataFrame = nw.from_native(frame, eager_only=True).to_polars()
    for name in ("item_id", "reward", *([unit] if unit else [])):
        if name not in table.columns:
            raise DataError(
                f"{name}: the log has no such column, only {', '.join(table.columns)}. Rename one."
            )
    unusable = [name for name in _NAMES[:3] if name in table.columns and table[name].has_nulls()]
    if unusable:
        raise DataError(f"{unusable[0]}: some rows have no value. Fill them in or drop the rows.")
    lists = _lists_of(table)
    if lists is not None:
        order = np.lexsort((table["position"].to_numpy(), lists))
        table, lists = table[order], numbered(lists[order])
    item_ids = table["item_id"].cast(pl.String)
    catalogue = item_ids.unique(maintain_order=True)
    positions = _numbers(table, "position", pl.Int64) if "position" in table.columns else None
    has_propensities = "propensity" in table.columns
    return OffPolicyLog(
        states=table,
        items=_codes(item_ids, catalogue),
        item_ids=catalogue,
        rewards=_numbers(table, "reward", pl.Float64),
        propensities=_numbers(table, "propensity", pl.Float64) if has_propensities else None,
        positions=np.ones(table.height, dtype=np.int64) if positions is None else positions,
        lists=lists,
        units=_units_of(table, lists, unit),
        estimated=estimated,
    )


def numbered(values: npt.NDArray[Any]) -> Longs:
    """Return int64[N], the number of each value in order of first appearance, from 0."""
    series = pl.Series(values)
    return _codes(series, series.unique(maintain_order=True))


def _codes(values: pl.Series, distinct: pl.Series) -> Longs:
    numbers = pl.DataFrame({"key": distinct, "code": np.arange(len(distinct))})
    joined = pl.DataFrame({"key": values}).join(
        numbers, on="key", how="left", maintain_order="left"
    )
    codes: Longs = joined["code"].to_numpy().astype(np.int64)
    return codes


def _lists_of(table: pl.DataFrame) -> Longs | None:
    """Return the list of each row; None where no list has a second row."""
    if not {"impression_id", "position"} <= set(table.columns):
        return None
    lists = numbered(table["impression_id"].to_numpy())
    return lists if len(lists) > lists.max() + 1 else None


def _units_of(table: pl.DataFrame, lists: Longs | None, unit: str | None) -> Longs:
    name = unit or "user_id"
    if name in table.columns and not table[name].has_nulls():
        return numbered(table[name].to_numpy())
    if unit is not None:
        raise DataError(f"{unit}: some rows have no value. Choose another column for the units.")
    return np.arange(table.height) if lists is None else lists


def _numbers(table: pl.DataFrame, name: str, dtype: type[pl.DataType]) -> npt.NDArray[Any]:
    try:
        return table[name].cast(dtype).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name}: not all values are numbers. Correct or drop the rows.") from error
