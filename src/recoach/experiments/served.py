"""The models of a run that are served: those of its served version, trained again if they were.

By default it is the best on validation of base, fine-tuned model and continued training.
"""

from collections.abc import Sequence
from pathlib import Path

from recoach.data.dataset import Dataset, merge_valid
from recoach.errors import RunError
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.experiments.versions import served_folder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.models.content import place_cold_items

_STAGES = ("base", "tuned")
_CONTROL = "control"


def served_checkpoints(folder: RunFolder, stages: Sequence[str]) -> list[Path]:
    """Return the folders of the weights that are served for some stages.

    They are those of the models that were trained again, if all of these have been.
    """
    return _checkpoints(served_folder(folder), stages)


def _checkpoints(folder: RunFolder, stages: Sequence[str]) -> list[Path]:
    retrained = [f"{stage}{RETRAINED}" for stage in stages]
    names = retrained if all(map(folder.is_complete, retrained)) else stages
    return [folder.checkpoints(name) for name in names]


def served_stages(folder: RunFolder) -> list[str]:
    """Return the finished stages of the served version that lists can come from, the default last.

    A version of an update has one model; the run as it was trained has "base" and "tuned", and
    "control" where continued training is better on validation than both.
    """
    served = served_folder(folder)
    found = [stage for stage in (*_STAGES, _CONTROL) if served.is_complete(stage)]
    best = best_stage(served)
    if best is None:
        return [stage for stage in found if stage != _CONTROL] or found
    return [*(stage for stage in found if stage not in (best, _CONTROL)), best]


def best_stage(folder: RunFolder) -> str | None:
    """Return the stage that results.json names as the best on validation; None without one."""
    if not (folder.path / "results.json").exists():
        return None
    stage = folder.read_json("results.json").get("served")
    return stage if stage is not None and folder.is_complete(stage) else None


def served_stage(folder: RunFolder) -> str:
    """Return the stage that is served by default.

    Raises:
        RunError: no stage is finished.
    """
    stages = served_stages(folder)
    if not stages:
        raise RunError(f"{folder.path} has no trained base yet. Finish the run first.")
    return stages[-1]


def load_served(folder: RunFolder, stages: Sequence[str]) -> tuple[Dataset, list[Recommender]]:
    """Return the models that are served for some stages, and the dataset they were trained on.

    With `catalogue = "items"` items without training events have the vectors that their content
    predicts.

    Raises:
        DataError: the dataset of the run cannot be read.
        RunError: it is another one than the run was made with, or the served version is gone.
        ModelError: the weights cannot be read.
    """
    served = served_folder(folder)
    dataset, paths = served.load_dataset(), _checkpoints(served, stages)
    if paths[0].name.endswith(RETRAINED):
        dataset = merge_valid(dataset)
    models = [load_model(path, dataset) for path in paths]
    if served.config().data.catalogue == "items":
        for model in models:
            place_cold_items(model, dataset)
    return dataset, models


def open_model(folder: RunFolder, stage: str | None) -> tuple[str, Recommender, Dataset]:
    """Return the stage, the model and the dataset of the served version of a run.

    Args:
        folder: the run folder.
        stage: the stage of the model; None selects the best one on validation (`best_stage`). A
            model that was trained again on train and validation takes its place.

    Raises:
        RunError: the path is not a run folder, or the stage is not trained yet.
    """
    folder.config()
    served = served_folder(folder)
    newest = next((name for name in ("tuned", "base") if served.has_checkpoint(name)), None)
    only = _CONTROL if newest is None and served.has_checkpoint(_CONTROL) else "base"
    selected = stage or best_stage(served) or newest or only
    if not served.has_checkpoint(selected):
        if served is not folder:
            raise RunError(
                f"{folder.path} serves version {served.path.name}, which has no {selected} model. "
                "Leave the stage out."
            )
        raise RunError(f"{folder.path} has no {selected} model yet. Finish the run first.")
    dataset, (model,) = load_served(folder, [selected])
    return selected, model, dataset
