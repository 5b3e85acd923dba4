"""Recall on items without training events, before and after content gives them their vectors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recoach.data.dataset import Dataset
from recoach.evaluation.evaluator import Evaluation, evaluate_targets
from recoach.models.base import Recommender, frozen_copy
from recoach.models.content import place_cold_items

_K = 10


def cold_item_results(model: Recommender, dataset: Dataset, before: Evaluation) -> dict[str, Any]:
    """Return what content changes for targets that do not occur in train.

    Args:
        model: as trained.
        dataset: what it was trained on, with the table of items.
        before: its evaluation.

    Returns:
        Under "cold_items": number of cold targets and of placed items, and Recall@10 of cold
        targets and NDCG@10 of all, before and after. Empty without cold targets or content, and for
        models whose scores are not dot products.
    """
    targets = before.targets
    if not targets.cold.any():
        return {}
    placed_model = frozen_copy(model)
    placed = place_cold_items(placed_model, dataset)
    if not placed.any():
        return {}
    after = evaluate_targets(placed_model, dataset, targets, ks=(_K,))
    values: Mapping[str, Evaluation] = {"before": before, "after": after}
    return {
        "cold_items": {
            "targets": int(targets.cold.sum()),
            "items": int(placed.sum()),
            f"recall@{_K}": {
                name: round(float(np.mean(evaluation.ranks[targets.cold] <= _K)), 6)
                for name, evaluation in values.items()
            },
            f"ndcg@{_K}": {
                name: round(evaluation.means()[f"ndcg@{_K}"], 6)
                for name, evaluation in values.items()
            },
        }
    }
