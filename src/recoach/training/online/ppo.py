"""PPO in an environment (Schulman et al. 2017)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from recoach.policy.objective import Clip, clipped_surrogate
from recoach.training.algorithms.base import Statistics
from recoach.training.online.policy_gradient import PolicyGradient, PolicyGradientConfig, Updates


class OnlinePPOConfig(PolicyGradientConfig):
    """Settings of PPO in an environment."""

    algorithm: Literal["ppo"] = "ppo"
    """The algorithm of these settings."""
    epsilon: float = Field(default=0.2, gt=0)
    """Distance of the ratio from 1 beyond which its gradient is 0."""
    num_epochs: int = Field(default=4, gt=0)
    """Passes over the turns of a rollout."""
    minibatch_size: int = Field(default=512, gt=0)
    """Turns of an update."""
    target_kl: float = Field(default=0.02, ge=0)
    """Estimated KL between the policy that drew the lists and the present one, in nats, at which
    the updates on a rollout end; 0 never ends them. The minibatch that exceeds it is left out, as
    in Stable-Baselines3, which multiplies the threshold by 1.5."""

    @property
    def updates(self) -> Updates:
        """The optimiser steps on a rollout."""
        return Updates(self.num_epochs, self.minibatch_size, self.target_kl)


class OnlinePPO(PolicyGradient[OnlinePPOConfig]):
    """The clipped surrogate over several passes of minibatches of the same episodes.

    The action is the whole list, so that one ratio is clipped for each list.
    """

    def surrogate(self, log_ratio: Tensor, advantages: Tensor, statistics: Statistics) -> Tensor:
        """Return the clipped surrogate."""
        epsilon = self.args.epsilon
        clipped = clipped_surrogate(log_ratio, advantages, Clip(epsilon, epsilon))
        statistics.add("clip_ratio", (clipped.clipped_low | clipped.clipped_high).float())
        return clipped.value
