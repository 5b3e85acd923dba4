"""The dataset of a run: a log, a prepared folder or the embedded shop, copied into the run."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from recoach.data.benchmark import read_benchmark
from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.item_table import read_titles
from recoach.data.prepared import MANIFEST, load_dataset, prepare, recover, save_dataset
from recoach.data.protocol import Auto, Given, LeaveLastOut
from recoach.data.readers.folder import parquet_parts
from recoach.data.split import split_log
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
    recover(directory)
    if source is not None and (source / MANIFEST).exists():
        dataset = _copy_prepared(source, directory)
    elif resumed and directory.exists():
        dataset = load_dataset(directory)
    elif source is None:
        log = embedded_shop().interactions
        split = LeaveLastOut() if isinstance(config.split, Auto) else config.split
        dataset = split_log(log, split, name="shop")
        save_dataset(dataset, directory, describe(log))
    elif source.is_dir() and not parquet_parts(source):
        dataset = read_benchmark(
            source,
            format=config.format,
            split=config.split if isinstance(config.split, Given) else None,
        )
        save_dataset(dataset, directory)
    else:
        filters = PrepareConfig(**config.model_dump(exclude={"path", "name", "items"}))
        dataset = prepare(source, directory, filters)
    return replace(dataset, name=config.name) if config.name else dataset


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
