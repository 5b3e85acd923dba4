"""S-DPO, softmax direct preference optimisation (Chen et al. 2024)."""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recoach.models.distribution import Block, Distribution
from recoach.policy.reward_lookup import lookup_rewards
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    draw_generator,
    rewarded_pairs,
    total_reward,
)
from recoach.training.config import FinetuneConfig


class SDPOConfig(FinetuneConfig):
    """Settings of S-DPO."""

    algorithm: Literal["s_dpo"] = "s_dpo"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    beta: float = Field(default=1.0, gt=0)
    """Strength of a preference: factor of the log-ratio to the reference."""
    num_negatives: int = Field(default=64, ge=1)
    """Uniformly drawn items that a rewarded item is preferred to."""
    ref_model_sync_steps: int = Field(default=0, ge=0)
    """Steps after which the reference is replaced by the current policy; 0 keeps the base."""

    @property
    def setting_with_base(self) -> str:
        """The setting that compares the policy with the base: the preference."""
        return "" if self.ref_model_sync_steps else "beta"

    @property
    def compares_policies(self) -> bool:
        """Whether a preference compares two policies: always."""
        return True


class Preferences(NamedTuple):
    """What stays fixed for a batch."""

    reference: Distribution
    negatives: Tensor
    """int64[B, num_negatives] drawn items, each row sorted."""
    is_rewarded: Tensor
    """bool[B, num_negatives] whether a drawn item is rewarded, so that it is no negative."""


class SDPO(Algorithm[SDPOConfig, Preferences]):
    """Prefers each rewarded item to drawn items.

    The loss is -log sigmoid(-log sum_j exp(beta (d_j - d_+))), where d is the log-ratio of the
    policy to the reference, of the negatives j and the rewarded item.
    """

    def __init__(self, args: SDPOConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        self.reference = self.frozen_model("reference", args.ref_model_sync_steps)

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> Preferences:
        """Draw the negatives of each state uniformly."""
        device = batch.queries.rows.device
        shape = (len(batch.queries), self.args.num_negatives)
        own = draw_generator(generator, device)
        negatives = torch.randint(self.model.n_items, shape, generator=own, device=device)
        negatives = negatives.sort(dim=1).values
        is_rewarded = lookup_rewards(negatives, batch.rewards[:3]) > 0
        return Preferences(self.distribution(self.reference, batch), negatives, is_rewarded)

    def loss(
        self, batch: RLBatch, prepared: Preferences, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the mean preference loss of the rewarded pairs, weighted by their rewards."""
        del generator  # the negatives are drawn in `prepare`
        statistics, total, beta = Statistics(), total_reward(batch), self.args.beta

        def block_loss(block: Block, reference: Block) -> Tensor:
            states, items, values, _ = rewarded_pairs(batch.rewards, block)
            negatives = prepared.negatives[block.which]
            reference_log_p = reference.log_p_of(negatives).detach()
            excluded = prepared.is_rewarded[block.which] | (reference_log_p == -torch.inf)
            gaps = beta * (block.log_p_of(negatives) - reference_log_p)
            gaps = gaps.masked_fill(excluded, -torch.inf)
            log_p = block.log_p(states, items)
            rewarded_gap = beta * (log_p - reference.log_p(states, items).detach())
            margin = rewarded_gap - gaps.logsumexp(dim=1)[states]
            statistics.add("rewards/margins", margin.detach())
            statistics.add("policy/p_mean", log_p.detach().exp())
            return (values * functional.softplus(-margin)).sum() / total

        policy = self.distribution(self.model, batch)
        return policy.loss(block_loss, prepared.reference), statistics
