"""Prepare a log with DuckDB, on disk and within a memory limit."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.files import read_parquet
from recoach.data.read_report import ReadReport
from recoach.data.sql.pipeline import run_pipeline
from recoach.data.statistics import Statistics
from recoach.errors import ConfigError, DataError

try:
    import duckdb
except ModuleNotFoundError as error:
    raise ConfigError(
        "memory: a memory limit needs DuckDB. Run pip install 'recoach[duckdb]'."
    ) from error

_SIZE = re.compile(r"\d+(\.\d+)?\s*(MB|GB|TB|MiB|GiB|TiB)")


def split_in_duckdb(
    source: Path, config: PrepareConfig, memory: str, directory: Path
) -> tuple[Dataset, Statistics, ReadReport]:
    """Read, filter and split a log within a memory limit, as `prepare` does.

    `memory` is DuckDB's limit, such as "4GB"; reading the file and the finished dataset need more
    memory besides.

    Raises:
        ConfigError: `memory` is not a size, or the path of `directory` has a question mark.
        DataError: as `prepare`, or DuckDB lacks memory or disk space.
    """
    if not _SIZE.fullmatch(memory):
        raise ConfigError(f"memory: {memory!r} is not a size. Write a size such as 4GB.")
    if "?" in str(directory.absolute()):
        raise ConfigError(
            f"{directory}: DuckDB has no files in a folder with a ? in its path. Name another "
            "folder."
        )
    try:
        return run_pipeline(partial(_open_engine, memory), source, config, directory.absolute())
    except (OSError, duckdb.Error) as error:
        raise DataError(
            f"{source.name}: DuckDB fails ({str(error).splitlines()[0][:160]}). Allow more memory "
            f"than {memory}, or make room in {directory.parent}."
        ) from None


@contextmanager
def _open_engine(memory: str, scratch: Path) -> Iterator["_DuckDBEngine"]:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory,
        "temp_directory": str(scratch / "spill"),
        "preserve_insertion_order": False,  # results are ordered by row numbers instead
    }
    with duckdb.connect(str(scratch / "log.duckdb"), config=settings) as connection:
        yield _DuckDBEngine(connection, scratch)


class _DuckDBEngine:
    """An `Engine` that runs DuckDB on a database file."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", scratch: Path) -> None:
        self._execute, self._scratch = connection.execute, scratch

    def create_view(self, name: str, path: Path) -> None:
        pattern = glob.escape(str(path.absolute()))
        self._execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({_quote(pattern)})")

    def create_table(self, table: str, query: str) -> None:
        self._execute(f"CREATE OR REPLACE TABLE {table} AS {query}")

    def drop(self, table: str) -> None:
        self._execute(f"DROP {'VIEW' if table == 'rows' else 'TABLE'} {table}")

    def fetch_row(self, query: str) -> Any:  # noqa: ANN401 - the types depend on the query
        return self._execute(query).fetchone()

    def fetch_frame(self, query: str) -> pl.DataFrame:
        path = self._scratch / "result.parquet"
        self._execute(f"COPY ({query}) TO {_quote(path)} (FORMAT parquet)")
        return read_parquet(path)


def _quote(path: Path | str) -> str:
    """Return a path as an SQL string literal."""
    return "'" + str(path).replace("'", "''") + "'"
