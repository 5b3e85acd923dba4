"""REINFORCE with a baseline in an environment (Williams 1992)."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from recoach.training.algorithms.base import Statistics
from recoach.training.online.policy_gradient import PolicyGradient, PolicyGradientConfig


class OnlineReinforceConfig(PolicyGradientConfig):
    """Settings of REINFORCE in an environment."""

    algorithm: Literal["reinforce"] = "reinforce"
    """The algorithm of these settings."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """1: the discounted return minus the baseline."""
    baseline: Literal["value", "leave_one_out"] = "value"
    """A critic, or the mean return of the other environments from the same turn on, which needs no
    state vectors and has no value for the rest of a truncated episode."""

    @property
    def has_critic(self) -> bool:
        """Whether the baseline is learned."""
        return self.baseline == "value"


class OnlineReinforce(PolicyGradient[OnlineReinforceConfig]):
    """One update on the turns of a rollout, each weighted by its advantage."""

    def surrogate(self, log_ratio: Tensor, advantages: Tensor, statistics: Statistics) -> Tensor:
        """Return the weighted log-probabilities, up to a constant."""
        return log_ratio * advantages
