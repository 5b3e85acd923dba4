"""Rewards that depend on the lists that the model in training serves: exposure and constraints."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from recoach.data.dataset import Dataset
from recoach.data.targets import targets_of
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import top_lists
from recoach.models.base import Recommender
from recoach.policy.rewards import CombinedReward
from recoach.training.config import FinetuneConfig
from recoach.training.constraints import LENGTH, Constraints
from recoach.training.context import RunContext

_STATES = 4096
"""States at most whose lists are measured."""


class ServedLists:
    """The lists of validation states, and the rewards that are measured on them.

    Args:
        args: the constraints.
        context: the protocol, and the validation set if it is one of its own.
        dataset: has the validation states otherwise.
        model: see `ItemFeatures`.
        reward: the reward functions; the constraints change its rewards of items.

    Attributes:
        modules: what checkpoints hold, by name.

    Raises:
        ConfigError: there are no validation events; see also `Constraints`.
    """

    def __init__(
        self,
        args: FinetuneConfig,
        context: RunContext,
        dataset: Dataset,
        model: Recommender,
        reward: CombinedReward,
    ) -> None:
        self._dataset = dataset = context.eval_dataset or dataset
        if context.selected is not None or not len(dataset.valid.values):
            raise ConfigError(
                "finetune.constraints and the reward 'exposure' are measured on validation events, "
                "and there are none, as in a training on train and validation; leave them out, or "
                "set evaluation.retrain = false."
            )
        targets = targets_of(dataset, "valid", context.repeats)
        keep = np.zeros(len(targets.users), dtype=np.bool_)
        keep[:: -(-len(keep) // _STATES)] = True
        self._targets = targets.select(keep)
        self._exposure, self._constraints = reward.served, None
        for function, _ in self._exposure:
            function.reset()  # of another training, where a function is used twice
        if args.bounds:
            self._constraints = Constraints(args.bounds, dataset, model, reward.item_rewards)
            reward.adjust_items = self._constraints.item_rewards
        self.modules: Mapping[str, nn.Module] = {
            f"exposure {number}": function for number, (function, _) in enumerate(self._exposure)
        }
        if self._constraints is not None:
            self.modules = {**self.modules, "constraints": self._constraints}

    def measure(self, model: Recommender, value: float) -> dict[str, float]:
        """Measure the lists of a model and return what is logged.

        Args:
            model: whose lists are measured.
            value: its selecting metric.
        """
        lists = torch.from_numpy(top_lists(model, self._dataset, self._targets, LENGTH))
        row, population = {}, 0.0
        for function, weight in self._exposure:
            found = function.measure(lists)
            row[f"exposure/{function.column or 'items'}"] = found / function.highest
            population += weight * found
        if self._constraints is not None:
            row |= self._constraints.measure(lists, value, population)
        return row

    def selecting(self, metric: str) -> str:
        """Return the name of the value that selects the weights."""
        return metric if self._constraints is None else "constrained"

    def update(self) -> None:
        """Move the multipliers of the constraints by what was measured last."""
        if self._constraints is not None:
            self._constraints.update()
