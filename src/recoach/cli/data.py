"""`recoach data`: describe, prepare and fetch logs."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from recoach.cli.console import console, shown
from recoach.data import prepared
from recoach.data.config import PrepareConfig
from recoach.data.fetch import AMAZON_2023
from recoach.data.fetch import fetch as fetch_file
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_interactions
from recoach.data.readers.registry import Format
from recoach.data.statistics import Statistics
from recoach.data.statistics import describe as statistics_of
from recoach.errors import ConfigError
from recoach.reproduction.paper_results import CATEGORIES

app = App(name="data", help="Look at interaction logs and prepare them.")


@Parameter(name="*")
@dataclass(frozen=True)
class Filters:
    """Which rows of a log count, and where its columns are."""

    dedup: Literal["none", "first", "last"] = "none"
    """Which of repeated (user, item) pairs to keep."""
    min_rating: float | None = None
    """Keep interactions rated this or better."""
    column: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    """NAME=COLUMN where names are unusual, like user_id=visitor; may be repeated."""
    format: Format = "auto"
    """The format, where the suffix does not tell."""

    def config(self, k_core: int) -> PrepareConfig:
        """Return these filters and a k-core as settings; ConfigError where they make no sense."""
        if k_core < 0:
            raise ConfigError(f"--k-core must be at least 0, not {k_core}.")
        return PrepareConfig(
            k_core=k_core,
            dedup=self.dedup,
            min_rating=self.min_rating,
            columns=_mapping(self.column),
            format=self.format,
        )


_ALL_ROWS = Filters()


@app.command(help_epilogue=shown("recoach data describe log.csv --k-core 5"))
def describe(files: list[Path], /, *, k_core: int = 0, filters: Filters = _ALL_ROWS) -> None:
    """Print the size of logs, as papers' tables of data do.

    Parameters
    ----------
    files
        Interaction logs: CSV, TSV, JSONL, Parquet, RecBole .inter or sequence files, plain, .gz
        or .zst.
    k_core
        Keep users and items with at least so many interactions, iterated; 0 keeps all.
    """
    config = filters.config(k_core)
    rows = []
    for file in files:
        log = read_interactions(file, columns=config.columns, format=config.format)
        rows.append((file.name, statistics_of(apply_filters(log, config))))
    console.print(_table(rows))


@app.command(help_epilogue=shown("recoach data prepare log.csv --output data/mine"))
def prepare(
    file: Path,
    /,
    *,
    output: Path,
    k_core: int = 5,
    test_items: int = 1,
    memory: str | None = None,
    spark: str | None = None,
    filters: Filters = _ALL_ROWS,
) -> None:
    """Filter a log, split it (last item test, the one before valid) and write a prepared folder.

    Parameters
    ----------
    file
        An interaction log.
    output
        The folder to write; reused when nothing has changed.
    k_core
        Keep users and items with at least so many interactions, iterated; 0 keeps all.
    test_items
        Hold out so many last interactions of every user for test, to judge the longer run.
    memory
        For a log that does not fit into memory: a limit, like 4GB, within which DuckDB does the
        same on disk, in a scratch folder beside the output.
    spark
        For a log that does not fit one machine's disk: Spark's master, like local[4] or
        spark://HOST:7077, does the same in a scratch folder beside the output.
    """
    started = time.perf_counter()
    if test_items < 1:
        raise ConfigError(f"--test-items must be at least 1, not {test_items}.")
    config = filters.config(k_core).model_copy(update={"test_items": test_items})
    dataset = prepared.prepare(file, output, config, memory=memory, spark=spark)
    console.print(
        f"{output}: {dataset.n_users:,} users, {dataset.n_items:,} items, fingerprint "
        f"{dataset.fingerprint} ({time.perf_counter() - started:.1f} s)",
        highlight=False,
    )


@app.command(help_epilogue=shown("recoach data fetch amazon-2023 --category Video_Games"))
def fetch(
    log: Literal["amazon-2023"],
    /,
    *,
    category: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    output: Path = Path("data"),
    sha256: str | None = None,
) -> None:
    """Download a public log from its official place; interrupted, the same command goes on.

    Parameters
    ----------
    log
        amazon-2023: the reviews of Amazon Reviews 2023 (research use; see its authors' page).
    category
        Its categories, like Video_Games; the paper's three where none is given.
    output
        The folder to put the files in.
    sha256
        What the file's checksum must be, for a single category.
    """
    categories = category or list(CATEGORIES)
    if sha256 and len(categories) != 1:
        raise ConfigError("--sha256 belongs to one file; name one --category.")
    for name in categories:
        file = f"{name}.jsonl.gz"
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task(name, total=None)

            def show(
                done: int, total: int | None, bar: Progress = bar, task: TaskID = task
            ) -> None:
                bar.update(task, completed=done, total=total)

            found = fetch_file(f"{AMAZON_2023}/{file}", output / file, show, sha256=sha256)
        console.print(f"{output / file}: SHA-256 {found}", highlight=False, soft_wrap=True)


def _table(rows: list[tuple[str, Statistics]]) -> Table:
    table = Table("log", "#users", "#items", "#interactions", "avg. length", "density", "dates")
    for name, found in rows:
        dates = f"{found.first} to {found.last}" if found.first else "no times"
        table.add_row(
            name,
            f"{found.users:,}",
            f"{found.items:,}",
            f"{found.interactions:,}",
            f"{found.average_length:.2f}",
            f"{found.density:.4%}",
            dates,
        )
    return table


def _mapping(column: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for entry in column or []:
        name, sign, value = entry.partition("=")
        if not sign or not name or not value:
            raise ConfigError(f"--column takes NAME=COLUMN, like user_id=visitor, not {entry!r}.")
        pairs[name] = value
    return pairs
