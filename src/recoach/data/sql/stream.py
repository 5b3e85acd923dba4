"""The same filters and split for a log that does not fit into memory: SQL, by an engine on disk.

Polars streams the file into Parquet, so that every format and every complaint is the same; what
needs all rows at once (numbers by first appearance, pairs, k-core, order) DuckDB (`in_duckdb`) or
Spark (`in_spark`) does, in a folder that is removed. The result equals that of `filters` and
`split` row by row.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from recoach.data.filters import NOT_RATED, empty_core, rated_too_low
from recoach.data.ingest import stream_interactions
from recoach.data.split import Dataset, Ordered, last_out
from recoach.data.statistics import Statistics, from_counts
from recoach.data.timestamps import scale_of
from recoach.errors import DataError

if TYPE_CHECKING:
    from recoach.data.prepared import PrepareConfig

_SIDES = ("user", "item")
_OURS = {"timestamp": "time", "rating": "rating"}
"""Measures, and what they are called in the table `log`."""


class Engine(Protocol):
    """What runs the SQL; it knows `rint`, halves to the even number."""

    def view(self, name: str, path: Path) -> None:
        """Call a Parquet file by a name."""

    def make(self, table: str, query: str) -> None:
        """Make or replace a table; the query may read what it replaces."""

    def delete(self, table: str, condition: str) -> None:
        """Remove rows."""

    def drop(self, table: str) -> None:
        """Remove a table or a view."""

    def row(self, query: str) -> Any:  # noqa: ANN401 - whatever is asked for
        """Return the first row of an answer."""

    def frame(self, query: str) -> pl.DataFrame:
        """Return an answer in its order."""


def split_by(
    engine: Callable[[Path], AbstractContextManager[Engine]],
    source: Path,
    config: "PrepareConfig",
    directory: Path,
) -> tuple[Dataset, Statistics]:
    """Read, filter and split a log.

    Args:
        engine: opens an engine that works in a folder.
        source: a file.
        config: filters, split, columns and format.
        directory: the scratch folder is made beside it; three times the log may be needed.

    Raises:
        DataError: as `prepare`.
        OSError: no room.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as own:
        rows = Path(own) / "rows.parquet"
        columns = stream_interactions(source, rows, config.columns, config.format)
        with engine(Path(own)) as opened:
            return _split(_Log(opened, columns), rows, config)


def _split(log: "_Log", rows: Path, config: "PrepareConfig") -> tuple[Dataset, Statistics]:
    log.load(rows)
    if config.min_rating is not None:
        log.rated(config.min_rating)
    if config.dedup != "none":
        log.without_repeats(config.dedup)
    if config.k_core:
        log.core(config.k_core)
    log.number()
    return last_out(log.ordered(), test_items=config.test_items), log.statistics()


class _Log:
    """The table `log`: row, user, item[, time][, rating]; ids stand in `users` and `items`.

    A user's code, like an item's, is the row of the first appearance: codes are numbers in order,
    with gaps.
    """

    def __init__(self, engine: Engine, columns: tuple[str, ...]) -> None:
        self._engine, self._make = engine, engine.make
        self._measures = [name for name in ("timestamp", "rating") if name in columns]

    def load(self, rows: Path) -> None:
        """Take in the rows, and remove their file."""
        self._engine.view("rows", rows)
        for table, column in (("users", "user_id"), ("items", "item_id")):
            self._make(
                table, f"SELECT min(row) AS code, {column} AS id FROM rows GROUP BY {column}"
            )
        measures = "".join(f", {self._measured(name)}" for name in self._measures)
        self._make(
            "log",
            f"SELECT row, users.code AS user, items.code AS item{measures} "
            "FROM rows JOIN users ON users.id = user_id JOIN items ON items.id = item_id",
        )
        self._engine.drop("rows")
        rows.unlink()

    def _measured(self, name: str) -> str:
        if name == "rating":
            return "rating"
        kind = self._one("SELECT typeof(timestamp) FROM rows LIMIT 1")
        if kind.upper() != "DOUBLE":
            return "CAST(timestamp AS BIGINT) AS time"
        # Of an even number the mean of the two in the middle, found by sorting, which can spill.
        count = self._one("SELECT count(*) FROM rows")
        size = self._one(
            "SELECT avg(size) FROM (SELECT abs(timestamp) AS size FROM rows ORDER BY size "
            f"LIMIT {2 - count % 2} OFFSET {(count - 1) // 2})"
        )
        scale = f"CAST({scale_of(size)!r} AS DOUBLE)"
        return f"CAST(rint(timestamp * {scale}) AS BIGINT) AS time"

    def rated(self, threshold: float) -> None:
        """Keep the rows rated `threshold` or better."""
        if "rating" not in self._measures:
            raise DataError(NOT_RATED)
        highest = self._one("SELECT max(rating) FROM log")
        if highest < np.float32(threshold):
            raise DataError(rated_too_low(threshold, highest))
        self._keep(f"WHERE rating >= CAST({threshold!r} AS REAL)")

    def without_repeats(self, keep: str) -> None:
        """Keep one row of each pair, the earliest or the latest; ties go by file order."""
        way = "ASC" if keep == "first" else "DESC"
        order = ", ".join(f"{name} {way}" for name in self._order())
        columns = ["row", *_SIDES, *(_OURS[name] for name in self._measures)]
        self._make(
            "log",
            f"SELECT {', '.join(columns)} FROM (SELECT *, row_number() OVER (PARTITION BY user, "
            f"item ORDER BY {order}) AS place FROM log) AS ranked WHERE place = 1",
        )

    def core(self, k: int) -> None:
        """Keep the k-core."""
        if not self._core(k):
            raise DataError(self._empty_core(k))
        self._keep(" ".join(f"SEMI JOIN of_{s} ON of_{s}.code = log.{s}" for s in _SIDES))
        for table in ("core", "going", "of_user", "of_item"):
            self._engine.drop(table)

    def _core(self, k: int) -> int:
        """Make `core` the pairs of the k-core of `log` and return how many there are.

        Counts lose what goes, as in memory: a round costs what it removes, and a look at the rest.
        """
        self._make("core", "SELECT user, item FROM log")
        for side in _SIDES:
            self._make(
                f"of_{side}", f"SELECT {side} AS code, count(*) AS count FROM core GROUP BY {side}"
            )
        goes = " OR ".join(
            f"EXISTS (SELECT 1 FROM of_{side} WHERE of_{side}.code = core.{side} AND "
            f"of_{side}.count < {k})"
            for side in _SIDES
        )
        while True:
            self._make("going", f"SELECT * FROM core WHERE {goes}")
            if not self._one("SELECT count(*) FROM going"):
                return int(self._one("SELECT count(*) FROM core"))
            self._engine.delete("core", goes)
            for side in _SIDES:
                self._make(
                    f"of_{side}",
                    f"SELECT code, count - coalesce(n, 0) AS count FROM of_{side} LEFT JOIN "
                    f"(SELECT {side} AS gone, count(*) AS n FROM going GROUP BY {side}) AS less "
                    f"ON code = gone WHERE count >= {k}",
                )

    def _empty_core(self, k: int) -> str:
        low, high = 0, k
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._core(middle) else (low, middle)
        self._core(low)
        return empty_core(k, low, self._counts("core"))

    def number(self) -> None:
        """Number users and items by first appearance."""
        for table, code in (("users", "user"), ("items", "item")):
            self._make(
                f"{table}_left",
                f"SELECT {code} AS code, count(*) AS count, "
                f"row_number() OVER (ORDER BY min(row)) - 1 AS number FROM log GROUP BY {code}",
            )

    def ordered(self) -> Ordered:
        """Return the log by user and time."""
        users = self._engine.frame(
            "SELECT CAST(id AS STRING) AS id, count FROM users_left JOIN users USING (code) "
            "ORDER BY number"
        )
        items = self._engine.frame(
            "SELECT CAST(id AS STRING) AS id FROM items_left JOIN items USING (code) "
            "ORDER BY number"
        )
        rating = ", rating" if "rating" in self._measures else ""
        rows = self._engine.frame(
            f"SELECT CAST(i.number AS INTEGER) AS item{rating} FROM log "
            "JOIN users_left AS u ON u.code = log.user JOIN items_left AS i ON i.code = log.item "
            f"ORDER BY u.number, {', '.join(self._order())}"
        )
        return Ordered(
            users["id"].alias(""),
            items["id"].alias(""),
            users["count"].to_numpy(),
            rows["item"].to_numpy(),
            rows["rating"].to_numpy() if rating else None,
        )

    def statistics(self) -> Statistics:
        """Return the figures of what is left."""
        pairs = self._one("SELECT count(*) FROM (SELECT DISTINCT user, item FROM log)")
        span = None
        if "timestamp" in self._measures:
            span = self._engine.row("SELECT min(time), max(time) FROM log")
        return from_counts(self._counts(), span, pairs)

    def _order(self) -> list[str]:
        return ["time", "row"] if "timestamp" in self._measures else ["row"]

    def _counts(self, table: str = "log") -> tuple[int, int, int]:
        counts: tuple[int, int, int] = self._engine.row(
            f"SELECT count(DISTINCT user), count(DISTINCT item), count(*) FROM {table}"
        )
        return counts

    def _keep(self, condition: str) -> None:
        self._make("log", f"SELECT log.* FROM log {condition}")

    def _one(self, query: str) -> Any:  # noqa: ANN401 - whatever is asked for
        return self._engine.row(query)[0]
