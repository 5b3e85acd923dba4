"""The folder of a run: its files, its lock, and whether a run can start or resume in it."""

import io
import json
import platform
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import torch

from recoach.data.dataset import Dataset
from recoach.data.files import read_parquet, read_text
from recoach.data.item_table import titles_of
from recoach.data.lock import LOCK_FILE, lock_folder
from recoach.data.prepared import load_dataset
from recoach.data.readers.table import POLARS_ERRORS
from recoach.errors import ConfigError, DataError, RunError
from recoach.experiments.config import ExperimentConfig, read_config, resolve
from recoach.experiments.data import applied_settings, check_has_weights, check_trainable
from recoach.models.checkpoint import load_tensors, write_atomically
from recoach.models.products import product_dtype

FORMAT = 1
RETRAINED = "_retrained"
"""Ending of the stages that were trained again on train and validation."""
_FILES_BEFORE_START = {"dataset", "env.json", "metrics.jsonl", "titles.parquet", "config.toml"}
_FILES_BEFORE_START |= {
    f".{name}{ending}" for name in _FILES_BEFORE_START for ending in (".part", ".old", ".lock")
}
_FILES_BEFORE_START |= {LOCK_FILE}
_FILES_BEFORE_START -= {"config.toml"}
"""What may be in a folder whose run was interrupted before config.toml was written."""
_PARTIAL_FILES = ("*.part", "checkpoints/*.part", "checkpoints/*/*.part")
"""Files and copies that a killed process may leave unfinished."""


class RunFolder:
    """Reads and writes the files of a run; every file is written atomically.

    The files are config.toml, env.json, metrics.jsonl, results.json, per_user.parquet, lists.json
    and report.html; the folders are dataset/ and checkpoints/STAGE/, where a stage
    is base, tuned, control or, for a cross-fitted reward, fold-1-of-4 and so on; stages that were
    trained again on train and validation have names that end in "_retrained".
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def dataset(self) -> Path:
        """The folder of the prepared dataset."""
        return self.path / "dataset"

    def checkpoints(self, stage: str) -> Path:
        """Return the folder of a stage's checkpoints."""
        return self.path / "checkpoints" / stage

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process and remove unfinished files of a killed one.

        Raises:
            RunError: another process holds the lock, or the folder cannot be written.
        """
        self._check_is_folder()
        with lock_folder(self.path):
            self._remove_partial_files()
            yield

    def _remove_partial_files(self) -> None:
        names = self._names()
        if "config.toml" not in names and not names <= _FILES_BEFORE_START:
            return  # not a run: the files belong to something else
        for path in (path for pattern in _PARTIAL_FILES for path in self.path.glob(pattern)):
            if path.name.startswith("."):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_is_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose another --output.")

    def _names(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()

    def has_checkpoint(self, stage: str) -> bool:
        """Return whether a stage has saved a checkpoint, finished or not."""
        return (self.checkpoints(stage) / "last.safetensors").exists()

    def is_complete(self, stage: str) -> bool:
        """Return whether a stage has finished training."""
        path = self.checkpoints(stage) / "last.safetensors"
        return path.exists() and bool(load_tensors(path).state.get("finished"))

    def has_results_for(self, config: ExperimentConfig) -> bool:
        """Return whether results.json holds the results of these settings."""
        if not (self.path / "results.json").exists():
            return False
        try:  # settings added in later versions have their defaults in both
            stored = resolve(self.read_json("results.json").get("config", {}), "results.json")
        except ConfigError:
            return False
        return self.with_applied(stored).tables() == self.with_applied(config).tables()

    def with_applied(self, config: ExperimentConfig, *, strict: bool = False) -> ExperimentConfig:
        """Return settings whose data table holds the filters that the data have gone through.

        Raises:
            ConfigError: with `strict`, a filter is given that is not applied to such data.
        """
        stored = self.config().data if (self.path / "config.toml").exists() else None
        return replace(config, data=applied_settings(config.data, stored, strict=strict))

    def prepare_finetuning(self, changes: Sequence[str], *, resume: bool) -> ExperimentConfig:
        """Apply overrides to the stored configuration, for fine-tuning the trained base model.

        Args:
            changes: overrides of `finetune`, `evaluation.control` and `evaluation.retrain`, as
                `--set` takes them.
            resume: whether an unfinished fine-tuning may be continued.

        Returns:
            The new configuration, which is also written to config.toml.

        Raises:
            RunError: the base model is not trained yet, or the folder holds a fine-tuning with
                other settings, or an unfinished one and `resume` is false.
            ConfigError: an override of another setting, or a model without trainable weights.
            DataError: see `check_trainable`.
        """
        stored = self.config()
        dataset = self.load_dataset()
        check_has_weights(stored, dataset)
        if not self.is_complete("base"):
            raise RunError(
                f"{self.path} has no trained base yet; run `recoach pretrain` to its end first."
            )
        for change in changes:
            if not change.startswith(
                ("finetune.", "grpo.", "evaluation.control", "evaluation.retrain")
            ):
                raise ConfigError(
                    f"--set {change}: the base of {self.path} is already trained. Only finetune, "
                    "evaluation.control and evaluation.retrain can change; for others pretrain "
                    "into another folder."
                )
        config = read_config(
            self.path / "config.toml", ["finetune.enabled=true", *changes], stored=True
        )
        different = _differences(stored.tables(), config.tables())
        if self.has_checkpoint("tuned") and different:
            raise RunError(
                f"{self.path} was fine-tuned with another {different[0]}; add --output DIR to "
                "fine-tune its base in another folder."
            )
        if self.has_checkpoint("tuned") and not self.has_results_for(config) and not resume:
            raise RunError(f"{self.path} holds an unfinished fine-tuning; add --resume.")
        check_trainable(config, dataset)
        self.write_text("config.toml", config.toml())
        return config

    def check(self, config: ExperimentConfig, *, resume: bool) -> bool:
        """Check that a run with these settings can start or resume here; nothing is written.

        Returns:
            True if there is a run to resume, False if a new one starts.

        Raises:
            RunError: the folder holds something else, a run of another version or with other
                settings, or an unfinished run and `resume` is false.
            ConfigError: see `with_applied`.
        """
        self._check_is_folder()
        if self._names() <= _FILES_BEFORE_START:
            return False
        stored = self.with_applied(self.config())
        requested = self.with_applied(config, strict=True)
        different = _differences(stored.tables(), requested.tables())
        if different:
            raise RunError(
                f"{self.path} holds a run with another {different[0]}; choose another --output, or "
                "give the same settings."
            )
        if not self.has_results_for(config) and not resume:
            raise RunError(
                f"{self.path} holds an unfinished run; add --resume to continue it, or choose "
                "another --output."
            )
        return True

    def begin(self, config: ExperimentConfig, dataset: Dataset) -> None:
        """Write env.json, metrics.jsonl and, last, config.toml, which makes the folder a run.

        Raises:
            RunError: the run was started with other data.
        """
        path = self.path / "env.json"
        fingerprint = self.read_json("env.json").get("dataset") if path.exists() else None
        is_run = (self.path / "config.toml").exists()
        if is_run and fingerprint not in (None, dataset.fingerprint):
            raise RunError(
                f"{self.path} was started with data of fingerprint {fingerprint}; its copy of the "
                f"data is gone and the log now has {dataset.fingerprint}. Restore the log, or "
                "choose another --output."
            )
        self.write_json("env.json", environment() | {"dataset": dataset.fingerprint})
        if not (self.path / "metrics.jsonl").exists():
            self.write_text("metrics.jsonl", "")
        self.write_text("config.toml", config.toml())

    def load_dataset(self) -> Dataset:
        """Return the dataset of the run.

        Raises:
            RunError: the folder has another dataset than the one the run was made with.
            DataError: the dataset cannot be read.
        """
        dataset = load_dataset(self.dataset)
        expected = self.read_json("env.json").get("dataset")
        if expected not in (None, dataset.fingerprint):
            raise RunError(
                f"{self.dataset} was replaced: the run was made with data of fingerprint "
                f"{expected}, and the folder has {dataset.fingerprint}. Restore it."
            )
        return dataset

    def config(self) -> ExperimentConfig:
        """Return the configuration of the run in this folder.

        Raises:
            RunError: the folder is not a run, or a run of another version.
        """
        path = self.path / "config.toml"
        if not path.exists():
            raise RunError(f"{self.path} is not a run folder: it has no config.toml.")
        version = self.read_json("env.json").get("run_format")
        if version != FORMAT:
            raise RunError(
                f"{self.path} was written in run format {version}, this version reads {FORMAT}; "
                "repeat the run with this version in another folder."
            )
        try:
            raw = tomllib.loads(read_text(path))
        except (DataError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}.") from error
        return resolve(raw, str(path))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file of the run; RunError if it is missing or damaged."""
        path = self.path / name
        if not self.path.exists():
            raise RunError(f"{self.path}: there is no such file or folder. Check the path.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise RunError(
                f"{path} is missing or damaged; restore it, or repeat the run in another folder."
            )
        return content

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a text file."""
        self.write_bytes(name, content.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a binary file."""
        write_atomically(self.path / name, content)

    def write_frame(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table, as `write_frame` does."""
        write_frame(self.path / name, frame)

    def titles(self, dataset: Dataset) -> pl.Series:
        """Return String[n_items], the titles of the items, or their ids if there are none."""
        titles = titles_of(dataset.item_table)
        if titles is not None:
            return titles
        path = self.path / "titles.parquet"  # of a run of version 0.1
        if not path.exists():
            return dataset.item_ids
        try:
            titles = read_parquet(path)["title"]
        except (OSError, *POLARS_ERRORS) as error:
            raise RunError(f"{path} cannot be read; remove it to show ids.") from error
        return titles if len(titles) == dataset.n_items else dataset.item_ids

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; a row that a crash cut off is skipped."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and {"stage", "step"} <= row.keys():
                rows.append(row)
        return rows

    def append_metrics(self, stage: str, row: Mapping[str, float]) -> None:
        """Append a row of a stage; rows of the same or a later step are replaced.

        A resumed stage repeats the steps after its last checkpoint.
        """
        earlier = [
            logged
            for logged in self.metrics()
            if logged.get("stage") != stage or logged.get("step", 0) < row["step"]
        ]
        lines = [json.dumps(line) + "\n" for line in [*earlier, {"stage": stage, **row}]]
        self.write_text("metrics.jsonl", "".join(lines))


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a table atomically as .parquet, .csv, .jsonl or .ndjson, by the file's suffix.

    Raises:
        RunError: another suffix, or the file cannot be written.
    """
    check_table_suffix(path)
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        content = buffer.getvalue()
    elif path.suffix == ".csv":
        content = frame.write_csv().encode()
    else:
        content = frame.write_ndjson().encode()
    write_atomically(path, content)


def check_table_suffix(path: Path) -> None:
    """Raise a RunError if a path has none of the suffixes of `write_frame`."""
    if path.suffix not in (".parquet", ".csv", ".jsonl", ".ndjson"):
        raise RunError(
            f"{path}: tables are written as .parquet, .csv or .jsonl; change the suffix."
        )


def environment() -> dict[str, Any]:
    """Return the versions and hardware that a run's numbers may depend on."""
    names = ("recoach", "torch", "numpy", "scipy", "polars", "pydantic")
    return {
        "run_format": FORMAT,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "not_deterministic": nondeterminism_notes(),
        "versions": {name: metadata.version(name) for name in names},
    }


def nondeterminism_notes() -> list[str]:
    """Return the reasons why the last digits of a repeated run may differ."""
    notes = [
        "floating point sums have another order with another number of threads, another processor "
        "or another version of torch"
    ]
    if torch.cuda.is_available():
        notes.append("index sums on this GPU are added in no fixed order (atomics)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if product_dtype(torch.empty(1 << 20, 0, device=device)) is torch.bfloat16:
        notes.append("scores of large catalogues are computed in bfloat16 on this hardware")
    return notes


def _differences(
    stored: Mapping[str, Any], requested: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return a description of every setting that differs, with its dotted key."""
    differences = []
    for key in sorted({*stored, *requested}):
        old, new = stored.get(key), requested.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differences += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            differences.append(f"{prefix}{key} (stored: {old!r}, requested: {new!r})")
    return differences
