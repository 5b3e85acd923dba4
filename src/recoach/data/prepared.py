"""A prepared dataset on disk: a folder of Parquet and JSON files, written as a whole.

users.parquet, items.parquet            external ids in the order of their numbers
train.parquet, valid.parquet, test.parquet   user and item numbers and the optional columns of the
                                        log, each user's rows in time order
negatives.parquet                       the items that users rejected, if the log has any
item_table.parquet                      what is known about each item, if there is a table of items
dataset.json                            version, name, fingerprints, split, source, config,
                                        statistics and a report of what was read
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from recoach import distributed
from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset, RaggedArray, fingerprint
from recoach.data.files import read_parquet
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_log
from recoach.data.interactions import IdTypes
from recoach.data.lock import lock_folder
from recoach.data.protocol import AnySplit, Given, LeaveLastOut, Split
from recoach.data.read_report import ReadReport
from recoach.data.readers.folder import parquet_parts
from recoach.data.readers.table import POLARS_ERRORS
from recoach.data.split import split_log
from recoach.data.statistics import Statistics, describe
from recoach.errors import ConfigError, DataError

FORMAT_VERSION = 2
_READABLE_VERSIONS = (1, 2)
MANIFEST = "dataset.json"
"""The file by which a folder is recognized as a prepared dataset."""
_IDS = ("users", "items")
_PARTS = ("train", "valid", "test")
_NEGATIVES = "negatives.parquet"
_ITEM_TABLE = "item_table.parquet"
_SAMPLE_BYTES = 1 << 20  # hashed at the start, in the middle and at the end of a source

_DEFAULT = PrepareConfig()


def prepare(
    source: Path,
    directory: Path,
    config: PrepareConfig = _DEFAULT,
    *,
    memory: str | None = None,
    spark: str | None = None,
) -> Dataset:
    """Read, filter and split a log into `directory`, or load the dataset if nothing has changed.

    The folder is reused as long as the source (name, size, modification time, sampled content)
    and the config are the same. It is written completely or not at all.

    Args:
        source: the log.
        directory: the folder to write.
        config: filters and split.
        memory: a limit such as "4GB": DuckDB does the work on disk, in a scratch folder next to
            `directory`.
        spark: a master such as "local[4]": Spark does the work, in a scratch folder next to
            `directory` that all workers must be able to read.

    Raises:
        ConfigError: `memory` is not a size, DuckDB or Spark is not installed, or both are given.
        DataError: the log is bad, the filters leave nothing, or the folder holds other files or is
            not writable.
        BusyError: another process writes this folder.
    """
    source, directory = Path(source), Path(directory)
    if memory is not None and spark is not None:
        raise ConfigError(
            "memory: this is the limit of DuckDB, and Spark has its own settings. Give memory or "
            "spark, not both."
        )
    describe_source(source)  # raises before a folder is made
    with _lock(directory):
        origin = {"source": describe_source(source), "config": config.model_dump(mode="json")}
        reused = _load_if_unchanged(directory, origin)
        if reused is not None:
            return reused
        report: ReadReport | None
        if memory is not None:
            from recoach.data.sql.duckdb import split_in_duckdb  # noqa: PLC0415 (an extra)

            dataset, statistics, report = split_in_duckdb(source, config, memory, directory)
        elif spark is not None:
            from recoach.data.sql.spark import split_in_spark  # noqa: PLC0415 (an extra)

            dataset, statistics, report = split_in_spark(source, config, spark, directory)
        else:
            dataset, statistics, report = read_and_split(source, config)
        dataset = dataclasses.replace(dataset, name=source.name.split(".")[0])
        described = None if report is None else report.to_dict() | {"line": report.line()}
        _save(dataset, directory, statistics, origin | {"report": described})
        return dataset


def read_and_split(
    source: Path, config: PrepareConfig
) -> tuple[Dataset, Statistics, ReadReport | None]:
    """Read, filter and split a log in memory; DataError if that is not possible."""
    log = read_log(source, config)
    log = apply_filters(log, config)
    return split_log(log, config.split), describe(log), log.report


def save_dataset(
    dataset: Dataset,
    directory: Path,
    statistics: Statistics | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a dataset to `directory`, replacing an older prepared dataset there.

    The files are written to a temporary folder next to it first, which is removed on any error.
    Under torchrun only the main process writes. `origin` are further entries of dataset.json.

    Raises:
        DataError: the folder cannot be written or holds something else.
        BusyError: another process writes this folder.
    """
    if not distributed.is_main_process():
        return
    with _lock(Path(directory)):
        _save(dataset, Path(directory), statistics, origin or {})


def recover(directory: Path) -> None:
    """Restore the old dataset if a process was killed while it replaced it."""
    old, _ = _temporary_folders(directory)
    if old.is_dir() and not directory.exists():
        old.rename(directory)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Lock a prepared dataset, and remove the leftovers of a killed process."""
    with lock_folder(directory, directory.with_name(f".{directory.name}.lock")):
        recover(directory)
        for leftover in _temporary_folders(directory):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _temporary_folders(directory: Path) -> tuple[Path, Path]:
    """Return where the replaced dataset is moved, and where the new one is written."""
    old, part = (directory.with_name(f".{directory.name}.{ending}") for ending in ("old", "part"))
    return old, part


def _save(
    dataset: Dataset,
    directory: Path,
    statistics: Statistics | None,
    origin: Mapping[str, Any],
) -> None:
    if directory.exists() and not _can_replace(directory):
        raise DataError(
            f"{directory}: exists and is not a prepared dataset. Name another folder or empty it."
        )
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": dataset.split.model_dump(),
        "id_types": dataset.id_types.names(),
        "columns_fingerprint": columns_fingerprint(dataset),
        "statistics": None if statistics is None else dataclasses.asdict(statistics),
        **origin,
    }
    old, new = _temporary_folders(directory)
    try:
        _write(dataset, manifest, new.absolute())
        _swap(new, directory, old)
    except (OSError, *POLARS_ERRORS) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(
            f"{directory}: the prepared dataset cannot be written ({reason}). Make room or name a "
            "folder you may write to."
        ) from None
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def add_item_table(directory: Path, table: pl.DataFrame) -> None:
    """Write the table of items of a prepared dataset, see `Dataset.item_table`.

    Under torchrun only the main process writes.

    Raises:
        DataError: the folder cannot be written.
    """
    if not distributed.is_main_process():
        return
    part = directory / f".{_ITEM_TABLE}.part"
    try:
        table.write_parquet(part)
        part.replace(directory / _ITEM_TABLE)
    except (OSError, *POLARS_ERRORS) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(
            f"{directory / _ITEM_TABLE}: cannot be written ({reason}). Make room or name a folder "
            "you may write to."
        ) from None
    finally:
        part.unlink(missing_ok=True)


def load_dataset(directory: Path) -> Dataset:
    """Read a prepared dataset and verify its fingerprint.

    Raises:
        DataError: the folder is not a prepared dataset, has another version, or was changed.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    version = manifest.get("format_version")
    if version not in _READABLE_VERSIONS:
        raise DataError(
            f"{directory / MANIFEST}: format_version is {version!r}, this release reads "
            f"{FORMAT_VERSION} and earlier. Run recoach data prepare again on the log."
        )
    try:
        users, items = (read_parquet(directory / f"{name}.parquet")["id"] for name in _IDS)
        tables = [read_parquet(directory / f"{part}.parquet") for part in _PARTS]
        train, valid, test = (_rows(table, len(users)) for table in tables)
        path = directory / _NEGATIVES
        negatives = _rows(read_parquet(path), len(users)) if path.exists() else None
        split = _read_split(manifest)
        actual = fingerprint((users, items), (train, valid, test))
        path = directory / _ITEM_TABLE
        item_table = read_parquet(path) if path.exists() else None
        name, rows = str(manifest.get("name", "")), (train, valid, test)
        types = IdTypes.from_names(manifest.get("id_types"))
        dataset = Dataset(name, users, items, *rows, actual, split, negatives, item_table, types)
        expected_columns = manifest.get("columns_fingerprint")
        if expected_columns not in (None, columns_fingerprint(dataset)):
            actual = "changed columns"
        if item_table is not None and not item_table["item_id"].equals(items):
            actual = f"other items in {_ITEM_TABLE}"
    except (OSError, ValueError, *POLARS_ERRORS):
        actual = "unreadable"
    if actual != manifest.get("fingerprint"):
        raise DataError(
            f"{directory}: its files do not match the fingerprint in {MANIFEST} "
            f"({actual} and {manifest.get('fingerprint')}). Prepare the data again."
        )
    return dataset


def _read_split(manifest: dict[str, Any]) -> AnySplit:
    """Return the split of a manifest; version 1 has its name."""
    split = manifest.get("split", "leave_last_out")
    if isinstance(split, dict):
        adapter: TypeAdapter[Any] = TypeAdapter(Split)
        value: AnySplit = adapter.validate_python(split)
        return value
    if split == "as given":
        return Given(valid="given")
    n_test = str(split).removeprefix("leave_last_").removesuffix("_out")
    return LeaveLastOut(test_items=int(n_test) if n_test.isdigit() else 1)


def columns_fingerprint(dataset: Dataset) -> str | None:
    """Return a hash of the optional columns and the rejected items; None without either."""
    digest, empty = hashlib.sha256(), True
    for rows in (dataset.train, dataset.valid, dataset.test, dataset.negatives):
        if rows is None:
            continue
        for name in sorted(rows.columns):
            values = rows.columns[name]
            empty = False
            digest.update(f"{name} {len(values)}".encode())
            digest.update(values.hash(0).to_numpy().tobytes())
    if dataset.negatives is not None:
        digest.update(dataset.negatives.values.astype("<i4").tobytes())
    return None if empty else digest.hexdigest()[:16]


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the content of dataset.json; DataError if it is missing or damaged."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{directory}: there is no prepared dataset. Run recoach data prepare first."
        ) from None
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: cannot be read. Prepare the data again.")
    return manifest


def read_lines(directory: Path) -> list[str]:
    """Return what was read for a prepared folder, a line for each file; none if not recorded."""
    report = read_manifest(directory).get("report")
    if not isinstance(report, dict):
        return []
    return list(map(str, report.get("lines", [report["line"]] if "line" in report else [])))


def _load_if_unchanged(directory: Path, origin: dict[str, Any]) -> Dataset | None:
    """Return the dataset in `directory` if it is complete and was made from `origin`."""
    try:
        manifest = read_manifest(directory)
        if any(manifest.get(key) != value for key, value in origin.items()):
            return None
        return load_dataset(directory)
    except DataError:
        return None


def describe_source(source: Path) -> dict[str, Any]:
    """Return what identifies a source, without reading all of it."""
    try:
        files = parquet_parts(source) if source.is_dir() else [source]
        states = [file.stat() for file in files]
        digest = hashlib.sha256()
        for file, state in zip(files, states, strict=True):
            _add_samples(digest, file, state.st_size)
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file. Check the path.") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}). Name a file.") from None
    return {
        "name": source.name,
        "size": sum(state.st_size for state in states),
        "modified_ns": max((state.st_mtime_ns for state in states), default=0),
        "sha256_sampled": digest.hexdigest(),
    }


def _add_samples(digest: "hashlib._Hash", path: Path, size: int) -> None:
    """Add the start, the middle and the end of a file to a digest."""
    with path.open("rb") as file:
        for start in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))


def _can_replace(directory: Path) -> bool:
    """Return whether a folder is empty or a prepared dataset."""
    return directory.is_dir() and ((directory / MANIFEST).is_file() or not any(directory.iterdir()))


def _write(dataset: Dataset, manifest: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    for name, ids in (("users", dataset.user_ids), ("items", dataset.item_ids)):
        pl.DataFrame({"id": ids}).write_parquet(folder / f"{name}.parquet")
    parts: dict[str, RaggedArray] = {part: getattr(dataset, part) for part in _PARTS}
    if dataset.negatives is not None:
        parts[_NEGATIVES.removesuffix(".parquet")] = dataset.negatives
    for part, rows in parts.items():
        users = np.repeat(np.arange(len(rows), dtype=np.int32), rows.lengths)
        table = pl.DataFrame({"user": users, "item": rows.values, **rows.columns})
        table.write_parquet(folder / f"{part}.parquet")
    if dataset.item_table is not None:
        dataset.item_table.write_parquet(folder / _ITEM_TABLE)
    text = json.dumps(manifest, indent=2, default=str)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _swap(new: Path, directory: Path, old: Path) -> None:
    """Rename `directory`, if it exists, to `old`, and `new` to `directory`."""
    if directory.exists():
        directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise


def _rows(table: pl.DataFrame, n_users: int) -> RaggedArray:
    lengths = np.bincount(table["user"].to_numpy(), minlength=n_users)
    columns = {name: table[name].alias("") for name in table.columns[2:]}
    return RaggedArray.from_lengths(lengths, table["item"].to_numpy().astype(np.int32), columns)
