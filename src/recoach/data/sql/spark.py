"""Spark, for a log beyond one machine (see `on_disk`).

A table is a folder of Parquet in the scratch folder, which all workers must see, and a temporary
view of it: nothing is computed twice, and nothing is kept in a metastore.
"""

import itertools
import shutil
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
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
except ModuleNotFoundError as error:
    raise ConfigError("Spark needs pyspark and Java 17: pip install 'recoach[spark]'.") from error

if TYPE_CHECKING:
    from recoach.data.prepared import PrepareConfig


def split_in_spark(
    source: Path, config: "PrepareConfig", master: str, directory: Path
) -> tuple[Dataset, Statistics]:
    """Read, filter and split a log on Spark.

    Args:
        source: a file.
        config: filters, split, columns and format.
        master: Spark's, like "local[2]" or "spark://HOST:7077".
        directory: the scratch folder is made beside it, where all workers must see it.

    Raises:
        ConfigError: there is no such Spark.
        DataError: as `prepare`; and what Spark says of memory or disk.
    """
    try:
        return split_by(partial(_opened, master), source, config, directory)
    except (OSError, PySparkException, Py4JError) as error:
        said = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source.name}: Spark cannot go on ({said}); give it more memory, or make room in "
            f"{directory.parent}"
        ) from None


@contextmanager
def _opened(master: str, scratch: Path) -> Iterator["_Spark"]:
    builder = SparkSession.builder.master(master).appName("recoach data prepare")
    settings: dict[str, bool | float | int | str | None] = {
        "spark.local.dir": str(scratch / "spill"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    try:
        session = builder.config(map=settings).getOrCreate()
    except (PySparkException, Py4JError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"Spark does not start on {master} ({said}); it needs Java 17, and a master like "
            "local[4]."
        ) from None
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield _Spark(session, scratch)
    finally:
        session.stop()


class _Spark:
    """See `Engine`."""

    def __init__(self, session: "SparkSession", scratch: Path) -> None:
        self._session, self._scratch = session, scratch
        self._numbers = itertools.count()
        self._paths: dict[str, Path] = {}

    def view(self, name: str, path: Path) -> None:
        self._session.read.parquet(str(path)).createOrReplaceTempView(name)

    def make(self, table: str, query: str) -> None:
        path = self._written(query)
        self.view(table, path)
        old, self._paths[table] = self._paths.get(table), path
        if old is not None:
            shutil.rmtree(old)

    def delete(self, table: str, condition: str) -> None:
        self.make(table, f"SELECT * FROM {table} WHERE NOT ({condition})")

    def drop(self, table: str) -> None:
        self._session.catalog.dropTempView(table)
        path = self._paths.pop(table, None)
        if path is not None:
            shutil.rmtree(path)

    def row(self, query: str) -> Any:  # noqa: ANN401 - whatever is asked for
        return self._session.sql(query).first()

    def frame(self, query: str) -> pl.DataFrame:
        path = self._written(query)  # sorted, the parts are ranges, numbered in their order
        return pl.concat([pl.read_parquet(part) for part in sorted(path.glob("*.parquet"))])

    def _written(self, query: str) -> Path:
        path = self._scratch / f"table-{next(self._numbers)}"
        self._session.sql(query).write.parquet(str(path))
        return path
