"""Filter and split a log in SQL, for logs that do not fit into memory.

Polars streams the file into Parquet, so that formats and error messages are those of
`read_interactions`. DuckDB or Spark does what needs all rows at once (numbers by first appearance,
repeated pairs, k-core, order) in a scratch folder that is removed afterwards. The result equals
that of `filters` and `split` row by row.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.filters import NO_RATINGS, add_filters, empty_core_error, ratings_too_low_error
from recoach.data.ingest import StreamedLog, stream_interactions
from recoach.data.log_columns import COLUMN_TYPES
from recoach.data.ordered_log import OrderedLog, ordered_log
from recoach.data.read_report import ReadReport
from recoach.data.split import split_ordered_log
from recoach.data.statistics import Statistics, from_counts
from recoach.errors import DataError

_SIDES = ("user", "item")
_LOG_COLUMNS = {name: f"log_{name}" for name in COLUMN_TYPES}
"""Column of the Parquet file -> column of the table `log`, whose name is no word of SQL."""


class Engine(Protocol):
    """A database that runs the SQL."""

    def create_view(self, name: str, path: Path) -> None:
        """Make a Parquet file available under a name."""

    def create_table(self, table: str, query: str) -> None:
        """Create or replace a table; the query may read the table that it replaces."""

    def drop(self, table: str) -> None:
        """Remove a table or a view."""

    def fetch_row(self, query: str) -> Any:  # noqa: ANN401 - the types depend on the query
        """Return the first row of a result."""

    def fetch_frame(self, query: str) -> pl.DataFrame:
        """Return a result in its order."""


def run_pipeline(
    open_engine: Callable[[Path], AbstractContextManager[Engine]],
    source: Path,
    config: PrepareConfig,
    directory: Path,
) -> tuple[Dataset, Statistics, ReadReport]:
    """Read, filter and split a log with the engine that `open_engine` opens in a scratch folder.

    The scratch folder is made next to `directory`, the prepared dataset, and may need three times
    the size of the log.

    Raises:
        DataError: as `prepare`.
        OSError: the disk is full or not writable.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch_folder = tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent)
    with scratch_folder as scratch:
        rows = Path(scratch) / "rows.parquet"
        streamed_log = stream_interactions(source, rows, config)
        with open_engine(Path(scratch)) as engine:
            log = _SQLLog(engine, streamed_log)
            log.load(rows)
            counts = [log.count()]
            if config.min_rating is not None:
                log.keep_rating_at_least(config.min_rating)
            counts.append(log.count())
            if config.dedup != "none":
                log.deduplicate(config.dedup)
            counts.append(log.count())
            if config.k_core:
                log.keep_k_core(config.k_core)
            counts.append(log.count())
            log.number_ids()
            report = add_filters(streamed_log.report, config, counts)
            return split_ordered_log(log.ordered(), config.split), log.statistics(), report


class _SQLLog:
    """The table `log`: row, user, item, optional columns; `users` and `items` hold the ids.

    The code of a user or an item is the row of its first appearance: codes have gaps, and their
    order is the order of first appearance.
    """

    def __init__(self, engine: Engine, log: StreamedLog) -> None:
        self._engine, self._create = engine, engine.create_table
        self._types, self._event_types = log.types, log.report.event_types
        self._id_types = log.id_types
        self._columns = {name: ours for name, ours in _LOG_COLUMNS.items() if name in log.types}

    def load(self, rows: Path) -> None:
        """Create the tables from a Parquet file, and remove the file."""
        self._engine.create_view("rows", rows)
        for table, column in (("users", "user_id"), ("items", "item_id")):
            self._create(
                table, f"SELECT min(row) AS code, {column} AS id FROM rows GROUP BY {column}"
            )
        columns = "".join(f", rows.{name} AS {ours}" for name, ours in self._columns.items())
        self._create(
            "log",
            f"SELECT row, users.code AS user, items.code AS item{columns} "
            "FROM rows JOIN users ON users.id = user_id JOIN items ON items.id = item_id",
        )
        self._engine.drop("rows")
        rows.unlink()

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._engine.fetch_row("SELECT count(*) FROM log")[0])

    def keep_rating_at_least(self, threshold: float) -> None:
        """Keep the rows rated `threshold` or better."""
        if "rating" not in self._columns:
            raise DataError(NO_RATINGS)
        highest = self._fetch_value("SELECT max(log_rating) FROM log")
        if highest < np.float32(threshold):
            raise ratings_too_low_error(threshold, highest)
        self._keep(f"WHERE log_rating >= CAST({threshold!r} AS REAL)")

    def deduplicate(self, keep: str) -> None:
        """Keep one row of each pair, the earliest or the latest; file order breaks ties."""
        direction = "ASC" if keep == "first" else "DESC"
        order = ", ".join(f"{name} {direction}" for name in self._order_columns())
        columns = ["row", *_SIDES, *self._columns.values()]
        self._create(
            "log",
            f"SELECT {', '.join(columns)} FROM (SELECT *, row_number() OVER (PARTITION BY user, "
            f"item ORDER BY {order}) AS place FROM log) AS ranked WHERE place = 1",
        )

    def keep_k_core(self, k: int) -> None:
        """Keep the k-core; DataError if it is empty."""
        if not self._core_counts(k)[2]:
            raise empty_core_error(k, self._core_counts)
        self._keep(_join("SEMI", "log", "SELECT DISTINCT {side} AS code FROM core"))
        self._engine.drop("core")

    def _core_counts(self, k: int) -> tuple[int, int, int]:
        """Create `core`, the pairs of the k-core of `log`; return its users, items and rows."""
        self._create("core", "SELECT user, item FROM log")
        rare = f"SELECT {{side}} AS code FROM core GROUP BY {{side}} HAVING count(*) < {k}"
        counts, previous = self._fetch_counts("core"), None
        while counts != previous:
            self._create("core", f"SELECT core.* FROM core {_join('ANTI', 'core', rare)}")
            counts, previous = self._fetch_counts("core"), counts
        return counts

    def number_ids(self) -> None:
        """Number users and items by first appearance."""
        for table, side in (("numbered_users", "user"), ("numbered_items", "item")):
            self._create(
                table,
                f"SELECT {side} AS code, count(*) AS count, "
                f"row_number() OVER (ORDER BY min(row)) - 1 AS number FROM log GROUP BY {side}",
            )

    def ordered(self) -> OrderedLog:
        """Return the log ordered by user and time."""
        users = self._engine.fetch_frame(
            "SELECT CAST(id AS STRING) AS id, count FROM numbered_users JOIN users USING (code) "
            "ORDER BY number"
        )
        items = self._engine.fetch_frame(
            "SELECT CAST(id AS STRING) AS id FROM numbered_items JOIN items USING (code) "
            "ORDER BY number"
        )
        columns = "".join(f", {ours}" for ours in self._columns.values())
        rows = self._engine.fetch_frame(
            "SELECT CAST(u.number AS INTEGER) AS user, CAST(i.number AS INTEGER) AS item"
            f"{columns} FROM log "
            "JOIN numbered_users AS u ON u.code = log.user "
            "JOIN numbered_items AS i ON i.code = log.item "
            f"ORDER BY u.number, {', '.join(self._order_columns())}"
        )
        series = {
            name: rows[ours].alias("").cast(self._types[name])
            for name, ours in self._columns.items()
        }
        ids = (users["id"].alias(""), items["id"].alias(""))
        log = ordered_log(ids, rows["user"].to_numpy(), rows["item"].to_numpy(), series)
        return log._replace(id_types=self._id_types)

    def statistics(self) -> Statistics:
        """Return the statistics of the filtered log."""
        counts = self._fetch_counts()
        n_pairs = self._fetch_value("SELECT count(*) FROM (SELECT DISTINCT user, item FROM log)")
        time_range, ties, sessions = None, None, None
        if "timestamp" in self._columns:
            time_range = self._engine.fetch_row(
                "SELECT min(log_timestamp), max(log_timestamp) FROM log"
            )
            n_tied = self._fetch_value(
                "SELECT coalesce(sum(count), 0) FROM (SELECT count(*) AS count FROM log "
                "GROUP BY user, log_timestamp HAVING count(*) > 1)"
            )
            ties = int(n_tied) / counts[2]
        if "session_id" in self._columns:
            sessions = self._fetch_value("SELECT count(DISTINCT log_session_id) FROM log")
        statistics = from_counts(counts, time_range, n_pairs)
        return replace(statistics, ties=ties, sessions=sessions, events=self._event_counts())

    def _event_counts(self) -> dict[str, int]:
        """Return the number of rows of each event type, in the order of the types."""
        if "event_type" not in self._columns:
            return {}
        counted = self._engine.fetch_frame(
            "SELECT log_event_type AS name, count(*) AS count FROM log GROUP BY log_event_type"
        )
        counts = dict(counted.select("name", "count").iter_rows())
        return {name: int(counts.get(name, 0)) for name in self._event_types}

    def _order_columns(self) -> list[str]:
        return ["log_timestamp", "row"] if "timestamp" in self._columns else ["row"]

    def _fetch_counts(self, table: str = "log") -> tuple[int, int, int]:
        counts: tuple[int, int, int] = self._engine.fetch_row(
            f"SELECT count(DISTINCT user), count(DISTINCT item), count(*) FROM {table}"
        )
        return counts

    def _keep(self, condition: str) -> None:
        self._create("log", f"SELECT log.* FROM log {condition}")

    def _fetch_value(self, query: str) -> Any:  # noqa: ANN401 - the type depends on the query
        return self._engine.fetch_row(query)[0]


def _join(kind: str, table: str, query: str) -> str:
    """Return the joins of a table with the users and the items of a query on `{side}`."""
    return " ".join(
        f"{kind} JOIN ({query.format(side=side)}) AS {side}s ON {side}s.code = {table}.{side}"
        for side in _SIDES
    )
