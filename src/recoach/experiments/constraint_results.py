"""What the test lists of a run's models make of the constraints of its fine-tuning."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from recoach.data.dataset import Dataset
from recoach.evaluation.evaluator import Evaluation
from recoach.evaluation.exposure import group_exposure
from recoach.evaluation.significance import mean_interval, paired_bootstrap
from recoach.models.base import Recommender
from recoach.rerank.features import Groups, ItemFeatures
from recoach.training.config import FinetuneConfig
from recoach.training.constraint_config import ConstraintConfig
from recoach.training.constraints import LENGTH, group_shares, groups_of, violations


def constraint_results(
    args: FinetuneConfig,
    dataset: Dataset,
    models: Mapping[str, Recommender],
    tests: Mapping[str, Evaluation],
    lists: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Return a row for each constraint with its value on the test lists of each model.

    Args:
        args: the settings, whose constraints are read.
        dataset: gives the groups of items.
        models: the models of the run by stage.
        tests: their evaluations on test.
        lists: int64[B, 10], their lists.

    Returns:
        Rows with `name`, the bound, and for each stage `value`, the ends `low` and `high` of its
        95 % interval over users, the `group` of the value, and `status`: `kept`, `kept within the
        interval` or `violated`. Empty without constraints.
    """
    if not args.bounds:
        return []
    features = ItemFeatures(dataset, models["base"])
    rows = []
    for config in args.bounds:
        groups = groups_of(config, features)
        row: dict[str, Any] = {"name": config.name}
        row |= config.model_dump(mode="json", exclude_none=True)
        row["models"] = {}
        for stage, test in tests.items():
            if stage not in ("base", "tuned", "control"):
                continue
            if groups is None:
                found = _fall(test, tests["base"], args.metric)
            else:
                found = _exposure(config, groups, lists[stage][:, :LENGTH], test.users)
            row["models"][stage] = found | {"status": _status(config, found)}
        rows.append(row)
    return rows


def _exposure(
    config: ConstraintConfig, groups: Groups, lists: np.ndarray, users: np.ndarray
) -> dict[str, Any]:
    """Return the share of the group that violates the bound most, with its interval."""
    shares = group_shares(torch.from_numpy(lists), groups)
    worst = int(violations(config, shares).argmax())
    numbers = np.where(groups.numbers.numpy() == worst, 0, 1)
    of_list = group_exposure(lists, numbers, 2)[:, 0]
    low, high = mean_interval(of_list, clusters=users)
    value = float(shares[worst])
    return {
        "group": str(groups.names[worst]),
        "value": round(value, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }


def _fall(test: Evaluation, base: Evaluation, metric: str) -> dict[str, Any]:
    """Return the fall of the metric relative to the base, with its interval."""
    if test is base:
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    change = paired_bootstrap(test.metrics[metric], base.metrics[metric], clusters=test.users)
    level = float(np.mean(base.metrics[metric])) or 1.0
    ends = {"value": -change.difference, "low": -change.high, "high": -change.low}
    return {name: round(end / level, 6) for name, end in ends.items()}


def _status(config: ConstraintConfig, found: Mapping[str, Any]) -> str:
    """Return whether a value, or an end of its interval, keeps the bound."""

    def keeps(value: float) -> bool:
        return float(violations(config, torch.tensor([value]))) <= 0

    if keeps(found["value"]):
        return "kept"
    nearest = found["high"] if config.at_least is not None else found["low"]
    return "kept within the interval" if keeps(nearest) else "violated"
