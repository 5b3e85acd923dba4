"""A prepared set on disk: a small folder of Parquet and JSON, written whole or not at all.

users.parquet, items.parquet            external ids in the order of their numbers
train.parquet, valid.parquet, test.parquet   user and item numbers, a user's rows in time order;
                                        train has the ratings, where the log has any
dataset.json                            version, name, fingerprint, source, config, statistics
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from recoach import distributed
from recoach.config import StrictConfig
from recoach.data.filters import deduplicate, k_core, rating_at_least
from recoach.data.formats import UNREADABLE
from recoach.data.ingest import read_interactions
from recoach.data.interactions import FloatArray, Interactions
from recoach.data.lock import alone
from recoach.data.split import Dataset, RaggedArray, fingerprint, leave_last_out
from recoach.data.statistics import Statistics, describe
from recoach.errors import ConfigError, DataError

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
"""The file that makes a folder a prepared set."""
_PARTS = ("train", "valid", "test")
_SAMPLE = 1 << 20  # bytes hashed at the start, in the middle and at the end of a source


class PrepareConfig(StrictConfig, use_attribute_docstrings=True):
    """How a log becomes a prepared set; filters run in the order of the fields."""

    min_rating: float | None = None
    """Keep only interactions rated this or better; needs a rating column."""

    dedup: Literal["none", "first", "last"] = "none"
    """Which interaction of a repeated (user, item) pair to keep; none keeps all."""

    k_core: int = Field(default=5, ge=0)
    """Every user and item keeps at least this many interactions; 0 switches the filter off."""

    test_items: int = Field(default=1, ge=1)
    """Last interactions of every user that are held out for test."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our column names (user_id, item_id, rating, timestamp) to the names in the file."""

    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "inter", "sequence"] = "auto"
    """The file's format; auto goes by its suffix."""


_DEFAULT = PrepareConfig()


def prepare(
    source: Path,
    directory: Path,
    config: PrepareConfig = _DEFAULT,
    *,
    memory: str | None = None,
    spark: str | None = None,
) -> Dataset:
    """Read, filter and split a log into `directory`, or load it where nothing has changed.

    The folder is reused while the source (name, size, time of change, sampled content) and the
    config are those it was made with. It appears whole or not at all.

    Args:
        source: the log.
        directory: the folder to write.
        config: filters and split.
        memory: "4GB" lets DuckDB do the same on disk, beside the folder, within so much memory.
        spark: "local[4]" or another master lets Spark do it, in a folder beside that workers see.

    Raises:
        ConfigError: `memory` is no size, or DuckDB or Spark is not installed; or both are asked.
        DataError: a bad log, filters that leave nothing, a folder that is not ours or not writable.
    """
    source, directory = Path(source), Path(directory)
    if memory is not None and spark is not None:
        raise ConfigError("memory is DuckDB's limit, Spark has its own settings; give one of both.")
    _identity(source)  # a log that is not there makes no folder
    with _working(directory):
        return _prepare(source, directory, config, memory, spark)


def _prepare(
    source: Path, directory: Path, config: PrepareConfig, memory: str | None, spark: str | None
) -> Dataset:
    origin = {"source": _identity(source), "config": config.model_dump()}
    reused = _reuse(directory, origin)
    if reused is not None:
        return reused
    name = source.name.split(".")[0]
    if memory is not None:
        from recoach.data.sql.duckdb import split_in_duckdb  # noqa: PLC0415 (an extra)

        dataset, statistics = split_in_duckdb(source, config, memory, directory)
    elif spark is not None:
        from recoach.data.sql.spark import split_in_spark  # noqa: PLC0415 (an extra)

        dataset, statistics = split_in_spark(source, config, spark, directory)
    else:
        read = read_interactions(source, columns=config.columns, format=config.format)
        log = filtered(read, config)
        dataset = leave_last_out(log, name, test_items=config.test_items)
        statistics = describe(log)
    dataset = dataclasses.replace(dataset, name=name)
    _save(dataset, directory, statistics, origin)
    return dataset


def filtered(interactions: Interactions, config: PrepareConfig) -> Interactions:
    """Return the log after rating threshold, deduplication and k-core, in this order."""
    if config.min_rating is not None:
        interactions = rating_at_least(interactions, config.min_rating)
    if config.dedup != "none":
        interactions = deduplicate(interactions, config.dedup)
    return k_core(interactions, config.k_core) if config.k_core else interactions


def save_dataset(
    dataset: Dataset,
    directory: Path,
    statistics: Statistics | None = None,
    origin: dict[str, Any] | None = None,
) -> None:
    """Write a dataset to `directory`, replacing an older prepared set there.

    Everything is written to a temporary sibling first; whatever goes wrong, nothing half-written
    stays. Of several processes only the first writes. DataError where the disk refuses or the
    folder holds something else.
    """
    if not distributed.is_main_process():
        return
    with _working(Path(directory)):
        _save(dataset, Path(directory), statistics, origin)


def recover(directory: Path) -> None:
    """Put back the set that a process was killed while exchanging, if there is one."""
    old = _old(directory)
    if old.is_dir() and not directory.exists():
        old.rename(directory)


@contextmanager
def _working(directory: Path) -> Iterator[None]:
    """Be the only one who works on a set, and take away what a killed process left of one."""
    with alone(directory, directory.with_name(f".{directory.name}.lock")):
        recover(directory)
        for left in (_old(directory), _part(directory)):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _old(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def _part(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.part")


def _save(
    dataset: Dataset,
    directory: Path,
    statistics: Statistics | None,
    origin: dict[str, Any] | None,
) -> None:
    if directory.exists() and not _is_ours(directory):
        raise DataError(
            f"{directory} exists and is not a prepared set; name another folder or empty it"
        )
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "statistics": None if statistics is None else dataclasses.asdict(statistics),
        **(origin or {}),
    }
    try:
        _write(dataset, manifest, _part(directory))
        _swap(_part(directory), directory, _old(directory))
    except (OSError, *UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(
            f"{directory}: the prepared set cannot be written ({reason}); make room or name a "
            "folder you may write to"
        ) from None
    finally:
        for left in (_part(directory), _old(directory)):
            shutil.rmtree(left, ignore_errors=True)


def load_dataset(directory: Path) -> Dataset:
    """Read a prepared set and verify it.

    Raises:
        DataError: no prepared set there, one of another version, or files that were changed.
    """
    directory = Path(directory)
    manifest = _manifest(directory)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{directory / MANIFEST}: format_version is {manifest.get('format_version')!r}, this "
            f"release reads {FORMAT_VERSION}; prepare the data again"
        )
    try:
        ids = [pl.read_parquet(directory / f"{name}.parquet")["id"] for name in ("users", "items")]
        rows = [_read_part(directory / f"{part}.parquet", len(ids[0])) for part in _PARTS]
        found = fingerprint(ids, rows)
        ratings = _read_ratings(directory / "train.parquet")
    except (OSError, ValueError, *UNREADABLE):
        found = "unreadable"
    if found != manifest.get("fingerprint"):
        raise DataError(
            f"{directory}: its files do not match the fingerprint in {MANIFEST} "
            f"({found} and {manifest.get('fingerprint')}); prepare the data again"
        )
    split = str(manifest.get("split", "leave_last_out"))
    name = str(manifest.get("name", ""))
    return Dataset(name, ids[0], ids[1], rows[0], rows[1], rows[2], found, split, ratings)


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no prepared set in {directory}; run prepare first") from None
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict):
        raise DataError(f"{path} cannot be read; prepare the data again")
    return manifest


def _reuse(directory: Path, origin: dict[str, Any]) -> Dataset | None:
    """Return the set in `directory` if it was made from `origin` and is whole, else None."""
    try:
        manifest = _manifest(directory)
        if any(manifest.get(key) != value for key, value in origin.items()):
            return None
        return load_dataset(directory)
    except DataError:
        return None


def _identity(source: Path) -> dict[str, Any]:
    """Return what tells one source from another without reading all of it."""
    try:
        status = source.stat()
        digest = hashlib.sha256()
        with source.open("rb") as file:
            for start in (0, status.st_size // 2, max(0, status.st_size - _SAMPLE)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    except FileNotFoundError:
        raise DataError(f"there is no file {source}; check the path") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}); name a file") from None
    return {
        "name": source.name,
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "sha256_sampled": digest.hexdigest(),
    }


def _is_ours(directory: Path) -> bool:
    return directory.is_dir() and ((directory / MANIFEST).is_file() or not any(directory.iterdir()))


def _write(dataset: Dataset, manifest: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    for name, ids in (("users", dataset.user_ids), ("items", dataset.item_ids)):
        pl.DataFrame({"id": ids}).write_parquet(folder / f"{name}.parquet")
    for part in _PARTS:
        ragged: RaggedArray = getattr(dataset, part)
        users = np.repeat(np.arange(len(ragged), dtype=np.int32), ragged.lengths)
        table = pl.DataFrame({"user": users, "item": ragged.values})
        if part == "train" and dataset.ratings is not None:
            table = table.with_columns(rating=dataset.ratings)
        table.write_parquet(folder / f"{part}.parquet")
    text = json.dumps(manifest, indent=2, default=str)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _swap(new: Path, directory: Path, old: Path) -> None:
    """Put `new` in the place of `directory`, whose former content goes to `old`."""
    if directory.exists():
        directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise


def _read_ratings(path: Path) -> FloatArray | None:
    if "rating" not in pl.read_parquet_schema(path):
        return None
    return pl.read_parquet(path, columns=["rating"])["rating"].to_numpy().astype(np.float32)


def _read_part(path: Path, n_users: int) -> RaggedArray:
    table = pl.read_parquet(path)
    counts = np.bincount(table["user"].to_numpy(), minlength=n_users)
    offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    return RaggedArray(offsets, table["item"].to_numpy().astype(np.int32))
