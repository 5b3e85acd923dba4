"""RAFT, reward-ranked fine-tuning (Dong et al. 2023): cross-entropy on the rewarded draws."""

from typing import Literal

from torch import Tensor

from recoach.models.distribution import Distribution
from recoach.training.algorithms.base import Learner
from recoach.training.algorithms.grpo.sampled import SampledEstimator
from recoach.training.algorithms.reinforce import GroupConfig
from recoach.training.algorithms.rollouts import RolloutAlgorithm


class RAFTConfig(GroupConfig):
    """Settings of RAFT."""

    algorithm: Literal["raft"] = "raft"
    """The algorithm of these settings."""


class RAFTEstimator(SampledEstimator):
    """The sampled estimator that weights draws by their part of the group's rewards."""

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], each draw's part of its group's rewards, scaled to mean 1."""
        del old  # the group is the scale
        rewards = self.reward.total(parts).clamp(min=0)
        return rewards / rewards.mean(dim=1, keepdim=True).clamp(min=1e-12)


class RAFT(RolloutAlgorithm[RAFTConfig]):
    """Rejection sampling: the log-likelihood of drawn items, weighted by their rewards."""

    def __init__(self, args: RAFTConfig, learner: Learner) -> None:
        super().__init__(args, learner, RAFTEstimator(args, learner.reward))
