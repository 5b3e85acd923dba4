"""The dataset of a run: a log, a prepared folder or the embedded shop, copied into the run."""

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


def run_dataset(config: DataConfig, directory: Path, *, resumed: bool = False) -> Dataset:
    """Return the dataset of a run and write a copy of it into the run's folder.

    Args:
        config: where the log is and how it is filtered. A prepared folder, and one with train,
            valid and test files (see `read_benchmark`), are used without filters.
        directory: the run's folder for the copy.
        resumed: whether the run is resumed; then the copy is used, even if the log has changed.

    Raises:
        DataError: the log cannot be read or is empty after filtering, or a prepared folder has
            changed since the run was started.
    """
    source = None if config.path is None else Path(config.path)
    prepared = source is not None and (source / MANIFEST).exists()
    recover(directory)
    if resumed and directory.exists() and not prepared:
        return _with_name(load_dataset(directory), config.name)
    if source is None:
        return _with_name(_simulate(directory), config.name)
    if prepared:
        return _with_name(_copy_prepared(source, directory), config.name)
    if source.is_dir():
        dataset = read_benchmark(source)
        save_dataset(dataset, directory)
        return _with_name(dataset, config.name)
    filters = PrepareConfig(**config.model_dump(exclude={"path", "name", "items"}))
    return _with_name(prepare(source, directory, filters), config.name)


def run_titles(config: DataConfig, dataset: Dataset) -> pl.Series | None:
    """Return String[n_items], the titles of a run's items, or None if the data has no titles.

    Raises:
        DataError: the table of items cannot be read.
    """
    if config.items is not None:
        return read_titles(Path(config.items), dataset.item_ids)
    if config.path is None:
        return pl.Series(embedded_shop().item_titles, dtype=pl.String)
    return None


def embedded_shop() -> Shop:
    """Return the simulated shop whose log is used when no data is given; it is always the same."""
    return shop(seed=0, habits=BROWSING)


def _simulate(directory: Path) -> Dataset:
    simulated = embedded_shop()
    dataset = leave_last_out(simulated.interactions, name="shop")
    save_dataset(dataset, directory, describe(simulated.interactions))
    return dataset


def _copy_prepared(source: Path, directory: Path) -> Dataset:
    dataset = load_dataset(source)
    if directory.exists():
        copy = load_dataset(directory)
        if copy.fingerprint != dataset.fingerprint:
            raise DataError(
                f"{source} has changed since this run was started; choose another --output."
            )
        return copy
    save_dataset(dataset, directory)
    return dataset


def _with_name(dataset: Dataset, name: str) -> Dataset:
    return replace(dataset, name=name) if name else dataset
