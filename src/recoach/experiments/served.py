"""The models of a run that are served: those trained on train and validation, if there are any."""

from collections.abc import Sequence
from pathlib import Path

from recoach.data.dataset import Dataset, merge_valid
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model


def served_checkpoints(folder: RunFolder, stages: Sequence[str]) -> list[Path]:
    """Return the folders of the weights that are served for some stages.

    They are those of the models that were trained again, if all of these have been.
    """
    retrained = [f"{stage}{RETRAINED}" for stage in stages]
    names = retrained if all(map(folder.is_complete, retrained)) else stages
    return [folder.checkpoints(name) for name in names]


def load_served(folder: RunFolder, stages: Sequence[str]) -> tuple[Dataset, list[Recommender]]:
    """Return the models that are served for some stages, and the dataset they were trained on.

    Raises:
        DataError: the dataset of the run cannot be read.
        RunError: it is another one than the run was made with.
        ModelError: the weights cannot be read.
    """
    dataset, paths = folder.load_dataset(), served_checkpoints(folder, stages)
    if paths[0].name.endswith(RETRAINED):
        dataset = merge_valid(dataset)
    return dataset, [load_model(path, dataset) for path in paths]
