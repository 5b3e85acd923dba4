"""DuckDB, within a limit of memory, for a log beyond it (see `on_disk`)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from recoach.data.split import Dataset
from recoach.data.sql.stream import split_by
from recoach.data.statistics import Statistics
from recoach.errors import ConfigError, DataError

try:
    import duckdb
except ModuleNotFoundError as error:
    raise ConfigError("a memory limit needs DuckDB: pip install 'recoach[duckdb]'.") from error

if TYPE_CHECKING:
    from recoach.data.prepared import PrepareConfig

_SIZE = re.compile(r"\d+(\.\d+)?\s*(MB|GB|TB|MiB|GiB|TiB)")


def split_in_duckdb(
    source: Path, config: "PrepareConfig", memory: str, directory: Path
) -> tuple[Dataset, Statistics]:
    """Read, filter and split a log within a memory limit.

    Args:
        source: a file.
        config: filters, split, columns and format.
        memory: DuckDB's limit, like "4GB"; the finished dataset and polars' reading are beside it.
        directory: the scratch folder is made beside it.

    Raises:
        ConfigError: `memory` is no size.
        DataError: as `prepare`; and what DuckDB says of memory or disk.
    """
    if not _SIZE.fullmatch(memory):
        raise ConfigError(f"memory is a size like 4GB, not {memory!r}.")
    try:
        return split_by(partial(_opened, memory), source, config, directory)
    except (OSError, duckdb.Error) as error:
        raise DataError(
            f"{source.name}: DuckDB cannot go on ({str(error).splitlines()[0][:160]}); give more "
            f"memory than {memory}, or make room in {directory.parent}"
        ) from None


@contextmanager
def _opened(memory: str, scratch: Path) -> Iterator["_DuckDB"]:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory,
        "temp_directory": str(scratch / "spill"),
        "preserve_insertion_order": False,  # rows carry their numbers; results are ordered by them
    }
    with duckdb.connect(str(scratch / "log.duckdb"), config=settings) as database:
        database.execute("CREATE MACRO rint(x) AS round_even(x, 0)")
        yield _DuckDB(database, scratch)


class _DuckDB:
    """See `Engine`."""

    def __init__(self, database: "duckdb.DuckDBPyConnection", scratch: Path) -> None:
        self._do, self._scratch = database.execute, scratch

    def view(self, name: str, path: Path) -> None:
        self._do(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({_text(path)})")

    def make(self, table: str, query: str) -> None:
        self._do(f"CREATE OR REPLACE TABLE {table} AS {query}")

    def delete(self, table: str, condition: str) -> None:
        self._do(f"DELETE FROM {table} WHERE {condition}")

    def drop(self, table: str) -> None:
        self._do(f"DROP {'VIEW' if table == 'rows' else 'TABLE'} {table}")

    def row(self, query: str) -> Any:  # noqa: ANN401 - whatever is asked for
        return self._do(query).fetchone()

    def frame(self, query: str) -> pl.DataFrame:
        path = self._scratch / "result.parquet"
        self._do(f"COPY ({query}) TO {_text(path)} (FORMAT parquet)")
        return pl.read_parquet(path)


def _text(path: Path) -> str:
    """Return a path as a literal of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
