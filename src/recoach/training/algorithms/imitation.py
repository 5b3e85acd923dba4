"""Imitation of re-ranked lists: the supervised counterpart of reinforcement learning on lists."""

from typing import ClassVar, Final, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.errors import ConfigError
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import top_of_scores
from recoach.models.distribution import Block
from recoach.policy.reward_funcs import RewardName
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import RERANKERS, build_reranker
from recoach.training.algorithms.base import Algorithm, Learner, RLBatch, Statistics
from recoach.training.config import FinetuneConfig

_LEAST_REST: Final = 1e-6
"""Least probability of the items that are not in the list yet, against rounding below 0."""


class ImitationConfig(FinetuneConfig):
    """Settings of the imitation of re-ranked lists."""

    algorithm: Literal["imitation"] = "imitation"
    """The algorithm of these settings."""
    logged_rewards_only: ClassVar[bool] = True
    """See `FinetuneConfig`."""

    reward_funcs: tuple[RewardName, ...] = ("future",)
    """Cannot be changed: no reward is used."""
    reward_smoothing: float = 0.0
    """Cannot be changed: no reward is used."""
    rerank: RerankConfig = RerankConfig(by="mmr", knob=0.3)
    """The re-ranker that is imitated, `mmr`, `dpp`, `xquad` or `calibration`, and its knob."""
    list_length: int = Field(default=10, ge=1)
    """Items of a list."""
    select: Literal["best", "best_tuned", "last"] = "last"
    """As in `FinetuneConfig`. The last weights by default: validation prefers the base, whose
    accuracy the re-ranked lists give up."""

    epochs: int = Field(default=20, gt=0)
    """Number of epochs."""
    patience: int = Field(default=0, ge=0)
    """As in `FinetuneConfig`; validation does not say when the lists are learned."""

    @property
    def setting_with_base(self) -> str:
        """The setting that needs a trained base: the re-ranker of its lists."""
        return "rerank"

    @model_validator(mode="after")
    def _check_teacher(self) -> Self:
        rewards = "algorithms that learn from rewards"
        names = ("reward_funcs", "reward_weights", "reward_smoothing", "discount", "horizon")
        self._check_effect(dict.fromkeys(names, (False, rewards)))
        optimum = RERANKERS[self.rerank.by].optimum
        if optimum:
            raise ValueError(
                f"rerank.by = {self.rerank.by!r} needs no imitation. {optimum} Use "
                "`recoach rerank`, or one of mmr, dpp, xquad and calibration"
            )
        if self.list_length > self.rerank.depth:
            raise ValueError("list_length is larger than rerank.depth; lower it")
        return self


class Imitation(Algorithm[ImitationConfig, Tensor]):
    """Maximises the likelihood of the lists that a re-ranker makes of the base's best items.

    The likelihood is that of Plackett and Luce over the catalogue: the item at rank r is drawn from
    the policy without the items of the ranks before it (ListMLE, Xia et al. 2008, whose lists are
    permutations of all candidates). Its top items are what the model serves, so that the re-ranked
    list costs no more than a product at serving.

    The teacher is the base without dropout, re-ranked as in service. The loss has no reward: where
    a reward of lists is learned by reinforcement, this is what it has to exceed.
    """

    def __init__(self, args: ImitationConfig, learner: Learner) -> None:
        super().__init__(args, learner)
        if learner.dataset is None:
            raise ConfigError("algorithm 'imitation' needs the dataset; use a trainer.")
        self._base = self.frozen_model("base", 0)
        self._features = ItemFeatures(learner.dataset, self._base, args.rerank.category)
        self._reranker = build_reranker(args.rerank, self._features)

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> Tensor:
        """Return int64[B, K], the re-ranked list of each state; -1 after the end of a list."""
        del generator  # nothing is drawn
        queries, depth = batch.queries, self.args.rerank.depth
        tops = top_of_scores(model_scores(self._base, queries), depth, queries.seen)
        candidates = Candidates(tops.items.cpu(), tops.scores.float().cpu())
        if self._reranker.reads_profiles:
            profiles = self._features.profiles(_histories(queries, self.model.n_items))
            candidates = candidates._replace(profiles=profiles)
        return self._reranker(candidates, self.args.list_length).items.to(queries.rows.device)

    def loss(
        self, batch: RLBatch, prepared: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return minus the mean log-likelihood of the lists."""
        del generator
        statistics = Statistics()
        count = distributed.data_sum(len(batch.queries))

        def block_loss(block: Block) -> Tensor:
            lists = prepared[block.which]
            is_item = lists >= 0
            log_p = block.log_p_of(lists.clamp(min=0)).masked_fill(~is_item, 0)
            p = log_p.exp().masked_fill(~is_item, 0)
            rest = (1 - (p.cumsum(dim=1) - p)).clamp(min=_LEAST_REST)
            statistics.add("policy/p_mean", p.detach().sum(dim=1))
            return -(log_p - rest.log()).masked_fill(~is_item, 0).sum() / count

        return self.distribution(self.model, batch).loss(block_loss), statistics


def _histories(queries: Queries, n_items: int) -> RaggedArray:
    """Return the items that each state reads, oldest first."""
    positions = torch.arange(queries.history.shape[1], device=queries.history.device)
    items = queries.history[queries.rows]
    is_read = (positions < queries.ends[:, None]) & (items < n_items)
    lengths = is_read.sum(dim=1).cpu().numpy().astype(np.int64)
    return RaggedArray.from_lengths(lengths, items[is_read].cpu().numpy().astype(np.int32))
