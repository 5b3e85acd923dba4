"""Runs from Python: train a run folder with a dataset and a model of one's own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recoach.data.dataset import Dataset
from recoach.data.prepared import MANIFEST, load_dataset, save_dataset
from recoach.errors import ConfigError, RunError
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import execute, open_run
from recoach.models.base import Recommender
from recoach.models.external import Builder, register
from recoach.report.html import write_report
from recoach.training.callbacks import Callback


def run(
    dataset: Dataset,
    model: str | type[Recommender] | Builder,
    output: Path | str,
    settings: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train base, fine-tuned model and control in a run folder and write its report.

    The folder can be used like one of `recoach run`: with `recoach recommend`, `serve`, `export`,
    `report` and `compare`. It stores the import path and the settings of the model, and no code. A
    model without a loss is taken as it is built, and has no control.

    Args:
        dataset: the split log; a copy is written into the folder.
        model: a name of `recoach.models.registry.MODELS`, an import path, a subclass of
            `Recommender`, or a function `build(dataset, **settings)` that returns a model. One that
            cannot be imported (of a notebook, or nested in another function) works in this process;
            `recoach.load(output, build=...)` opens its folder again.
        output: the run folder.
        settings: those of a TOML file with the table before the key, `{"finetune.beta": 0.02}`;
            `model.KEY` are settings of the model. Others have their defaults.
        resume: whether an unfinished run may be continued.
        progress: show a progress bar for each training, where there is a terminal or a notebook.

    Returns:
        The content of results.json.

    Raises:
        ConfigError: the model or a setting is unknown or invalid.
        RunError: the folder holds another run, or an unfinished one and `resume` is false.
        DataError: the dataset has nothing to learn from, to select on or to test on.
    """
    name = model if isinstance(model, str) else register(model)
    folder = RunFolder(Path(output))
    config = _resolved(name, folder, settings or {})
    with folder.lock():
        resumes = folder.check(config, resume=resume)
        _write_dataset(dataset, folder)
        if resumes and folder.has_results_for(config):
            return folder.read_json("results.json")
        opened = open_run(config, folder.path, resume=resume, make_callback=lambda _: Callback())
        results = execute(replace(opened, progress=progress))
    write_report(folder.path)
    return results


def _resolved(name: str, folder: RunFolder, settings: Mapping[str, Any]) -> ExperimentConfig:
    raw: dict[str, Any] = {"model": {"name": name}, "data": {"path": str(folder.dataset)}}
    for key, value in settings.items():
        table, dot, setting = key.partition(".")
        if not dot:
            raw[table] = value
        elif isinstance(raw.setdefault(table, {}), dict):
            raw[table][setting] = value
        else:
            raise ConfigError(f"settings: {table!r} is given as a value and as a table.")
    return resolve(raw, "settings")


def _write_dataset(dataset: Dataset, folder: RunFolder) -> None:
    """Write the copy of the dataset; RunError if the folder has one of another dataset."""
    if not (folder.dataset / MANIFEST).exists():
        save_dataset(dataset, folder.dataset)
        return
    stored = load_dataset(folder.dataset).fingerprint
    if stored != dataset.fingerprint:
        raise RunError(
            f"{folder.path} was made with another dataset (fingerprint {stored}, given "
            f"{dataset.fingerprint}). Choose another output."
        )
