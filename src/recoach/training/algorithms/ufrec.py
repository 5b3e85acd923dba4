"""Next-item cross-entropy with heads for later items, after UFRec (arXiv 2605.28493)."""

import math
from typing import ClassVar, Final, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.errors import ConfigError
from recoach.models.base import Embeddings, dot_product
from recoach.models.distribution import Distribution
from recoach.models.segments import segment_mean
from recoach.policy.reward_funcs import RewardName
from recoach.policy.rewards import LoggedItems, Rewards, drop_seen
from recoach.training.algorithms.base import Algorithm, Learner, RLBatch, Statistics, cross_entropy
from recoach.training.algorithms.state_vectors import linear_head, vectors_of
from recoach.training.config import FinetuneConfig

_WHAT: Final = "algorithm 'ufrec'"
_CONTRAST_TEMPERATURE: Final = 0.1


class UFRecConfig(FinetuneConfig):
    """Settings of the heads for later items."""

    algorithm: Literal["ufrec"] = "ufrec"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    reward_funcs: tuple[RewardName, ...] = ("future",)
    """Cannot be changed: no reward is used."""
    horizon: int = Field(default=3, ge=2)
    """Number of next items that are predicted (K): the first by the model that is served, each
    later one by a head of its own."""
    reward_smoothing: float = 0.0
    """Cannot be changed: no reward is used."""
    future_coef: float = Field(default=0.1, ge=0)
    """Weight of the heads' cross-entropies, summed over 2..K items ahead."""
    confidence: Literal["entropy", "none", "permuted"] = "entropy"
    """Weight of a state in them, scaled to mean 1 over the states of all processes that have such
    an item: exp(-H / temperature), H the entropy of the next-item prediction, without gradient; 1;
    or, as a control, the weights of `entropy` in a random order of the batch's states."""
    confidence_temperature: float = Field(default=1.0, gt=0)
    """Temperature of these weights in units of log(number of items), the highest entropy."""
    contrast_coef: float = Field(default=0.1, ge=0)
    """Weight of the contrastive loss."""

    @model_validator(mode="after")
    def _check_future(self) -> Self:
        rewards = "algorithms that learn from rewards"
        no_effect = ("reward_funcs", "reward_weights", "reward_smoothing", "discount")
        weighted = self.future_coef > 0 and self.confidence != "none"
        self._check_effect(
            dict.fromkeys(no_effect, (False, rewards))
            | {
                "confidence": (self.future_coef > 0, "future_coef above 0"),
                "confidence_temperature": (weighted, "future_coef above 0 and confidence"),
            }
        )
        if self.state not in ("auto", "prefix"):
            raise ValueError(
                f"{_WHAT} predicts several later items, and the state {self.state!r} has one at "
                "most; use state 'prefix'"
            )
        return self

    @property
    def needs_logged_items(self) -> bool:
        """Whether the algorithm reads the logged items themselves: always."""
        return True

    @property
    def learns_actions(self) -> bool:
        """Whether the loss has the cross-entropy of every logged action: always."""
        return True


class FutureItems(NamedTuple):
    """The items that follow the states of a batch."""

    next_items: Rewards
    """The logged actions that are not masked, each with weight 1."""
    later: list[Rewards]
    """For 2..K, the items so many interactions ahead that are not masked, each with weight 1."""
    window: LoggedItems
    """The items of the next K interactions."""


class UFRec(Algorithm[UFRecConfig, FutureItems]):
    """Minimises next-item cross-entropy + future_coef · L_FS + contrast_coef · L_FC.

    L_FS is the sum over k = 2..K of the weighted cross-entropy of the item k interactions ahead,
    predicted from ReLU(W_k h + b_k) with the model's item table; h is the state vector. L_FC is the
    contrastive loss (InfoNCE, cosines at temperature 0.1) between ReLU(W h + b) and the mean item
    vector of the next K items, among those of the states of other users in the batch of all
    processes. Both train the encoder and the item table. The heads are left behind: the model of
    the next item is evaluated and served.

    After the paper, whose formulas could be read and whose tables could not. Ours are: the scaling
    of the weights to mean 1 (with 10,000 items exp(-H) is about 1e-3, and `future_coef` would mean
    nothing) and the temperature's unit; the head, the cosine and the temperature of L_FC, and that
    states of one user are no negatives of each other, because their next items overlap; W = 1 and
    b = 0 at first. An item that comes twice within K interactions counts at the first.
    With `confidence = "none"` L_FS is a multi-task loss without UFRec's weighting.
    """

    def __init__(self, args: UFRecConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        self.encoder = dot_product(self.model, _WHAT)
        if not self.model.history_length:
            raise ConfigError(
                f"{_WHAT} predicts several items that follow a history, and "
                f"{type(self.model).__name__} reads none; use a model that reads a history."
            )
        heads = [linear_head(self.model, None, _WHAT) for _ in range(args.horizon)]
        for head in heads:
            nn.init.eye_(head.weight)  # at 0, ReLU would have no gradient
        self._contrast_head, *self._later_heads = heads
        self._modules["heads"] = nn.ModuleList(heads)

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> FutureItems:
        """Collect the items that the heads predict."""
        del generator  # weights are permuted in `loss`
        if batch.logged is None or batch.actions is None:
            raise ValueError("the batch has no logged items; they follow from the settings")
        window, actions = batch.logged.to(self.model.device), batch.actions.items
        states = torch.arange(len(actions), device=actions.device)
        later = []
        for ahead in range(2, self.args.horizon + 1):
            found = window.ahead == ahead
            later.append(_not_masked(batch, window.states[found], window.items[found]))
        return FutureItems(_not_masked(batch, states, actions), later, window)

    def loss(
        self, batch: RLBatch, prepared: FutureItems, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the three terms' weighted sum."""
        args, statistics = self.args, Statistics()
        policy = self.distribution(self.model, batch)
        vectors = vectors_of(policy)
        loss = cross_entropy(policy, prepared.next_items, statistics)
        if args.future_coef:
            weights = self._weights(policy, generator)
            for head, targets in zip(self._later_heads, prepared.later, strict=True):
                weighted = targets._replace(values=weights[targets.states])
                later = self._later_policy(head, vectors, batch)
                term = cross_entropy(later, weighted, statistics, name="policy/p_later_mean")
                loss = loss + args.future_coef * term
        if args.contrast_coef:
            contrast = self._contrast(vectors, batch, prepared.window)
            statistics.add("contrast_loss", contrast)
            mean = distributed.scale_replicated(contrast.mean())
            loss = loss + args.contrast_coef * mean
        return loss, statistics

    def _later_policy(self, head: nn.Linear, vectors: Embeddings, batch: RLBatch) -> Distribution:
        """Return a head's distribution over the items that the policy of the state may show."""
        users = functional.relu(head(vectors.users))
        if self.policy.logits != "raw":  # the state vectors have unit length
            users = functional.normalize(users, dim=1)
        return self.policy.of_vectors(
            Embeddings(users, vectors.items), batch.queries.seen, workspace=self.encoder.workspace
        )

    def _weights(self, policy: Distribution, generator: torch.Generator) -> Tensor:
        """Return float[B], the weights of the states up to a common factor, without gradient."""
        if self.args.confidence == "none":
            return torch.ones(len(policy), device=self.model.device)
        entropies = torch.cat([block.entropy(len(block)) for block in policy.blocks()])
        lowest = -distributed.all_reduce_max(-entropies.min())  # so that no batch underflows
        scale = self.args.confidence_temperature * math.log(self.model.n_items)
        weights = ((lowest - entropies) / scale).exp()
        return weights if self.args.confidence == "entropy" else _permuted(weights, generator)

    def _contrast(self, vectors: Embeddings, batch: RLBatch, window: LoggedItems) -> Tensor:
        """Return float[N], the contrastive loss of the states of all processes with next items."""
        users = batch.queries.state_users
        has_window = torch.bincount(window.states, minlength=len(users)) > 0
        means = segment_mean(vectors.items[window.items], window.states, len(users))
        predicted = functional.relu(self._contrast_head(vectors.users))
        left, right = (
            distributed.all_gather_with_grad(functional.normalize(part[has_window], dim=1))
            for part in (predicted, means)
        )
        users = distributed.all_gather(users[has_window])
        same = users[:, None] == users
        logits = (left @ right.T / _CONTRAST_TEMPERATURE).masked_fill(
            same.fill_diagonal_(fill_value=False), -torch.inf
        )
        own = torch.arange(len(users), device=users.device)
        return functional.cross_entropy(logits, own, reduction="none")


def _not_masked(batch: RLBatch, states: Tensor, items: Tensor) -> Rewards:
    """Return pairs of state and item with weight 1, without the masked ones."""
    pairs = Rewards(states, items, torch.ones(len(items), device=items.device))
    seen = batch.queries.seen
    return pairs if seen is None else drop_seen(pairs, seen)


def _permuted(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return weights of random states of the batch of all processes, each used once."""
    everywhere = distributed.all_gather(weights)
    counts = distributed.all_gather(torch.tensor([len(weights)]))
    order = torch.randperm(len(everywhere), generator=generator).to(weights.device)
    start = int(counts[: distributed.data_rank()].sum())
    return everywhere[order[start : start + len(weights)]]
