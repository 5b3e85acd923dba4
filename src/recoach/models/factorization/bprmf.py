"""BPR-MF (Rendle et al. 2009): matrix factorization trained with BPR, as RecBole's BPR."""

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import (
    DotProductRecommender,
    Draws,
    Embeddings,
    GroupName,
    TrainingBatch,
    draw_negatives,
    interaction_keys,
)
from recoach.models.fold_in import fold_in
from recoach.models.losses import bpr


class BPRMFConfig(StrictConfig):
    """Settings of BPR-MF; the default is RecBole's."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the embeddings."""


class BPRMF(DotProductRecommender):
    """User and item embeddings; the vector of a state is that of its user."""

    needs = ("edges",)
    config: BPRMFConfig

    def __init__(self, config: BPRMFConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items, config.dim)
        self.train_pairs = interaction_keys(train, n_items)
        for table in (self.users, self.items):
            nn.init.xavier_normal_(table.weight)

    def embed(self, queries: Queries) -> Embeddings:
        """Return user and item embeddings; an unknown user gets the mean over their history."""
        users, items = self.users.weight, self.items.weight
        return Embeddings(fold_in(queries, users, items), items)

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return a negative for each interaction."""
        users = batch.part("edges", "BPR-MF").queries.state_users
        return (draw_negatives(self.train_pairs, users, self.n_items, 1, generator)[:, 0],)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return BPR with one uniform negative."""
        queries, _, positive_ids, _ = batch.part("edges", "BPR-MF")
        user_ids = queries.state_users
        (negative_ids,) = self.draws_of(batch, generator)
        users = self.users(user_ids)
        positives, negatives = self.items(torch.cat([positive_ids, negative_ids])).chunk(2)
        return bpr((users * positives).sum(dim=1), (users * negatives).sum(dim=1))

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the user embedding and the item embedding."""
        return {"user": [self.users.weight], "item": [self.items.weight]}
