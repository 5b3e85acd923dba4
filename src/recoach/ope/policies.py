"""Policies that can be evaluated: what they show with which probability at the rows of a log."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import narwhals as nw
import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.errors import DataError
from recoach.ope.log import OffPolicyLog

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BLOCK_SIZE = 256
"""Rows whose probabilities are in memory at once."""
_TOLERANCE = 1e-6
_SUM_TOLERANCE = 1e-3  # for tables with rounded probabilities


class Choices(NamedTuple):
    """The distribution of the shown item at b rows, over S items of each row."""

    items: Longs
    """int64[b, S], numbers in the log's `item_ids`; -1 for an item that the log never shows."""
    probabilities: Floats
    """float64[b, S]; a row sums to at most 1."""


class EvaluatedPolicy(Protocol):
    """A policy, as off-policy evaluation reads it."""

    def choices(self, log: OffPolicyLog, rows: Longs) -> Choices:
        """Return the distribution of the item at the position of each row.

        In a log of lists it is the distribution given the items above the row in its list.

        Args:
            log: the whole log.
            rows: int64[b] rows of it.
        """


class TablePolicy:
    """A policy that shows items with fixed frequencies, for each position or for all of them.

    Args:
        frame: polars or pandas, with `item_id`, `probability` and, if the frequencies differ by
            position, `position` (from 1). Probabilities sum to 1 at each position, within 0.001.

    Raises:
        DataError: a column is missing, a probability is below 0 or missing, a position is below 1,
            an item is twice at a position, or probabilities do not sum to 1.
    """

    def __init__(self, frame: Any) -> None:  # noqa: ANN401 - any frame that narwhals reads
        table: pl.DataFrame = nw.from_native(frame, eager_only=True).to_polars()
        if not {"item_id", "probability"} <= set(table.columns):
            raise DataError(
                f"A policy's table needs the columns item_id and probability, not "
                f"{', '.join(table.columns)}. Rename or add them."
            )
        probabilities = table["probability"].cast(pl.Float64).fill_null(-1)
        if not len(table) or not (probabilities >= 0).all():
            raise DataError("probability: a value is missing or below 0. Correct the table.")
        self._by_position = "position" in table.columns
        position = pl.col("position").cast(pl.Int64) if self._by_position else pl.lit(0)
        self._table = table.select(
            pl.col("item_id").cast(pl.String), probabilities, position.alias("position")
        )
        self._check()

    def _check(self) -> None:
        """Raise a DataError for a bad position, a repeated item or a sum that is not 1."""
        keys = self._table.select("position", "item_id")
        where = " at position {}" if self._by_position else ""
        if self._by_position and not (keys["position"] >= 1).fill_null(value=False).all():
            raise DataError("position: a value is missing or below 1. Positions start at 1.")
        repeated = keys.filter(keys.is_duplicated())
        if len(repeated):
            position, item_id = repeated.row(0)
            raise DataError(
                f"item_id: the policy's table has {item_id!r} twice{where.format(position)}. Keep "
                "one row for each item."
            )
        sums = self._table.group_by("position", maintain_order=True).agg(pl.sum("probability"))
        for position, total in sums.rows():
            if not abs(total - 1) <= _SUM_TOLERANCE:
                raise DataError(
                    f"probability: the values of the policy's table sum to {total:g}"
                    f"{where.format(position)}, not 1. Divide them by their sum."
                )

    def choices(self, log: OffPolicyLog, rows: Longs) -> Choices:
        """Return the frequencies at the position of each row.

        Raises:
            DataError: the table has no item for a position of the log.
        """
        item_of = {item_id: number for number, item_id in enumerate(log.item_ids)}
        ids = self._table["item_id"].unique(maintain_order=True).to_list()
        column_of = {item_id: column for column, item_id in enumerate(ids)}
        keys = log.positions[rows] if self._by_position else np.zeros(len(rows), dtype=np.int64)
        tables = {}
        for (position,), part in self._table.group_by("position"):
            frequencies = np.zeros(len(ids))
            columns = [column_of[item_id] for item_id in part["item_id"]]
            np.add.at(frequencies, columns, part["probability"].to_numpy())
            tables[position] = frequencies / frequencies.sum()
        missing = set(keys.tolist()) - set(tables)
        if missing:
            raise DataError(f"position: the policy's table has no item for {min(missing)}. Add it.")
        probabilities = np.stack([tables[key] for key in keys.tolist()])
        items = np.array([item_of.get(item_id, -1) for item_id in ids])
        return Choices(np.broadcast_to(items, probabilities.shape), probabilities)


class FunctionPolicy:
    """A policy that is a function of the states.

    Args:
        function: maps b rows of the log's `states` to float64[b, I], the probability of each item
            of the log's `item_ids`; in a log of lists given the items above. A row may sum to less
            than 1, the rest being items that the log never shows.
    """

    def __init__(self, function: Callable[[pl.DataFrame], Floats]) -> None:
        self._function = function

    def choices(self, log: OffPolicyLog, rows: Longs) -> Choices:
        """Return the function's probabilities for the rows.

        Raises:
            DataError: they have another shape or are no probabilities.
        """
        probabilities = np.asarray(self._function(log.states[rows]), dtype=np.float64)
        expected = (len(rows), len(log.item_ids))
        if probabilities.shape != expected:
            raise DataError(
                f"A policy's function returned an array of shape {probabilities.shape}, not "
                f"{expected}: one row for each state, one column for each of the log's item_ids."
            )
        total = probabilities.sum(axis=1)
        if not (probabilities >= 0).all() or not (total <= 1 + _TOLERANCE).all():
            raise DataError(
                "A policy's function returned values that are no probabilities: below 0, or with "
                f"a sum of {total.max():g} in a row. Return float64[rows, items] that sum to 1."
            )
        return Choices(np.broadcast_to(np.arange(expected[1]), expected), probabilities)


def logged_probabilities(items: Longs, choices: Choices) -> Floats:
    """Return float64[b], the probability of one item at each row.

    Args:
        items: int64[b].
        choices: of the same rows.
    """
    is_item = choices.items == items[:, None]
    total: Floats = np.where(is_item, choices.probabilities, 0.0).sum(axis=1)
    return total


def blocks_of(n_rows: int) -> Iterator[Longs]:
    """Yield the numbers of all rows in blocks."""
    for start in range(0, n_rows, BLOCK_SIZE):
        yield np.arange(start, min(start + BLOCK_SIZE, n_rows))
