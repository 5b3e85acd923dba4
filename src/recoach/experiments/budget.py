"""The training budget of each model of a run, for results.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_tensors
from recoach.training.callbacks import TrainResult
from recoach.training.progress import Progress
from recoach.training.work import Work


def training_budgets(
    folder: RunFolder,
    trained: Mapping[Any, tuple[Recommender, TrainResult]],
    *,
    retrained: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return what the training of each model of a run has cost.

    The trainings of the models behind a cross-fitted reward are part of the fine-tuning. Counts are
    left out where a part of a training was by an earlier version or elsewhere.

    Args:
        folder: of the run.
        trained: each model as it is served, and the result of its training.
        retrained: whether these models were trained on train and validation.
    """
    reward_models = _reward_model_trainings(folder, retrained=retrained)
    budgets = {}
    for stage, (model, result) in trained.items():
        works, seconds, n_reward_models = [result.work], result.seconds, 0
        if stage == "tuned" and reward_models:
            works += [training.known_work for training in reward_models]
            seconds += sum(training.seconds for training in reward_models)
            n_reward_models = len(reward_models)
        known = [work for work in works if work is not None]
        budgets[stage] = (_counts(known) if len(known) == len(works) else {}) | {
            "seconds": round(seconds, 1),
            "device": _device_name(model.device),
            "data": "train and validation" if retrained else "train",
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "reward_models": n_reward_models,
        }
    return budgets


def _reward_model_trainings(folder: RunFolder, *, retrained: bool) -> list[Progress]:
    """Return how the trainings of the models behind a cross-fitted reward ended, one per fold."""
    trainings = []
    for path in sorted(folder.path.glob("checkpoints/fold-*/last.safetensors")):
        if path.parent.name.endswith(RETRAINED) == retrained:
            state, names = load_tensors(path).state, Progress.__dataclass_fields__
            trainings.append(Progress(**{k: v for k, v in state.items() if k in names}))
    return trainings


def _counts(works: Sequence[Work]) -> dict[str, Any]:
    """Return the sums over several trainings."""
    counts = {
        "optimiser_steps": sum(work.updates for work in works),
        "states": sum(work.states for work in works),
        "encoder_passes": sum(work.encoder_passes for work in works),
        "validations": sum(work.validations for work in works),
    }
    multiply_adds = [work.multiply_adds for work in works]
    if None not in multiply_adds:
        counts["multiply_adds"] = sum(filter(None, multiply_adds))
    return counts


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
