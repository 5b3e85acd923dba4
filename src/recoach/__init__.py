"""Reinforcement fine-tuning for recommenders.

Data:
    read_interactions: read an interaction log from a file or a frame.
    deduplicate, k_core: filter a log.
    leave_last_out, split_log: split a log into train, valid and test.
    LeaveLastOut, ByTime, ByRatio, ByUsers, Given, Rolling: the settings of a split.
    read_benchmark: read a log that is already split into files.
    Dataset: a split log; Dataset.from_frames joins frames that are already split.
    prepare, load_dataset: write a prepared dataset to a folder, read it.
    audit: check a log and its split before training.
    shop: simulate a shop, with its log and the true preferences.

Models:
    build_model: build a model by name, or with a function of your own.
    wrap: make a recommender of your own PyTorch module.
    Recommender: the base class of all models, and of one of your own.
    load, LoadedModel: open a trained model of a run folder; recommend and evaluate with it.

Training:
    pretrain, PretrainConfig: train a model by its own loss, or on future items.
    GRPOTrainer, GRPOConfig: fine-tune a model with rewards.
    RunContext: seed, folder, callback, progress and validation of a training.
    run: train base, fine-tuned model and control in a run folder, with a report.
    update: extend a run by newer events and train its model on them.

Evaluation and use:
    evaluate: compute the metrics of a model on held-out events.
    paired_bootstrap: compare two models, with confidence intervals.
    recommend: return the best items of users as a frame.

Errors:
    RecoachError: base of all errors with a message for the user.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recoach.api import run
    from recoach.data.benchmark import read_benchmark
    from recoach.data.dataset import Dataset
    from recoach.data.filters import deduplicate, k_core
    from recoach.data.ingest import read_interactions
    from recoach.data.prepared import load_dataset, prepare
    from recoach.data.protocol import ByRatio, ByTime, ByUsers, Given, LeaveLastOut, Rolling
    from recoach.data.split import leave_last_out, split_log
    from recoach.errors import RecoachError
    from recoach.evaluation.audit import audit
    from recoach.evaluation.evaluator import evaluate
    from recoach.evaluation.significance import paired_bootstrap
    from recoach.experiments.trainer import GRPOTrainer
    from recoach.experiments.update import update
    from recoach.loaded import LoadedModel, load
    from recoach.models.base import Recommender
    from recoach.models.registry import build_model
    from recoach.models.wrapped import wrap
    from recoach.serving.recommend import recommend
    from recoach.simulation.shop import shop
    from recoach.training.algorithms.grpo.config import GRPOConfig
    from recoach.training.context import RunContext
    from recoach.training.pretrain_config import PretrainConfig
    from recoach.training.pretraining import pretrain

__all__ = [
    "ByRatio",
    "ByTime",
    "ByUsers",
    "Dataset",
    "GRPOConfig",
    "GRPOTrainer",
    "Given",
    "LeaveLastOut",
    "LoadedModel",
    "PretrainConfig",
    "RecoachError",
    "Recommender",
    "Rolling",
    "RunContext",
    "audit",
    "build_model",
    "deduplicate",
    "evaluate",
    "k_core",
    "leave_last_out",
    "load",
    "load_dataset",
    "paired_bootstrap",
    "prepare",
    "pretrain",
    "read_benchmark",
    "read_interactions",
    "recommend",
    "run",
    "shop",
    "split_log",
    "update",
    "wrap",
]

_MODULES = {
    "ByRatio": "recoach.data.protocol",
    "ByUsers": "recoach.data.protocol",
    "ByTime": "recoach.data.protocol",
    "Dataset": "recoach.data.dataset",
    "GRPOConfig": "recoach.training.algorithms.grpo.config",
    "GRPOTrainer": "recoach.experiments.trainer",
    "Given": "recoach.data.protocol",
    "LeaveLastOut": "recoach.data.protocol",
    "LoadedModel": "recoach.loaded",
    "PretrainConfig": "recoach.training.pretrain_config",
    "RecoachError": "recoach.errors",
    "Recommender": "recoach.models.base",
    "Rolling": "recoach.data.protocol",
    "RunContext": "recoach.training.context",
    "audit": "recoach.evaluation.audit",
    "build_model": "recoach.models.registry",
    "deduplicate": "recoach.data.filters",
    "evaluate": "recoach.evaluation.evaluator",
    "k_core": "recoach.data.filters",
    "leave_last_out": "recoach.data.split",
    "load": "recoach.loaded",
    "load_dataset": "recoach.data.prepared",
    "paired_bootstrap": "recoach.evaluation.significance",
    "prepare": "recoach.data.prepared",
    "pretrain": "recoach.training.pretraining",
    "read_benchmark": "recoach.data.benchmark",
    "read_interactions": "recoach.data.ingest",
    "recommend": "recoach.serving.recommend",
    "run": "recoach.api",
    "shop": "recoach.simulation.shop",
    "split_log": "recoach.data.split",
    "update": "recoach.experiments.update",
    "wrap": "recoach.models.wrapped",
}


__version__: str

_RENAMED = {"Session": "RunContext"}
"""Renamed public names: the old name and the current one."""


def __getattr__(name: str) -> object:
    """Import a public name on first access, so that `recoach --help` does not import torch."""
    if name in _RENAMED:
        warnings.warn(
            f"recoach.{name} is now called recoach.{_RENAMED[name]}; the old name will be removed.",
            DeprecationWarning,
            stacklevel=2,
        )
        name = _RENAMED[name]
    if name == "__version__":
        return import_module("importlib.metadata").version("recoach")
    if name not in _MODULES:
        raise AttributeError(f"module 'recoach' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, those that are not imported yet too."""
    return sorted({*globals(), *__all__, "__version__"})
