"""What a run tells about its data before it trains."""

from pathlib import Path
from typing import Final

import numpy as np

from recoach.data.dataset import Dataset
from recoach.data.prepared import read_lines
from recoach.data.protocol import Given
from recoach.data.targets import Part, targets_of
from recoach.experiments.config import ExperimentConfig
from recoach.models.registry import model_traits

HELD_OUT: Final[tuple[Part, ...]] = ("valid", "test")


def data_notes(config: ExperimentConfig, dataset: Dataset, directory: Path) -> list[str]:
    """Return one line each on how the data of a run were read and whom its model does not know.

    Args:
        config: the settings of the run.
        dataset: the dataset of the run.
        directory: the run's copy of it.
    """
    notes, path = [], config.data.path
    if path is not None and not Path(path).exists():
        notes.append(f"{path} is gone; the run's own copy of the data is used.")
    notes += read_lines(directory)
    if isinstance(dataset.split, Given) and dataset.split.valid in ("last", "users"):
        events = {
            "last": "the last training event of each user is",
            "users": "the events of the last training users are",
        }[dataset.split.valid]
        notes.append(f"There is no validation part: {events} used for validation.")
    for part in () if _reads_history(config, dataset) else HELD_OUT:
        n_unknown, n_users = unknown_users(config, dataset, part)
        if n_unknown:
            notes.append(
                f"{n_unknown:,} of {n_users:,} users of the {part} part have no training events. "
                f"{config.model_name} knows users by these only and gives all others the same "
                "scores; data.split.cold_users = 'drop' leaves them out."
            )
    return notes


def unknown_users(config: ExperimentConfig, dataset: Dataset, part: Part) -> tuple[int, int]:
    """Return how many users of a part the model of a run does not know, and how many the part has.

    A model that reads no history knows users by their training events.

    Raises:
        DataError: the part has no target.
    """
    users = np.unique(targets_of(dataset, part, config.evaluation.repeats).users)
    if _reads_history(config, dataset):
        return 0, len(users)
    return int((dataset.train.lengths[users] == 0).sum()), len(users)


def _reads_history(config: ExperimentConfig, dataset: Dataset) -> bool:
    """Return whether the model of a run knows users by what they did, and not by their number."""
    needs, _ = model_traits(config.model_name, config.model, dataset)
    return not needs or "states" in needs
