"""Top-K off-policy REINFORCE (Chen et al. 2019)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recoach.models.distribution import Block, Distribution
from recoach.training.algorithms.base import (
    Algorithm,
    Learner,
    RLBatch,
    Statistics,
    rewarded_pairs,
    total_reward,
)
from recoach.training.algorithms.regulariser import RegularisedConfig, Regulariser


class TopKOffPolicyConfig(RegularisedConfig):
    """Settings of top-K off-policy REINFORCE."""

    algorithm: Literal["top_k_off_policy"] = "top_k_off_policy"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    top_k: int = Field(default=10, gt=0)
    """Length K of the list for which the policy is corrected."""
    max_ratio: float = Field(default=20.0, gt=0)
    """Cap of the importance weights (about e^3 in the paper)."""

    @property
    def compares_policies(self) -> bool:
        """Whether a ratio compares two policies: always."""
        return True


class TopKOffPolicy(Algorithm[TopKOffPolicyConfig, Distribution]):
    """REINFORCE on logged items with importance weights, the base being the logging policy.

    The weight of log p is min(p/b, max_ratio) (1-p)^(K-1). The paper learns b with a second head;
    the factor K of its Eq. 7 is left out, because the weights are normalised by the rewards.
    """

    def __init__(self, args: TopKOffPolicyConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        self.reference = self.frozen_model("reference", args.ref_model_sync_steps)

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> Distribution:
        """Return the logging policy of the states."""
        del generator  # nothing is drawn
        return self.distribution(self.reference, batch)

    def loss(
        self, batch: RLBatch, prepared: Distribution, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return minus the weighted log-likelihood of the logged items, regularised."""
        del generator
        statistics, total = Statistics(), total_reward(batch)
        regulariser = Regulariser(self.args, batch, statistics)

        def block_loss(block: Block, logging: Block) -> Tensor:
            states, items, values, _ = rewarded_pairs(batch.rewards, block)
            log_p, log_b = block.log_p(states, items), logging.log_p(states, items).detach()
            p = log_p.detach().exp()
            ratio = (log_p.detach() - log_b).exp().clamp(max=self.args.max_ratio)
            weight = ratio * (1 - p) ** (self.args.top_k - 1)
            statistics.add("policy/p_mean", p)
            statistics.add("importance_sampling_ratio/mean", ratio)
            return regulariser.loss(block, logging) - (values * weight * log_p).sum() / total

        return self.distribution(self.model, batch).loss(block_loss, prepared), statistics
