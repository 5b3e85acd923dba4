"""Collects the values of single users into `results/per_user/`, a file per group and log."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.record_digest import digest_of
from recoach.reproduction.suites import GROUPS, runs_folder
from recoach.reproduction.user_values import (
    SCHEMA,
    STORED_VALUES,
    read_user_values,
    user_values,
    write_user_values,
)
from tools.results.committed import PROFILE, Record, RunKey

FOLDER: Final = "per_user"


def restore_user_values(results: Path, runs: Path) -> None:
    """Write the committed values beside the runs of each log; no existing file is replaced.

    Args:
        results: the folder `results/`.
        runs: the folder with a folder of runs for each group.
    """
    for path in sorted((results / FOLDER).glob("*.parquet")):
        for group in GROUPS:
            if path.stem.startswith(f"{group}-"):
                log = path.stem.removeprefix(f"{group}-")
                target = runs / runs_folder(group, PROFILE) / log / STORED_VALUES
                if not target.exists():
                    write_user_values(target, read_user_values(path))


def collect_user_values(
    records: Mapping[RunKey, Record], folders: Mapping[RunKey, Path], results: Path
) -> None:
    """Write the values of all runs with a record.

    Values of a run whose folder is elsewhere stay as they are in the file, as long as its record is
    the one that they belong to.

    Args:
        records: of the committed runs.
        folders: of the same runs; they need not exist.
        results: the folder `results/`.
    """
    by_file: dict[Path, dict[RunKey, Record]] = {}
    for key, record in records.items():
        if key in folders:
            path = results / FOLDER / f"{key.group}-{key.log}.parquet"
            by_file.setdefault(path, {})[key] = record
    for path, runs in by_file.items():
        stored = read_user_values(path)
        frames = [_values_of(key, record, folders[key], stored) for key, record in runs.items()]
        frame = pl.concat([pl.DataFrame(schema=SCHEMA), *frames])
        if len(frame) or path.exists():
            write_user_values(path, frame)


def _values_of(key: RunKey, record: Record, folder: Path, stored: pl.DataFrame) -> pl.DataFrame:
    if (folder / "per_user.parquet").exists():
        return user_values(RunFolder(folder), key.cell)
    return stored.filter(cell=key.cell, seed=key.seed, run=digest_of([record]))
