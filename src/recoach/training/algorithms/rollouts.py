"""Algorithms that roll out an old policy and estimate a policy gradient from the rollout."""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from recoach.models.distribution import Block, Distribution
from recoach.policy.objective import Clip, Surrogate
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    draw_generator,
)
from recoach.training.algorithms.regulariser import RegularisedConfig
from recoach.training.trl_names import TRL_NAMES

_ENTROPY_STATES = 32
"""States of a step whose entropy is logged: an estimate that costs no pass over all states."""


class RolloutConfig(RegularisedConfig):
    """Settings of the old policy, the clipped ratio and the groups of drawn items."""

    foreign_names: ClassVar[Mapping[str, str]] = TRL_NAMES
    """What to do for names of TRL."""

    num_generations: int | None = Field(default=None, ge=2)
    """Size of a group (G): 4096 items where items are drawn, 16 lists or 4 passes, unless set."""
    replacement: bool = True
    """Draw groups with replacement; without it all G items of a group differ."""
    dead_groups: Literal["zero", "resample", "force_positive"] = "zero"
    """A drawn group whose rewards are all equal has no gradient: keep it; draw it again, at most
    three times; or replace one draw by a rewarded item (biased)."""
    num_iterations: int = Field(default=1, ge=1)
    """Updates on each batch (mu); the ratio and its clip have an effect from the second on."""
    old_model_sync_steps: int = Field(default=1, ge=1)
    """Steps for which the old policy is kept; 1 uses the current weights."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clip of the ratio: 1 - epsilon .. 1 + epsilon."""
    epsilon_high: float | None = Field(default=None, gt=0)
    """Upper clip, if it differs."""

    @property
    def draws(self) -> bool:
        """Whether groups are drawn from the policy."""
        return True

    @property
    def has_item_samples(self) -> bool:
        """Whether single items are drawn from the policy."""
        return True

    @property
    def compares_policies(self) -> bool:
        """Whether a ratio or an estimated KL compares two policies."""
        return super().compares_policies or self.compares_old_policy

    @property
    def compares_old_policy(self) -> bool:
        """Whether the ratio to an old policy can differ from 1."""
        return max(self.num_iterations, self.old_model_sync_steps) > 1

    @property
    def updates_per_batch(self) -> int:
        """Optimiser steps on each batch."""
        return self.num_iterations

    @property
    def group_size(self) -> int:
        """Number of items in a group."""
        return self.num_generations or 4096

    @property
    def distinct_draws(self) -> tuple[str, int]:
        """The setting and the number of different items in a group; 0 with replacement."""
        return "num_generations", 0 if self.replacement else self.group_size

    @property
    def clip(self) -> Clip:
        """Clip range of the ratio."""
        return Clip(self.epsilon, self.epsilon_high or self.epsilon)


RolloutSettings = TypeVar("RolloutSettings", bound=RolloutConfig)


class Rollout(NamedTuple):
    """The old policy's log-probabilities and draws, fixed for all updates on a batch."""

    log_p: Tensor
    """float[N] of the rewarded items (exact), float[B, G] of the drawn items, or float[B, G, L] of
    the places of the drawn lists."""
    items: Tensor | None = None
    """int64[B, G] drawn items, or int64[B, G, L] drawn lists."""
    rewards: Tensor | None = None
    """float[B, G] reward of each drawn item."""
    advantages: Tensor | None = None
    """float of the shape of `items`, relative to the group."""


def group_rollout(rollout: Rollout | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the log-probabilities, items, rewards and advantages of a rollout of groups.

    Raises:
        ValueError: nothing was drawn.
    """
    if rollout is None or rollout.items is None:
        raise ValueError("an estimator that draws needs a rollout; call roll_out first")
    if rollout.rewards is None or rollout.advantages is None:
        raise ValueError("the rollout has no rewards or advantages; call roll_out first")
    return rollout.log_p, rollout.items, rollout.rewards, rollout.advantages


class Estimator(Protocol):
    """A way to estimate the surrogate of Eq. 5 and its gradient."""

    needs_rollout: bool
    """Whether an update needs a rollout; on policy, the probabilities of its own pass serve."""

    def roll_out(self, old: Distribution, batch: RLBatch, generator: torch.Generator) -> Rollout:
        """Return the rollout of the old policy; `generator` is on the device of the policy."""

    def loss(
        self,
        new: Distribution,
        batch: RLBatch,
        rollout: Rollout | None,
        reference: Distribution | None,
    ) -> tuple[Tensor, Statistics]:
        """Return the loss and what to log."""


class PreparedRollout(NamedTuple):
    """What stays fixed for all updates on a batch."""

    rollout: Rollout | None
    reference: Distribution | None
    """The reference policy, where a KL needs it."""


class RolloutAlgorithm(Algorithm[RolloutSettings, PreparedRollout]):
    """Rolls out the old policy, then lets an estimator compute the loss of the current policy.

    Args:
        args: settings.
        learner: the model, its policy and the rewards.
        estimator: computes the rollout and the loss.
    """

    def __init__(self, args: RolloutSettings, learner: Learner, estimator: Estimator) -> None:
        super().__init__(args, learner)
        self.estimator = estimator
        old_steps = args.old_model_sync_steps
        self.old = self.frozen_model("old", old_steps) if old_steps > 1 else None
        reference_steps = args.ref_model_sync_steps
        self.reference = self.frozen_model("reference", reference_steps) if args.beta > 0 else None

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> PreparedRollout:
        """Roll out the old policy, which is the current one where it is not kept for steps."""
        rollout = reference = None
        if self.estimator.needs_rollout:
            old = self.distribution(self.old or self.model, batch)
            own = draw_generator(generator, self.model.device)
            rollout = self.estimator.roll_out(old, batch, own)
        if self.reference is not None:
            reference = self.distribution(self.reference, batch)
        return PreparedRollout(rollout, reference)

    def loss(
        self, batch: RLBatch, prepared: PreparedRollout, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the estimator's loss of the current policy."""
        del generator  # everything was drawn in `prepare`
        new = self.distribution(self.model, batch)
        return self.estimator.loss(new, batch, prepared.rollout, prepared.reference)


def log_surrogate(statistics: Statistics, surrogate: Surrogate, block: Block) -> None:
    """Log where the ratio was clipped, and the entropy."""
    statistics.add("clip_ratio/low_mean", surrogate.clipped_low)
    statistics.add("clip_ratio/high_mean", surrogate.clipped_high)
    log_entropy(statistics, block)


def log_entropy(statistics: Statistics, block: Block) -> None:
    """Log the entropy of some states, once a step."""
    if block.which.start == 0:
        statistics.add("entropy", block.entropy(_ENTROPY_STATES))
