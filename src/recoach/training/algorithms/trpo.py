"""TRPO (Schulman et al. 2015) with an exact trust region in each state."""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from recoach import distributed
from recoach.models.distribution import Block, Distribution
from recoach.models.segments import count_rows
from recoach.policy.trust_region import (
    RewardedItems,
    batch_inverse_eta,
    state_inverse_eta,
    tilted_policy,
)
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    rewarded_pairs,
)
from recoach.training.algorithms.regulariser import with_reference
from recoach.training.config import FinetuneConfig


class TRPOConfig(FinetuneConfig):
    """Settings of TRPO."""

    algorithm: Literal["trpo"] = "trpo"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    radius: Literal["state", "batch"] = "state"
    """What the trust region bounds: the KL of each state, which moves the states with the least
    probable rewarded items furthest, or the mean KL of a batch (MPO, REPS), under which every
    reward multiplies odds by the same factor."""
    max_kl: float = Field(default=0.01, gt=0)
    """Radius of the trust region: the highest KL(new || old), in nats."""
    old_model_sync_steps: int = Field(default=8, ge=1)
    """Steps for which the old policy is kept, so that the model approaches the new one; 1 uses the
    current weights."""

    @property
    def compares_policies(self) -> bool:
        """Whether a step uses the difference of two policies: always."""
        return True

    @property
    def accepts_negative_rewards(self) -> bool:
        """Whether rewards may be negative: they lower the item's probability."""
        return True


class OldPolicy(NamedTuple):
    """What stays fixed for a batch."""

    distribution: Distribution | None
    """The old policy; None where it is the current one."""
    inverse_eta: Tensor | None
    """float64[] 1 / eta of radius `batch`."""
    binds: Tensor | None
    """bool[] whether the radius `batch` binds."""


class TRPO(Algorithm[TRPOConfig, OldPolicy]):
    """Projects the best policy within a trust region around the old policy onto the model.

    The best policy within KL(new || old) <= `max_kl` is known for a softmax over a catalogue
    (`recoach.policy.trust_region`). The loss is the cross-entropy with it, whose gradient with
    respect to a logit is policy - best policy. No dense target is needed: it is a weighted
    log-likelihood of the rewarded items plus 1 / Z times the cross-entropy with the old policy,
    which keeps the rest in place. Negative rewards have negative weights.

    Classical TRPO takes its step by a quadratic model of the KL, through conjugate gradients. In
    the logits of one state its direction is the whitened advantage, sqrt(2 max_kl) A / sd(A), the
    advantage of GRPO. At the probabilities of a recommender the model fails: with a rewarded mass
    of 1e-4, a radius of 0.01 leads to a KL(old || new) 500 times as large. The projection needs
    neither the model of the KL nor a line search; but an optimiser's steps approach it, they do not
    enforce it: `trust_region/kl` is what was reached.
    """

    def __init__(self, args: TRPOConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        steps = args.old_model_sync_steps
        self.old = self.frozen_model("old", steps) if steps > 1 else None

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> OldPolicy:
        """Return the old policy and, with radius `batch`, the temperature of its rewards."""
        del generator  # nothing is drawn
        old = self.distribution(self.old or self.model, batch)
        kept = None if self.old is None else old
        if self.args.radius == "state":
            return OldPolicy(kept, None, None)
        rewards = batch.rewards
        parts = [
            block.log_p(*rewarded_pairs(rewards, block)[:2]).detach() for block in old.blocks()
        ]
        items = RewardedItems(rewards.states, torch.cat(parts), rewards.values, len(old))
        return OldPolicy(
            kept, *batch_inverse_eta(items, self.args.max_kl, mean=distributed.data_mean)
        )

    def loss(
        self, batch: RLBatch, prepared: OldPolicy, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the cross-entropy with the best policy within the trust region."""
        del generator
        statistics = Statistics()
        count = distributed.data_sum(len(batch.queries))

        def block_loss(block: Block, old_block: Block | None) -> Tensor:
            states, items, values, _ = rewarded_pairs(batch.rewards, block)
            log_p = block.log_p(states, items)
            old_log_p = log_p if old_block is None else old_block.log_p(states, items)
            rewarded = RewardedItems(states, old_log_p.detach(), values, len(block))
            inverse_eta, binds = self._inverse_eta(rewarded, prepared)
            new = tilted_policy(rewarded, inverse_eta)
            is_rewarded = count_rows(states, len(block)) > 0
            statistics.add("policy/p_mean", log_p.detach().exp())
            statistics.add("trust_region/target_kl", new.kl)
            statistics.add("trust_region/binding", binds.float(), is_rewarded)
            loss = -(new.weights.to(log_p.dtype) * log_p).sum()
            if old_block is not None:
                # KL(policy || old) without gradient, which takes no matrix as that of `kl` does.
                kl = old_block.cross_entropy(block) - block.cross_entropy(block)
                statistics.add("trust_region/kl", kl)
                anchor = block.cross_entropy(old_block)
                loss = loss + (new.old_weight.to(anchor.dtype) * anchor).sum()
            return loss / count

        policy = self.distribution(self.model, batch)
        return with_reference(policy, block_loss, prepared.distribution), statistics

    def _inverse_eta(self, rewarded: RewardedItems, prepared: OldPolicy) -> tuple[Tensor, Tensor]:
        """Return float64[b] and bool[b], 1 / eta of each state and whether its radius binds."""
        if prepared.inverse_eta is None or prepared.binds is None:
            return state_inverse_eta(rewarded, self.args.max_kl)
        count = rewarded.n_states
        return prepared.inverse_eta.expand(count), prepared.binds.expand(count)
