"""The folder of a run: what is in it, whose it is, whether it may be continued."""

import io
import json
import platform
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import torch

from recoach.data.lock import LOCK_FILE, lock_folder
from recoach.data.readers.table import POLARS_ERRORS
from recoach.data.split import Dataset
from recoach.errors import ConfigError, RunError
from recoach.experiments.config import ExperimentConfig, read_config, resolve
from recoach.models.checkpoint import load_tensors, write_atomically
from recoach.models.registry import model_entry
from recoach.models.softmax import product_dtype

FORMAT = 1
_BEFORE = {"dataset", "env.json", "metrics.jsonl", "titles.parquet", "config.toml"}
_BEFORE |= {f".{name}{end}" for name in _BEFORE for end in (".part", ".old", ".lock")} | {LOCK_FILE}
_BEFORE -= {"config.toml"}
"""What may lie in a folder where a run was about to begin."""
_HALF = ("*.part", "checkpoints/*.part", "checkpoints/*/*.part")
"""What a killed process may leave in a run: files and copies that were never finished."""


class RunFolder:
    """Paths of a run and the few ways to write into it.

    config.toml env.json metrics.jsonl results.json per_user.parquet lists.json titles.parquet
    report.html
    dataset/ checkpoints/{base,control,tuned}/ and, for a cross-fitted reward, fold-1-of-4/ ...
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def dataset(self) -> Path:
        """The prepared data."""
        return self.path / "dataset"

    def checkpoints(self, stage: str) -> Path:
        """Return the folder of a stage's weights."""
        return self.path / "checkpoints" / stage

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Work in this folder while no other process does; what a killed one left is swept away.

        Raises:
            RunError: another process works there, or it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose another --output for the run's folder.")
        with lock_folder(self.path):
            self._sweep()
            yield

    def _sweep(self) -> None:
        names = self._names()
        if "config.toml" not in names and not names <= _BEFORE:
            return  # it is not a run
        for left in (path for pattern in _HALF for path in self.path.glob(pattern)):
            if left.name.startswith("."):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _names(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()

    def has_checkpoint(self, stage: str) -> bool:
        """Return whether a stage has saved anything yet."""
        return (self.checkpoints(stage) / "last.safetensors").exists()

    def is_complete(self, stage: str) -> bool:
        """Return whether a stage has come to its end."""
        path = self.checkpoints(stage) / "last.safetensors"
        return path.exists() and bool(load_tensors(path).state.get("finished"))

    def has_results_for(self, config: ExperimentConfig) -> bool:
        """Return whether the run has the results of these settings."""
        if not (self.path / "results.json").exists():
            return False
        try:  # a setting that came later has its default in both
            stored = resolve(self.read_json("results.json").get("config", {}), "results.json")
        except ConfigError:
            return False
        return stored.tables() == config.tables()

    def prepare_finetuning(self, changes: Sequence[str], *, resume: bool) -> ExperimentConfig:
        """Return the run's settings with changes to GRPO, written down for the fine-tuning.

        Raises:
            RunError: the base is not trained yet, or another fine-tuning is there.
            ConfigError: a change to anything but `grpo` and `evaluation.control`, or a model that
                has nothing to train.
        """
        there = self.config()
        if not model_entry(there.model_name).model.needs:
            raise ConfigError(f"{there.model_name} has no weights that could be fine-tuned.")
        if not self.is_complete("base"):
            raise RunError(f"{self.path} has no trained base yet; finish `recoach pretrain` first.")
        for change in changes:
            if not change.startswith(("grpo.", "evaluation.control")):
                raise ConfigError(
                    f"--set {change}: the base of {self.path} is trained; only grpo can change."
                )
        here = read_config(self.path / "config.toml", ["finetune=true", *changes])
        different = _differences(there.tables(), here.tables())
        if self.has_checkpoint("tuned") and different:
            raise RunError(
                f"{self.path} was fine-tuned with another {different[0]}; pretrain into another "
                "folder, or copy this run without checkpoints/tuned and checkpoints/control."
            )
        if self.has_checkpoint("tuned") and not self.has_results_for(here) and not resume:
            raise RunError(f"{self.path} holds an unfinished fine-tuning; add --resume.")
        self.write_text("config.toml", here.toml())
        return here

    def check(self, config: ExperimentConfig, *, resume: bool) -> bool:
        """Make sure that a run can begin or go on here, without writing; return whether it goes on.

        Raises:
            RunError: it holds something else, another version, other settings, or an unfinished
                run that was not asked to be resumed.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose another --output for the run's folder.")
        if self._names() <= _BEFORE:
            return False
        self._check(config, resume=resume)
        return True

    def begin(self, config: ExperimentConfig, dataset: Dataset) -> None:
        """Write down what is run, on what and where; config.toml, the last, makes it a run.

        Raises:
            RunError: the run began with other data.
        """
        path = self.path / "env.json"
        began = self.read_json("env.json").get("dataset") if path.exists() else None
        if (self.path / "config.toml").exists() and began not in (None, dataset.fingerprint):
            raise RunError(
                f"{self.path} began with data of fingerprint {began}; its copy is gone and the "
                f"log now gives {dataset.fingerprint}. Restore the log, or choose another --output."
            )
        self.write_json("env.json", environment() | {"dataset": dataset.fingerprint})
        if not (self.path / "metrics.jsonl").exists():
            self.write_text("metrics.jsonl", "")
        self.write_text("config.toml", config.toml())

    def _check(self, config: ExperimentConfig, *, resume: bool) -> None:
        there = self.config()
        different = _differences(there.tables(), config.tables())
        if different:
            raise RunError(
                f"{self.path} holds a run with another {different[0]}; choose another --output, or "
                "give the same settings."
            )
        if not self.has_results_for(config) and not resume:
            raise RunError(
                f"{self.path} holds an unfinished run; add --resume to go on with it, or choose "
                "another --output."
            )

    def config(self) -> ExperimentConfig:
        """Return the settings of the run in this folder.

        Raises:
            RunError: there is no run here, or one of another version.
        """
        path = self.path / "config.toml"
        if not path.exists():
            raise RunError(f"{self.path} is not a run folder: it has no config.toml.")
        version = self.read_json("env.json").get("run_format")
        if version != FORMAT:
            raise RunError(
                f"{self.path} was written in run format {version}, this version reads {FORMAT}; "
                "run it again with this version, into another folder."
            )
        try:
            raw = tomllib.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}.") from error
        return resolve(raw, str(path))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file of the run; RunError where it is missing or broken."""
        path = self.path / name
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise RunError(f"{path} is missing or damaged; this is no complete run folder.")
        return content

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file whole."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a text file whole."""
        self.write_bytes(name, content.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file whole."""
        write_atomically(self.path / name, content)

    def write_frame(self, name: str, frame: pl.DataFrame) -> None:
        """Write a Parquet file whole."""
        write_frame(self.path / name, frame)

    def write_titles(self, titles: pl.Series) -> None:
        """Keep the titles of the items, String[n_items]."""
        self.write_frame("titles.parquet", pl.DataFrame({"title": titles}))

    def titles(self, item_ids: pl.Series) -> pl.Series:
        """Return String[n_items], what to call the items: their titles, or else their ids."""
        path = self.path / "titles.parquet"
        if not path.exists():
            return item_ids
        try:
            titles = pl.read_parquet(path)["title"]
        except (OSError, *POLARS_ERRORS) as error:
            raise RunError(f"{path} cannot be read; remove it to show ids.") from error
        return titles if len(titles) == len(item_ids) else item_ids

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows logged so far; a row cut off by a crash is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and {"stage", "step"} <= row.keys():
                rows.append(row)
        return rows

    def append_metrics(self, stage: str, row: Mapping[str, float]) -> None:
        """Log a row of a stage, in place of any later ones that a resumed run repeats."""
        kept = [
            old
            for old in self.metrics()
            if old.get("stage") != stage or old.get("step", 0) < row["step"]
        ]
        lines = [json.dumps(line) + "\n" for line in [*kept, {"stage": stage, **row}]]
        self.write_text("metrics.jsonl", "".join(lines))


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a table whole; .parquet, .csv or .jsonl by its ending.

    Raises:
        RunError: an ending that is none of these, or a place that cannot be written.
    """
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        content = buffer.getvalue()
    elif path.suffix == ".csv":
        content = frame.write_csv().encode()
    elif path.suffix in (".jsonl", ".ndjson"):
        content = frame.write_ndjson().encode()
    else:
        raise RunError(f"{path}: tables are written as .parquet, .csv or .jsonl.")
    write_atomically(path, content)


def environment() -> dict[str, Any]:
    """Return the versions that a run's numbers may depend on."""
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
    """Return why the same run may give other last digits elsewhere, or here."""
    found = [
        "another number of threads, another processor or another version of torch adds up in "
        "another order"
    ]
    if torch.cuda.is_available():
        found.append("on this GPU sums by index are added up in any order (atomics)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if product_dtype(torch.empty(1 << 20, 0, device=device)) is torch.bfloat16:
        found.append("scores of large catalogues are multiplied in bfloat16 on this hardware")
    return found


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*there, *here}):
        left, right = there.get(key), here.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key} ({left!r} there, {right!r} now)")
    return found
