"""Reinforcement fine-tuning for recommenders."""

from recoach.data.filters import deduplicate, k_core, rating_at_least
from recoach.data.ingest import read_interactions
from recoach.data.prepared import load_dataset, prepare
from recoach.data.split import Dataset, leave_last_out
from recoach.data.synthetic import shop
from recoach.errors import RecoachError
from recoach.evaluation.evaluator import evaluate
from recoach.evaluation.significance import paired_bootstrap
from recoach.models.registry import build_model
from recoach.serving.recommend import recommend
from recoach.training.config import GRPOConfig
from recoach.training.grpo import GRPOTrainer
from recoach.training.loop import Session
from recoach.training.pretrain import PretrainConfig, pretrain

__all__ = [
    "Dataset",
    "GRPOConfig",
    "GRPOTrainer",
    "PretrainConfig",
    "RecoachError",
    "Session",
    "build_model",
    "deduplicate",
    "evaluate",
    "k_core",
    "leave_last_out",
    "load_dataset",
    "paired_bootstrap",
    "prepare",
    "pretrain",
    "rating_at_least",
    "read_interactions",
    "recommend",
    "shop",
]
