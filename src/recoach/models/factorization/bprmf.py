"""BPR-MF (Rendle et al. 2009): a vector for each user and each item, as in RecBole's BPR."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from recoach.data.batches import Queries
from recoach.data.split import RaggedArray
from recoach.models.base import (
    Embeddings,
    GroupName,
    Recommender,
    TrainingBatch,
    draw_negatives,
    interaction_keys,
)
from recoach.models.graph.propagation import fold_in
from recoach.models.losses import bpr


class BPRMFConfig(BaseModel):
    """Settings of BPR-MF; the default is RecBole's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: int = Field(64, gt=0)
    """Length of the vectors."""


class BPRMF(Recommender):
    """Two free tables; a state is its user."""

    needs = ("edges",)
    config: BPRMFConfig

    def __init__(self, config: BPRMFConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items, config.dim)
        self.register_buffer("known", interaction_keys(train, n_items), persistent=False)
        for table in (self.users, self.items):
            nn.init.xavier_normal_(table.weight)

    def embed(self, queries: Queries) -> Embeddings:
        """Return rows of the tables; a user never met is the mean of the items taken."""
        users, items = self.users.weight, self.items.weight
        history = queries.history[queries.rows]
        return Embeddings(fold_in(queries.state_users, users, items, history, queries.ends), items)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return BPR with one uniform negative."""
        if batch.edges is None:
            raise ValueError("BPR-MF learns from edges")
        who, taken = batch.edges.queries.state_users, batch.edges.targets
        known = self.get_buffer("known")
        other = draw_negatives(known, who, self.n_items, 1, generator)[:, 0]
        users, (good, bad) = self.users(who), self.items(torch.cat([taken, other])).chunk(2)
        return bpr((users * good).sum(dim=1), (users * bad).sum(dim=1))

    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return the tables of users and items."""
        return {"user": [self.users.weight], "item": [self.items.weight]}
