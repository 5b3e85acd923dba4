"""Reinforcement fine-tuning for recommenders."""

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
    from recoach.data.protocol import ByRatio, ByTime, Given, LeaveLastOut, Rolling
    from recoach.data.split import leave_last_out, split_log
    from recoach.errors import RecoachError
    from recoach.evaluation.audit import audit
    from recoach.evaluation.evaluator import evaluate
    from recoach.evaluation.significance import paired_bootstrap
    from recoach.models.registry import build_model
    from recoach.models.wrapped import wrap
    from recoach.serving.recommend import recommend
    from recoach.simulation.shop import shop
    from recoach.training.algorithms.grpo.config import GRPOConfig
    from recoach.training.context import RunContext
    from recoach.training.supervised import PretrainConfig, pretrain
    from recoach.training.trainer import GRPOTrainer

__all__ = [
    "ByRatio",
    "ByTime",
    "Dataset",
    "GRPOConfig",
    "GRPOTrainer",
    "Given",
    "LeaveLastOut",
    "PretrainConfig",
    "RecoachError",
    "Rolling",
    "RunContext",
    "audit",
    "build_model",
    "deduplicate",
    "evaluate",
    "k_core",
    "leave_last_out",
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
    "wrap",
]

_MODULES = {
    "ByRatio": "recoach.data.protocol",
    "ByTime": "recoach.data.protocol",
    "Dataset": "recoach.data.dataset",
    "GRPOConfig": "recoach.training.algorithms.grpo.config",
    "GRPOTrainer": "recoach.training.trainer",
    "Given": "recoach.data.protocol",
    "LeaveLastOut": "recoach.data.protocol",
    "PretrainConfig": "recoach.training.supervised",
    "RecoachError": "recoach.errors",
    "Rolling": "recoach.data.protocol",
    "RunContext": "recoach.training.context",
    "audit": "recoach.evaluation.audit",
    "build_model": "recoach.models.registry",
    "deduplicate": "recoach.data.filters",
    "evaluate": "recoach.evaluation.evaluator",
    "k_core": "recoach.data.filters",
    "leave_last_out": "recoach.data.split",
    "load_dataset": "recoach.data.prepared",
    "paired_bootstrap": "recoach.evaluation.significance",
    "prepare": "recoach.data.prepared",
    "pretrain": "recoach.training.supervised",
    "read_benchmark": "recoach.data.benchmark",
    "read_interactions": "recoach.data.ingest",
    "recommend": "recoach.serving.recommend",
    "run": "recoach.api",
    "shop": "recoach.simulation.shop",
    "split_log": "recoach.data.split",
    "wrap": "recoach.models.wrapped",
}


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
    if name not in _MODULES:
        raise AttributeError(f"module 'recoach' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
