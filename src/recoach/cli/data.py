"""`recoach data`: describe, audit, prepare and download interaction logs."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cyclopts import App, Parameter
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from recoach.cli.console import console, example_line, task_column, text_table
from recoach.cli.options import Count, CountOrZero, Decimal, Layout, Words
from recoach.data import prepared
from recoach.data.config import PrepareConfig
from recoach.data.fetch import AMAZON_2023
from recoach.data.fetch import fetch as fetch_file
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_log
from recoach.data.protocol import AnySplit, Auto
from recoach.data.statistics import Statistics
from recoach.data.statistics import describe as statistics_of
from recoach.errors import ConfigError
from recoach.experiments.config import resolve, toml_value
from recoach.report.protocol import split_lines
from recoach.reproduction.paper_results import CATEGORIES

app = App(
    name="data",
    help="Describe, audit, prepare and download interaction logs.",
    help_format="markdown",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Filters(Layout):
    """Which rows of a log to use, and how to read its columns."""

    dedup: Literal["none", "first", "last"] = "none"
    """Which of repeated (user, item) interactions to keep; none keeps all of them."""
    min_rating: Decimal | None = None
    """Keep interactions with at least this rating."""
    events: str | None = None
    """Event types from the weakest to the strongest, like view,cart,purchase."""
    negative_events: str | None = None
    """Event types by which a user rejects an item, like dislike,return."""

    def config(self, k_core: int) -> PrepareConfig:
        """Return the settings for `prepare`.

        Raises:
            ConfigError: a column is not NAME=COLUMN.
        """
        return self.layout().model_copy(
            update={
                "k_core": k_core,
                "dedup": self.dedup,
                "min_rating": self.min_rating,
                "events": _names(self.events),
                "negative_events": _names(self.negative_events),
            }
        )


_ALL_ROWS = Filters()


@app.command(help_epilogue=example_line("recoach data describe log.csv --k-core 5"))
def describe(
    files: list[Path], /, *, k_core: CountOrZero = 0, filters: Filters = _ALL_ROWS
) -> None:
    """Print users, items, interactions, average length, density and dates of logs.

    Args:
        files: Interaction logs: CSV, TSV, JSONL, Parquet, RecBole .inter, sequence files or those
            of public data sets, optionally compressed as .gz or .zst.
        k_core: Keep users and items with at least this many interactions (iterated k-core); 0 keeps
            all.
    """
    config = filters.config(k_core)
    rows = []
    for file in files:
        log = read_log(file, config)
        log = apply_filters(log, config)
        rows.append((file.name, statistics_of(log)))
        if log.report is not None:
            console.print(log.report.line())
    console.print(_table(rows))


app.command(
    "recoach.cli.audit:audit",
    name="audit",
    help="Print what a log holds, what each split of it tests, and what to look out for.",
    help_epilogue=example_line("recoach data audit log.csv --html audit.html"),
)


@app.command(help_epilogue=example_line("recoach data prepare log.csv --output data/mine"))
def prepare(
    file: Path,
    /,
    *,
    output: Path,
    k_core: CountOrZero = 5,
    split: str = "auto",
    test_items: Count | None = None,
    memory: str | None = None,
    spark: str | None = None,
    filters: Filters = _ALL_ROWS,
) -> None:
    """Filter and split a log and write the data set as a folder.

    Args:
        file: An interaction log.
        output: The folder to write. If it is up to date, it is reused.
        k_core: Keep users and items with at least this many interactions (iterated k-core); 0 keeps
            all.
        split: How to split: time, leave_last_out, ratio or users, or a table with settings, like
            {kind = "time", at = "2024-01-01", target = "successive"}. Default: by time where the
            log has times, else leave-last-out.
        test_items: Hold out this many last interactions of every user as test items.
        memory: Memory limit, like 4GB, for a log that does not fit into memory: DuckDB prepares it
            on disk, with temporary files next to the output folder.
        spark: Spark master, like local[4] or spark://HOST:7077, for a log that does not fit on one
            machine: Spark prepares it, with temporary files next to the output folder.
    """
    start = time.perf_counter()
    config = filters.config(k_core)
    if test_items is not None:
        if split != "auto":
            raise ConfigError("--test-items is a setting of leave_last_out: write it into --split.")
        split = f'{{kind = "leave_last_out", test_items = {test_items}}}'
    config = config.model_copy(update={"split": _split(split)})
    dataset = prepared.prepare(file, output, config, memory=memory, spark=spark)
    for line in (*prepared.read_lines(output), *split_lines(dataset)):
        console.print(line)
    console.print(
        f"{output}: {dataset.n_users:,} users, {dataset.n_items:,} items, fingerprint "
        f"{dataset.fingerprint} ({time.perf_counter() - start:.1f} s)",
    )


@app.command(help_epilogue=example_line("recoach data fetch amazon-2023 --category Video_Games"))
def fetch(
    log: Literal["amazon-2023"],
    /,
    *,
    category: Words = None,
    output: Path = Path("data"),
    sha256: str | None = None,
) -> None:
    """Download a public log from its official source.

    After an interruption, the same command continues the download.

    Args:
        log: amazon-2023: Amazon Reviews 2023 (for research; see the terms on its website).
        category: Categories, like Video_Games. Default: the three of the paper.
        output: The folder for the downloaded files.
        sha256: The expected SHA-256 checksum of the file, for a single category.
    """
    categories = category or list(CATEGORIES)
    if sha256 and len(categories) != 1:
        raise ConfigError("--sha256 is the checksum of one file. Give exactly one --category.")
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(task_column(), *columns, console=console, transient=True) as bar:
        for name in categories:
            path = output / f"{name}.jsonl.gz"
            task = bar.add_task(name, total=None)
            digest = fetch_file(
                f"{AMAZON_2023}/{path.name}", path, partial(_advance, bar, task), sha256=sha256
            )
            bar.remove_task(task)
            console.print(f"{path}: SHA-256 {digest}")


def _names(text: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def _split(text: str) -> Auto | AnySplit:
    """Return the split that an option names or describes; ConfigError if there is none."""
    tables = {"data": {"split": toml_value(text)}}
    return resolve(tables, "--split").data.split


def _advance(bar: Progress, task: TaskID, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


def _table(rows: list[tuple[str, Statistics]]) -> Table:
    table = text_table(
        "log", "#users", "#items", "#interactions", "avg. length", "density", "dates"
    )
    for name, log in rows:
        counts = (f"{count:,}" for count in (log.users, log.items, log.interactions))
        dates = f"{log.first} to {log.last}" if log.first else "none"
        table.add_row(name, *counts, f"{log.average_length:.2f}", f"{log.density:.4%}", dates)
    return table
