"""Top-K off-policy REINFORCE (Chen et al. 2019)."""

from typing import ClassVar, Literal

import torch
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
from recoach.training.algorithms.behaviour import (
    BehaviourConfig,
    ImportanceWeights,
    LoggingPolicy,
)
from recoach.training.algorithms.regulariser import (
    RegularisedConfig,
    Regulariser,
    with_reference,
)


class TopKOffPolicyConfig(BehaviourConfig, RegularisedConfig):
    """Settings of top-K off-policy REINFORCE."""

    algorithm: Literal["top_k_off_policy"] = "top_k_off_policy"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""


class TopKOffPolicy(Algorithm[TopKOffPolicyConfig, Distribution | None]):
    """REINFORCE on logged items with importance weights against the logging policy b.

    The weight of log p is min(p/b, max_ratio) (1-p)^(K-1); b is at the policy's temperature and
    masks the same items. The factor K of the paper's Eq. 7 is left out, because the weights are
    normalised by the rewards. The paper learns b with a second head (`behaviour = "head"`), and
    rewards a logged action with the discounted rewards that follow it (reward `return`). With
    `behaviour = "base"` b is the frozen base, and items of the next `horizon` events may be
    rewarded as if each were the action: a heuristic, because b is no probability of those.
    """

    def __init__(self, args: TopKOffPolicyConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        self.logging = LoggingPolicy(args, learner) if args.behaviour != "base" else None
        self.reference = None
        if self.logging is None or args.beta:
            self.reference = self.frozen_model("reference", args.ref_model_sync_steps)
        if self.logging is not None and self.logging.head is not None:
            self._modules["behaviour"] = self.logging.head

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> Distribution | None:
        """Return the reference policy of the states: the logging policy, or that of the KL."""
        del generator  # nothing is drawn
        return None if self.reference is None else self.distribution(self.reference, batch)

    def loss(
        self, batch: RLBatch, prepared: Distribution | None, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return minus the weighted log-likelihood of the logged items, regularised."""
        del generator
        statistics = Statistics()
        policy = self.distribution(self.model, batch)
        log_b, behaviour_loss = None, None
        if self.logging is not None:
            log_b, behaviour_loss = self.logging.log_probs(batch, policy, statistics)
            # An event without a propensity was no action of the logging policy.
            known = ~log_b.isnan()[batch.rewards.states]
            batch = batch._replace(rewards=batch.rewards.where(known))
        total = total_reward(batch)
        regulariser = Regulariser(self.args, batch, statistics)
        weights = ImportanceWeights(self.args, statistics)

        def block_loss(block: Block, reference: Block | None) -> Tensor:
            states, items, values, _ = rewarded_pairs(batch.rewards, block)
            log_p = block.log_p(states, items)
            weight, _ = weights.of(log_p, log_b_of(states, items, block, reference))
            gain = (values * weight * log_p).sum() / total
            return regulariser.loss(block, reference) - gain

        def log_b_of(
            states: Tensor, items: Tensor, block: Block, reference: Block | None
        ) -> Tensor:
            if log_b is not None:
                return log_b[block.which][states]
            if reference is None:
                raise ValueError("behaviour 'base' needs the reference policy")
            return reference.log_p(states, items).detach()

        loss = with_reference(policy, block_loss, prepared)
        weights.log_effective_sample_size()
        return (loss if behaviour_loss is None else loss + behaviour_loss), statistics
