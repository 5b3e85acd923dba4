"""The advantage actor-critic in an environment (Mnih et al. 2016)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from recoach.training.algorithms.base import Statistics
from recoach.training.online.policy_gradient import PolicyGradient, PolicyGradientConfig


class OnlineActorCriticConfig(PolicyGradientConfig):
    """Settings of the actor-critic in an environment."""

    algorithm: Literal["actor_critic"] = "actor_critic"
    """The algorithm of these settings."""
    gae_lambda: float = Field(default=0.0, ge=0, le=1)
    """0: the one-step temporal difference of the critic is the advantage."""


class OnlineActorCritic(PolicyGradient[OnlineActorCriticConfig]):
    """One update on the turns of a rollout, each weighted by the critic's temporal difference."""

    def surrogate(self, log_ratio: Tensor, advantages: Tensor, statistics: Statistics) -> Tensor:
        """Return the weighted log-probabilities, up to a constant."""
        return log_ratio * advantages
