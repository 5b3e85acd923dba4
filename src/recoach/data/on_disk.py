"""The same filters and split for a log that does not fit into memory: DuckDB, on disk.

Polars streams the file into Parquet, so that every format and every complaint is the same; what
needs all rows at once (numbers by first appearance, pairs, k-core, order) DuckDB does within a
limit, in a folder that is removed. The result equals that of `filters` and `split` row by row.
"""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from recoach.data.filters import NOT_RATED, empty_core, rated_too_low
from recoach.data.ingest import stream_interactions
from recoach.data.split import Dataset, Ordered, last_out
from recoach.data.statistics import Statistics, from_counts
from recoach.data.times import scale_of
from recoach.errors import ConfigError, DataError

try:
    import duckdb
except ModuleNotFoundError as error:
    raise ConfigError("a memory limit needs DuckDB: pip install 'recoach[duckdb]'.") from error

if TYPE_CHECKING:
    from recoach.data.prepared import PrepareConfig

_SIDES = ("user", "item")
_SIZE = re.compile(r"\d+(\.\d+)?\s*(MB|GB|TB|MiB|GiB|TiB)")


def split_on_disk(
    source: Path, config: "PrepareConfig", memory: str, directory: Path
) -> tuple[Dataset, Statistics]:
    """Read, filter and split a log within a memory limit.

    Args:
        source: a file.
        config: filters, split, columns and format.
        memory: DuckDB's limit, like "4GB"; the finished dataset and polars' reading are beside it.
        directory: the scratch folder is made beside it; three times the log may be needed.

    Raises:
        ConfigError: `memory` is no size.
        DataError: as `prepare`; and what DuckDB says of memory or disk.
    """
    if not _SIZE.fullmatch(memory):
        raise ConfigError(f"memory is a size like 4GB, not {memory!r}.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as own:
            return _split(source, config, memory, Path(own))
    except (OSError, duckdb.Error) as error:
        raise DataError(
            f"{source.name}: DuckDB cannot go on ({str(error).splitlines()[0][:160]}); give more "
            f"memory than {memory}, or make room in {directory.parent}"
        ) from None


def _split(
    source: Path, config: "PrepareConfig", memory: str, scratch: Path
) -> tuple[Dataset, Statistics]:
    rows = scratch / "rows.parquet"
    columns = stream_interactions(source, rows, config.columns, config.format)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory,
        "temp_directory": str(scratch / "spill"),
        "preserve_insertion_order": False,  # rows carry their numbers; results are ordered by them
    }
    with duckdb.connect(str(scratch / "log.duckdb"), config=settings) as database:
        log = _Log(database, columns, scratch)
        log.load(rows)
        if config.min_rating is not None:
            log.rated(config.min_rating)
        if config.dedup != "none":
            log.without_repeats(config.dedup)
        if config.k_core:
            log.core(config.k_core)
        log.number()
        dataset = last_out(log.ordered(), test_items=config.test_items)
        return dataset, log.statistics()


class _Log:
    """The table `log`: row, user, item[, time][, rating]; ids stand in `users` and `items`.

    A user's code, like an item's, is the row of the first appearance: codes are numbers in order,
    with gaps.
    """

    def __init__(
        self, database: "duckdb.DuckDBPyConnection", columns: tuple[str, ...], scratch: Path
    ) -> None:
        self._database, self._scratch = database, scratch
        self._measures = [name for name in ("timestamp", "rating") if name in columns]

    def load(self, rows: Path) -> None:
        """Take in the rows, and remove their file."""
        self._do(f"CREATE VIEW rows AS SELECT * FROM read_parquet({_text(rows)})")
        for table, column in (("users", "user_id"), ("items", "item_id")):
            self._do(
                f"CREATE TABLE {table} AS SELECT min(row) AS code, {column} AS id FROM rows "
                f"GROUP BY {column}"
            )
        measures = "".join(f", {self._measured(name)}" for name in self._measures)
        self._do(
            f"CREATE TABLE log AS SELECT row, users.code AS user, items.code AS item{measures} "
            "FROM rows JOIN users ON users.id = user_id JOIN items ON items.id = item_id"
        )
        self._do("DROP VIEW rows")
        rows.unlink()

    def _measured(self, name: str) -> str:
        if name == "rating":
            return "rating"
        kind = self._one("SELECT typeof(timestamp) FROM rows LIMIT 1")
        if kind != "DOUBLE":
            return "CAST(timestamp AS BIGINT) AS time"
        # Of an even number the mean of the two in the middle, found by sorting, which can spill.
        count = self._one("SELECT count(*) FROM rows")
        size = self._one(
            "SELECT avg(size) FROM (SELECT abs(timestamp) AS size FROM rows ORDER BY size "
            f"LIMIT {2 - count % 2} OFFSET {(count - 1) // 2})"
        )
        return f"CAST(round_even(timestamp * {scale_of(size)!r}::DOUBLE, 0) AS BIGINT) AS time"

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
        self._keep(f"QUALIFY row_number() OVER (PARTITION BY user, item ORDER BY {order}) = 1")

    def core(self, k: int) -> None:
        """Keep the k-core."""
        if not self._core(k):
            raise DataError(self._empty_core(k))
        self._keep(" ".join(f"SEMI JOIN of_{s} ON of_{s}.code = log.{s}" for s in _SIDES))
        for table in ("core", "going", "of_user", "of_item"):
            self._do(f"DROP TABLE {table}")

    def _core(self, k: int) -> int:
        """Make `core` the pairs of the k-core of `log` and return how many there are.

        Counts lose what goes, as in memory: a round costs what it removes, and a look at the rest.
        """
        self._do("CREATE OR REPLACE TABLE core AS SELECT user, item FROM log")
        for side in _SIDES:
            self._do(
                f"CREATE OR REPLACE TABLE of_{side} AS SELECT {side} AS code, count(*) AS count "
                f"FROM core GROUP BY {side}"
            )
        few = (f"{side} IN (SELECT code FROM of_{side} WHERE count < {k})" for side in _SIDES)
        goes = " OR ".join(few)
        while True:
            self._do(f"CREATE OR REPLACE TABLE going AS SELECT * FROM core WHERE {goes}")
            if not self._one("SELECT count(*) FROM going"):
                return int(self._one("SELECT count(*) FROM core"))
            self._do(f"DELETE FROM core WHERE {goes}")
            for side in _SIDES:
                self._do(
                    f"CREATE OR REPLACE TABLE of_{side} AS SELECT code, count - coalesce(n, 0) AS "
                    f"count FROM of_{side} LEFT JOIN (SELECT {side} AS gone, count(*) AS n FROM "
                    f"going GROUP BY {side}) ON code = gone WHERE count >= {k}"
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
            self._do(
                f"CREATE TABLE {table}_left AS SELECT {code} AS code, count(*) AS count, "
                f"row_number() OVER (ORDER BY min(row)) - 1 AS number FROM log GROUP BY {code}"
            )

    def ordered(self) -> Ordered:
        """Return the log by user and time."""
        users = self._frame(
            "SELECT CAST(id AS VARCHAR) AS id, count FROM users_left JOIN users USING (code) "
            "ORDER BY number"
        )
        items = self._frame(
            "SELECT CAST(id AS VARCHAR) AS id FROM items_left JOIN items USING (code) "
            "ORDER BY number"
        )
        rating = ", rating" if "rating" in self._measures else ""
        rows = self._frame(
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
            span = self._row("SELECT min(time), max(time) FROM log")
        return from_counts(self._counts(), span, pairs)

    def _order(self) -> list[str]:
        return ["time", "row"] if "timestamp" in self._measures else ["row"]

    def _counts(self, table: str = "log") -> tuple[int, int, int]:
        counts: tuple[int, int, int] = self._row(
            f"SELECT count(DISTINCT user), count(DISTINCT item), count(*) FROM {table}"
        )
        return counts

    def _keep(self, condition: str) -> None:
        self._do(f"CREATE TABLE kept AS SELECT log.* FROM log {condition}")
        self._do("DROP TABLE log")
        self._do("ALTER TABLE kept RENAME TO log")

    def _frame(self, query: str) -> pl.DataFrame:
        path = self._scratch / "result.parquet"
        self._do(f"COPY ({query}) TO {_text(path)} (FORMAT parquet)")
        return pl.read_parquet(path)

    def _one(self, query: str) -> Any:  # noqa: ANN401 - whatever is asked for
        return self._row(query)[0]

    def _row(self, query: str) -> Any:  # noqa: ANN401 - whatever is asked for
        return self._database.execute(query).fetchone()

    def _do(self, statement: str) -> None:
        self._database.execute(statement)


def _text(path: Path) -> str:
    """Return a path as a literal of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
