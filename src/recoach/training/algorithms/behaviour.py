"""Importance weights of logged actions, shared by the off-policy algorithms (Chen et al. 2019)."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from recoach import distributed
from recoach.models.base import Embeddings
from recoach.models.distribution import Block, Distribution, Workspace
from recoach.policy.policy import Policy
from recoach.training.algorithms.base import Learner, LoggedActions, RLBatch, Statistics
from recoach.training.algorithms.state_vectors import item_vectors, state_vectors
from recoach.training.config import FinetuneConfig


class BehaviourConfig(FinetuneConfig):
    """Settings of the importance weights and of the top-K correction."""

    behaviour: Literal["base", "head", "logged"] = "base"
    """What the logging policy b is: `base`, the model before fine-tuning; `head`, a second softmax
    over the items with its own item table, trained on all logged actions, rewarded or not, whose
    gradient stops at the state vectors; `logged`, the column `propensity` of the log. For the last
    two only the next item is rewarded."""
    top_k: int = Field(default=10, gt=0)
    """Length K of the list for which the policy is corrected."""
    max_ratio: float = Field(default=20.0, gt=0)
    """Cap of the importance weights (about e^3 in the paper)."""

    @model_validator(mode="after")
    def _check_behaviour(self) -> Self:
        if not self.rewards_actions_only:
            return self
        what = f"behaviour = {self.behaviour!r} weights actions of the log by policy / behaviour"
        if "train_set" in self.reward_funcs or self.horizon != 1:
            raise ValueError(
                f"{what}, and an item taken later is no action of the state; set horizon = 1 and "
                "reward_funcs to 'return', 'next' or 'events'"
            )
        if self.reward_smoothing not in ("auto", 0.0):
            raise ValueError(
                f"{what}, and a neighbour of the item is no action of the log; set "
                "reward_smoothing = 0"
            )
        return self

    @property
    def rewards_actions_only(self) -> bool:
        """Whether only logged actions may be rewarded: their probability was that of an action."""
        return self.behaviour != "base"

    @property
    def setting_with_base(self) -> str:
        """The setting that compares the policy with the base: the logging policy."""
        return "behaviour" if self.behaviour == "base" else super().setting_with_base

    @property
    def needs_propensities(self) -> bool:
        """Whether the log must have the column `propensity`."""
        return self.behaviour == "logged"

    @property
    def compares_policies(self) -> bool:
        """Whether a ratio compares two policies: always."""
        return True


class BehaviourHead(nn.Module):
    """The item table of the behaviour policy.

    Args:
        items: float[I, D] its initial values, those of the base: at first it is the policy.
    """

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.items = nn.Parameter(items.clone())
        self.workspace = Workspace()


class LoggingPolicy:
    """The policy b that chose the logged actions, as a trained head or from the log.

    Args:
        args: with behaviour `head` or `logged`.
        learner: the model, whose vectors a head begins with.

    Raises:
        ConfigError: a head, and the model's scores are no dot products.
    """

    def __init__(self, args: BehaviourConfig, learner: Learner) -> None:
        self.policy: Policy = learner.policy
        self.head: BehaviourHead | None = None
        if args.behaviour == "head":
            what = "behaviour = 'head'"
            self.head = BehaviourHead(item_vectors(learner.model, learner.policy, what))

    def log_probs(
        self, batch: RLBatch, policy: Distribution, statistics: Statistics
    ) -> tuple[Tensor, Tensor]:
        """Return log b of the actions, and the loss that trains b.

        Args:
            batch: with logged actions.
            policy: its state vectors are the input of a head.
            statistics: receives the head's loss.

        Returns:
            float[B], NaN where the log has no propensity and -inf where the action is masked, and
            the head's mean negative log-likelihood, 0 without a head.
        """
        actions = logged_actions(batch)
        if self.head is None:
            if actions.propensities is None:
                raise ValueError("behaviour 'logged' needs the propensities of the batch")
            return actions.propensities.log(), actions.propensities.new_zeros(())
        vectors = Embeddings(state_vectors(policy), self.head.items)
        behaviour = self.policy.of_vectors(
            vectors, batch.queries.seen, workspace=self.head.workspace
        )
        count = distributed.data_sum(len(behaviour))
        parts = []

        def block_loss(block: Block) -> Tensor:
            states = torch.arange(len(block), device=actions.items.device)
            log_b = block.log_p(states, actions.items[block.which])
            parts.append(log_b.detach())
            return -log_b[log_b > -torch.inf].sum() / count

        loss = behaviour.loss(block_loss)
        log_b = torch.cat(parts)
        statistics.add("behaviour_loss", -log_b[log_b > -torch.inf])
        return log_b, loss


class ImportanceWeights:
    """min(p / b, max_ratio) (1 - p)^(K - 1) of logged pairs, and their statistics.

    Args:
        args: the cap and K.
        statistics: receives the means.
    """

    def __init__(self, args: BehaviourConfig, statistics: Statistics) -> None:
        self.args, self._statistics = args, statistics
        self._ratios: list[Tensor] = []

    def of(self, log_p: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return float[n], the weights of log p, and float[n], the capped ratios, both detached.

        Args:
            log_p: float[n] of the pairs under the policy.
            log_b: float[n] the same under the logging policy.
        """
        p = log_p.detach().exp()
        ratio = (log_p.detach() - log_b).exp()
        is_capped = ratio > self.args.max_ratio
        ratio = ratio.clamp(max=self.args.max_ratio)
        self._statistics.add("policy/p_mean", p)
        self._statistics.add("importance_sampling_ratio/mean", ratio)
        self._statistics.add("importance_sampling_ratio/capped", is_capped.float())
        self._ratios.append(ratio)
        return ratio * (1 - p) ** (self.args.top_k - 1), ratio

    def log_effective_sample_size(self) -> None:
        """Log (sum of ratios)^2 / (n sum of squares) over the pairs of all processes."""
        ratios = torch.cat(self._ratios)
        parts = (ratios.sum().double(), ratios.square().sum().double())
        total, square = (distributed.data_total(part) for part in parts)
        count = distributed.data_sum(len(ratios))
        share = torch.where(square > 0, total.square() / (count * square), 0.0)
        self._statistics.add("importance_sampling_ratio/ess", share)


def logged_actions(batch: RLBatch) -> LoggedActions:
    """Return the actions of a batch; ValueError where its states have none."""
    if batch.actions is None:
        raise ValueError("importance weights need the logged actions of the batch")
    return batch.actions
