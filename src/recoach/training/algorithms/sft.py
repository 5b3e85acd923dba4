"""SFT, supervised fine-tuning: cross-entropy with the rewarded items as soft targets."""

from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from recoach import distributed
from recoach.models.distribution import Block
from recoach.policy.reward_lookup import lookup_rewards
from recoach.training.algorithms.base import (
    Algorithm,
    RLBatch,
    Statistics,
    draw_generator,
    one_if_zero,
    rewarded_pairs,
)
from recoach.training.config import FinetuneConfig


class SFTConfig(FinetuneConfig):
    """Settings of supervised fine-tuning; the rewards of a state's items are its targets."""

    algorithm: Literal["sft"] = "sft"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    normalize_targets: bool = True
    """Divide the rewards of a state by their sum, so that every state weighs the same; else a state
    weighs as much as the sum of its rewards."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Part of the target that is uniform over the items that the policy can show."""
    num_negatives: int = Field(default=0, ge=0)
    """Uniformly drawn items that stand for the catalogue in the softmax (1: BPR); 0 takes all."""

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        if self.num_negatives and self.label_smoothing:
            raise ValueError(
                "label_smoothing needs the probabilities of the whole catalogue; set "
                "num_negatives = 0, or leave label_smoothing out"
            )
        return self


class Negatives(NamedTuple):
    """Drawn items of each state."""

    items: Tensor
    """int64[B, num_negatives], each row sorted."""
    is_rewarded: Tensor
    """bool[B, num_negatives] whether an item is rewarded, so that it is no negative."""


class Targets(NamedTuple):
    """What stays fixed for a batch."""

    weights: Tensor
    """float[N] weight of each rewarded pair; those of all processes sum to 1."""
    state_weights: Tensor
    """float[B] the sum of the weights of each state's pairs."""
    negatives: Negatives | None
    """The drawn items; None where the softmax is over the catalogue."""


class SFT(Algorithm[SFTConfig, Targets]):
    """Minimises the cross-entropy with a target distribution over items.

    With q the rewards of a state over their sum, the loss of the state is
    -(1 - e) sum_a q(a) log p(a) - e mean_a log p(a), e the label smoothing. Its fixed point is the
    target itself, averaged over the occurrences of a state.

    Rewards and their settings make it a member of a family. `next` is the usual cross-entropy;
    `future` with `discount = 1` is dense all-action training (PinnerFormer, Pancha et al. 2022;
    eSASRec) in expectation, over `horizon` items in place of days; with a smaller discount it has
    the gradient of GRPO's exact `log` objective, up to the weight of the states, and with
    `normalize_targets = false` exactly that gradient; `reward_smoothing` smooths labels towards the
    items' neighbours.

    With `num_negatives` the loss of a pair is -log of its softmax among the drawn items, which are
    uniform, so that no logQ correction is due; with one negative it is that of BPR (Rendle et al.
    2009). Scores are divided by the temperature of the policy.
    """

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> Targets:
        """Return the weights of the targets, and draw negatives."""
        rewards, device = batch.rewards, batch.queries.rows.device
        sums = torch.zeros(len(batch.queries), dtype=rewards.values.dtype, device=device)
        sums.index_add_(0, rewards.states, rewards.values)
        state_weights = (sums > 0).to(sums.dtype) if self.args.normalize_targets else sums
        total = one_if_zero(distributed.data_total(state_weights.sum()))
        of_pair = (state_weights / sums.clamp(min=torch.finfo(sums.dtype).tiny))[rewards.states]
        weights, state_weights = rewards.values * of_pair / total, state_weights / total
        if not self.args.num_negatives:
            return Targets(weights, state_weights, None)
        shape = (len(batch.queries), self.args.num_negatives)
        own = draw_generator(generator, device)
        negatives = torch.randint(self.model.n_items, shape, generator=own, device=device)
        negatives = negatives.sort(dim=1).values
        is_rewarded = lookup_rewards(negatives, rewards[:3]) > 0
        return Targets(weights, state_weights, Negatives(negatives, is_rewarded))

    def loss(
        self, batch: RLBatch, prepared: Targets, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the mean cross-entropy of the states that have targets."""
        del generator  # the negatives are drawn in `prepare`
        statistics, smoothing = Statistics(), self.args.label_smoothing

        def block_loss(block: Block) -> Tensor:
            states, items, _, pairs = rewarded_pairs(batch.rewards, block)
            log_p, weights = block.log_p(states, items), prepared.weights[pairs]
            statistics.add("policy/p_mean", log_p.detach().exp())
            if prepared.negatives is not None:
                losses = _sampled_losses(block, prepared.negatives, log_p, states)
                return (weights * losses).sum()
            loss = -(1 - smoothing) * (weights * log_p).sum()
            if smoothing:
                uniform = (prepared.state_weights[block.which] * block.mean_log_p()).sum()
                loss = loss - smoothing * uniform
            return loss

        return self.distribution(self.model, batch).loss(block_loss), statistics


def _sampled_losses(block: Block, negatives: Negatives, log_p: Tensor, states: Tensor) -> Tensor:
    """Return float[n], -log of the softmax of each target among itself and its state's negatives.

    Negatives that are rewarded or masked are left out.
    """
    scores = block.log_p_of(negatives.items[block.which])
    excluded = negatives.is_rewarded[block.which] | (scores.detach() == -torch.inf)
    highest = scores.masked_fill(excluded, -torch.inf).logsumexp(dim=1)
    return functional.softplus(highest[states] - log_p)
