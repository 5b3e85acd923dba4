"""REINFORCE (Williams 1992) over groups of drawn items."""

from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor

from recoach.models.distribution import Distribution
from recoach.training.algorithms.base import Learner
from recoach.training.algorithms.grpo.sampled import SampledEstimator
from recoach.training.algorithms.rollouts import RolloutAlgorithm, RolloutConfig


class GroupConfig(RolloutConfig):
    """Settings of algorithms that draw groups of items but have advantages of their own."""

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        is_summed = self.multi_objective_aggregation == "sum_then_normalize"
        self._check_effect({"multi_objective_aggregation": (is_summed, "algorithm 'grpo'")})
        return self


class ReinforceConfig(GroupConfig):
    """Settings of REINFORCE."""

    algorithm: Literal["reinforce"] = "reinforce"
    """The algorithm of these settings."""


class ReinforceEstimator(SampledEstimator):
    """The sampled estimator without a baseline."""

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], the rewards themselves."""
        del old  # there is no baseline
        return self.reward.total(parts)


class Reinforce(RolloutAlgorithm[ReinforceConfig]):
    """The gradient of the expected reward, sampled: each draw is weighted by its reward."""

    def __init__(self, args: ReinforceConfig, learner: Learner) -> None:
        super().__init__(args, learner, ReinforceEstimator(args, learner.reward))
