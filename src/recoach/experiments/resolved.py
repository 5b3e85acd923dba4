"""The values that settings of `auto` had in a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from recoach.data.dataset import Dataset
from recoach.experiments.config import ExperimentConfig
from recoach.models.base import Recommender
from recoach.training.batch_builder import (
    normalizes_rewards,
    served_states,
    smoothing_weight,
)
from recoach.training.trainer import supervised_weight


def resolved_settings(
    config: ExperimentConfig,
    dataset: Dataset,
    rows: Sequence[Mapping[str, Any]],
    tuned: Recommender | None,
) -> dict[str, Any]:
    """Return the value of each setting that is `auto` or overruled by another, by its dotted name.

    Args:
        config: the settings of the run.
        dataset: its data.
        rows: of metrics.jsonl; the temperature is read from the last one of the fine-tuning.
        tuned: the fine-tuned model; None for a run without one.
    """
    resolved: dict[str, Any] = {"data.split": dataset.split.kind}
    if config.evaluation.retrain == "auto":
        resolved["evaluation.retrain"] = config.evaluation.retrains(dataset.split)
    if tuned is None:
        return resolved
    args = config.finetune
    values = {
        "sft_coef": supervised_weight(args, tuned),
        "reward_smoothing": smoothing_weight(args, tuned, dataset),
        "normalize_rewards": normalizes_rewards(args, dataset, args.reward_funcs),
        "state": served_states(tuned),
        "mask_seen": args.masks(config.evaluation.repeats, tuned),
    }
    temperatures = [r["temperature"] for r in rows if r["stage"] == "tuned" and "temperature" in r]
    if temperatures:
        values["temperature"] = round(temperatures[-1], 6)
    overruled = {}
    if args.start == "scratch" and args.select == "best":
        overruled = {"finetune.select": "best_tuned", "finetune.interpolate": False}
    is_auto = {name for name in values if getattr(args, name, None) == "auto"}
    values_of_auto = {f"finetune.{n}": value for n, value in values.items() if n in is_auto}
    return resolved | values_of_auto | overruled
