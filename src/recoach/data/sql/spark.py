"""Prepare a log with Spark, for logs too large for one machine.

A table is a folder of Parquet files in the scratch folder, which all workers must be able to read,
and a temporary view of it: no query runs twice and no metastore is needed.
"""

import itertools
import re
import shutil
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
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
except ModuleNotFoundError as error:
    raise ConfigError(
        "spark: Spark needs pyspark and Java 17. Run pip install 'recoach[spark]'."
    ) from error


def split_in_spark(
    source: Path, config: PrepareConfig, master: str, directory: Path
) -> tuple[Dataset, Statistics, ReadReport]:
    """Read, filter and split a log on Spark, as `prepare` does.

    `master` is Spark's, such as "local[2]" or "spark://HOST:7077"; all workers must be able to read
    and write the scratch folder next to `directory`.

    Raises:
        ConfigError: Spark does not start on this master.
        DataError: as `prepare`, or Spark lacks memory or disk space.
    """
    try:
        return run_pipeline(partial(_open_engine, master), source, config, directory)
    except (OSError, PySparkException, Py4JError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source.name}: Spark fails ({reason}). Give it more memory, or make room in "
            f"{directory.parent}."
        ) from None


@contextmanager
def _open_engine(master: str, scratch: Path) -> Iterator["_SparkEngine"]:
    builder = SparkSession.builder.master(master).appName("recoach data prepare")
    settings: dict[str, bool | float | int | str | None] = {
        "spark.local.dir": str(scratch / "spill"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    try:
        session = builder.config(map=settings).getOrCreate()
    except (PySparkException, Py4JError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"spark: Spark does not start on {master} ({reason}). Install Java 17 and name a "
            "master such as local[4]."
        ) from None
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield _SparkEngine(session, scratch)
    finally:
        session.stop()


class _SparkEngine:
    """An `Engine` that runs Spark SQL on Parquet files."""

    def __init__(self, session: "SparkSession", scratch: Path) -> None:
        self._session, self._scratch = session, scratch
        self._numbers = itertools.count()
        self._paths: dict[str, Path] = {}

    def create_view(self, name: str, path: Path) -> None:
        self._session.read.parquet(_pattern(path)).createOrReplaceTempView(name)

    def create_table(self, table: str, query: str) -> None:
        path = self._write(query)
        self.create_view(table, path)
        old, self._paths[table] = self._paths.get(table), path
        if old is not None:
            shutil.rmtree(old)

    def drop(self, table: str) -> None:
        self._session.catalog.dropTempView(table)
        path = self._paths.pop(table, None)
        if path is not None:
            shutil.rmtree(path)

    def fetch_row(self, query: str) -> Any:  # noqa: ANN401 - the types depend on the query
        return self._session.sql(query).first()

    def fetch_frame(self, query: str) -> pl.DataFrame:
        # Spark sorts by ranges and numbers the files in the order of the ranges.
        paths = sorted(self._write(query).glob("*.parquet"))
        return pl.concat([read_parquet(path) for path in paths])

    def _write(self, query: str) -> Path:
        path = self._scratch / f"table-{next(self._numbers)}"
        self._session.sql(query).write.parquet(str(path))
        return path


def _pattern(path: Path) -> str:
    """Return a path for Hadoop, which takes brackets, braces and stars for patterns."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path))
