"""PPO (Schulman et al. 2017): a value head is the baseline of the clipped surrogate."""

from typing import Literal

from torch import Tensor, nn

from recoach import distributed
from recoach.models.distribution import Distribution
from recoach.policy.rewards import CombinedReward
from recoach.training.algorithms.base import Learner, RLBatch, Statistics
from recoach.training.algorithms.grpo.sampled import SampledEstimator
from recoach.training.algorithms.reinforce import GroupConfig
from recoach.training.algorithms.rollouts import Rollout, RolloutAlgorithm
from recoach.training.algorithms.state_vectors import linear_head, state_vectors


class PPOConfig(GroupConfig):
    """Settings of PPO."""

    algorithm: Literal["ppo"] = "ppo"
    """The algorithm of these settings."""


class PPOEstimator(SampledEstimator):
    """The sampled estimator with a learned baseline.

    Args:
        args: settings.
        reward: all reward functions.
        value: maps a state vector to its expected reward; its gradient stops at the vector.
    """

    def __init__(self, args: PPOConfig, reward: CombinedReward, value: nn.Linear) -> None:
        super().__init__(args, reward)
        self.value = value

    def advantages(self, parts: list[Tensor], old: Distribution) -> Tensor:
        """Return float[B, G], reward minus value, whitened over all processes."""
        difference: Tensor = self.reward.total(parts) - self.value(state_vectors(old))
        all_differences = distributed.all_gather(difference)
        return (difference - all_differences.mean()) / (all_differences.std() + 1e-8)

    def loss(
        self,
        new: Distribution,
        batch: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return the loss of the clipped surrogate plus the squared error of the value head."""
        loss, statistics = super().loss(new, batch, rollout, reference)
        if rollout is None or rollout.rewards is None:
            raise ValueError("the value head learns from the rewards of a rollout")
        error = self.value(state_vectors(new))[:, 0] - rollout.rewards.mean(dim=1)
        statistics.add("value_loss", error.square())
        return loss + distributed.mean_contribution(error.square()), statistics


class PPO(RolloutAlgorithm[PPOConfig]):
    """The clipped surrogate over drawn items with a linear value head as the baseline.

    An episode is one item, so there is no generalised advantage estimation.
    """

    def __init__(self, args: PPOConfig, learner: Learner) -> None:
        value = linear_head(learner.model, 1, "algorithm 'ppo'")
        super().__init__(args, learner, PPOEstimator(args, learner.reward, value))
        self._modules["head"] = value
