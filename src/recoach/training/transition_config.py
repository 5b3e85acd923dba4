"""Settings of algorithms that learn from transitions."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from recoach.policy.reward_funcs import DISCOUNTED, RewardName
from recoach.training.config import FinetuneConfig


class TransitionConfig(FinetuneConfig):
    """Settings of an algorithm that learns from transitions: state, logged item, next state.

    The reward is that of the logged item, the next one. What comes later is credited through the
    value of the next state, not through rewards of later items.
    """

    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    reward_funcs: tuple[RewardName, ...] = Field(default=("next",), min_length=1)
    """Rewards of the logged action, the next item: `next`, or `events` for a reward by the event's
    type. Later items are credited by `gamma`."""
    horizon: int = Field(default=1, gt=0)
    """1: only the next item is an action of the state."""
    reward_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Part of the reward that goes to the item's neighbours, which are no actions of the log: it
    lowers the reward of the logged action."""
    gamma: float = Field(default=0.5, ge=0, lt=1)
    """Discount of the value of the next state."""

    @model_validator(mode="after")
    def _check_actions(self) -> Self:
        if wrong := {"train_set", "return"}.intersection(self.reward_funcs):
            raise ValueError(
                f"algorithm {self.algorithm!r} rewards the next item and credits later rewards by "
                f"gamma, and {min(wrong)!r} does otherwise; use 'next' or 'events'"
            )
        if DISCOUNTED.intersection(self.reward_funcs) and self.horizon != 1:
            raise ValueError(
                f"algorithm {self.algorithm!r} rewards the next item only and credits later "
                "rewards by gamma; set horizon = 1"
            )
        return self

    @property
    def uses_episodes(self) -> bool:
        """Whether it matters where an episode ends: for the value of the next state."""
        return True
