"""The data of a run: a log, a prepared folder or the embedded shop, kept inside the run."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from recoach.data.config import PrepareConfig
from recoach.data.ingest import read_benchmark
from recoach.data.item_table import read_titles
from recoach.data.prepared import (
    MANIFEST,
    load_dataset,
    prepare,
    recover,
    save_dataset,
)
from recoach.data.split import Dataset, leave_last_out
from recoach.data.statistics import describe
from recoach.errors import DataError
from recoach.experiments.config import DataConfig
from recoach.simulation.shop import BROWSING, Shop, shop


def run_dataset(config: DataConfig, directory: Path, *, begun: bool = False) -> Dataset:
    """Return the dataset of a run, prepared into its own folder so that the run stands alone.

    Args:
        config: where the log is and how it is filtered; a prepared folder, and one that holds
            train, valid and test files (see `read_benchmark`), are taken as they are.
        directory: where the run keeps its copy.
        begun: whether the run goes on; then its copy of a log is used, whatever became of the log.

    Raises:
        DataError: the log cannot be used.
    """
    source = None if config.path is None else Path(config.path)
    prepared = source is not None and (source / MANIFEST).exists()
    recover(directory)
    if begun and directory.exists() and not prepared:
        return _named(load_dataset(directory), config.name)
    if source is None:
        return _named(_simulated(directory), config.name)
    if prepared:
        return _named(_copied(source, directory), config.name)
    if source.is_dir():
        dataset = read_benchmark(source)
        save_dataset(dataset, directory)
        return _named(dataset, config.name)
    filters = PrepareConfig(**config.model_dump(exclude={"path", "name", "items"}))
    return _named(prepare(source, directory, filters), config.name)


def run_titles(config: DataConfig, dataset: Dataset) -> pl.Series | None:
    """Return String[n_items], the titles of a run's items; None where nobody has said them.

    Raises:
        DataError: the table of items cannot be used.
    """
    if config.items is not None:
        return read_titles(Path(config.items), dataset.item_ids)
    if config.path is None:
        return pl.Series(embedded_shop().item_titles, dtype=pl.String)
    return None


def embedded_shop() -> Shop:
    """Return the shop that runs without data use: the same log every time."""
    return shop(seed=0, habits=BROWSING)


def _simulated(directory: Path) -> Dataset:
    simulated = embedded_shop()
    dataset = leave_last_out(simulated.interactions, name="shop")
    save_dataset(dataset, directory, describe(simulated.interactions))
    return dataset


def _copied(source: Path, directory: Path) -> Dataset:
    dataset = load_dataset(source)
    if directory.exists():
        mine = load_dataset(directory)
        if mine.fingerprint != dataset.fingerprint:
            raise DataError(
                f"{source} is no longer the data this run began with; choose another --output."
            )
        return mine
    save_dataset(dataset, directory)
    return dataset


def _named(dataset: Dataset, name: str) -> Dataset:
    return replace(dataset, name=name) if name else dataset
