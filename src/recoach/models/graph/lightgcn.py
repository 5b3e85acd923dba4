"""LightGCN (He et al. 2020) trained by BPR, regularised as in RecBole or as by the authors."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from recoach import distributed
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
from recoach.models.graph.propagation import Graph, Kept, fold_in
from recoach.models.losses import bpr


class LightGCNConfig(BaseModel):
    """Settings of LightGCN; the defaults are RecBole's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: int = Field(64, gt=0)
    """Length of the vectors."""
    layers: int = Field(2, ge=0, le=100)
    """Propagation steps (the authors use 3)."""
    regularisation: float = Field(1e-5, ge=0)
    """Weight of the penalty on the tables' rows in the batch."""
    penalty: Literal["norm", "squared"] = "norm"
    """RecBole's un-squared norms of the batch's rows, or the authors' halved squares."""


class LightGCN(Recommender):
    """Tables smoothed over the graph of interactions; a state is its user."""

    needs = ("edges",)
    config: LightGCNConfig

    def __init__(self, config: LightGCNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items, config.dim)
        self.graph = Graph(train, n_items)
        self.register_buffer("known", interaction_keys(train, n_items), persistent=False)
        for table in (self.users, self.items):
            nn.init.xavier_uniform_(table.weight)
        self._kept = Kept()

    def propagate(self, hidden: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return float[U, D] and float[I, D]; without gradients, kept until the tables change."""
        tables = [self.users.weight, self.items.weight]

        def propagated() -> tuple[Tensor, Tensor]:
            both: tuple[Tensor, Tensor] = self.graph(*tables, self.config.layers, hidden)
            return both

        return self._kept.get(tables, propagated, whole=hidden is None)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the propagated vectors; a user never met is the mean of the items taken."""
        users, items = self.propagate(queries.hidden_edges)
        history = queries.history[queries.rows]
        return Embeddings(fold_in(queries.state_users, users, items, history, queries.ends), items)

    @torch.no_grad()
    def materialize_propagation(self) -> None:
        """Make the propagated vectors the tables; nothing is propagated from now on."""
        users, items = self.propagate()
        self.users.weight.copy_(users)
        self.items.weight.copy_(items)
        self.config = self.config.model_copy(update={"layers": 0})
        self._kept = Kept()

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return BPR with one uniform negative, plus the penalty on the unpropagated rows."""
        if batch.edges is None:
            raise ValueError("LightGCN learns from edges")
        who, taken = batch.edges.queries.state_users, batch.edges.targets
        known = self.get_buffer("known")
        other = draw_negatives(known, who, self.n_items, 1, generator)[:, 0]
        both = torch.cat([taken, other])  # one gather: a table's gradient is a table
        users, items = self.propagate()
        chosen, (good, bad) = users[who], items[both].chunk(2)
        ranking = bpr((chosen * good).sum(dim=1), (chosen * bad).sum(dim=1))
        rows = (self.users.weight[who], *self.items.weight[both].chunk(2))
        return ranking + self.config.regularisation * self._penalty(rows)

    def _penalty(self, rows: tuple[Tensor, ...]) -> Tensor:
        size = distributed.data_sum(len(rows[0]))
        if self.config.penalty == "norm":
            norms = torch.stack([distributed.all_gather_with_grad(row).norm() for row in rows])
            return distributed.scale_replicated(norms.sum() / size)
        norms = torch.stack([row.norm() for row in rows])
        return norms.square().sum() / (2 * size)

    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return the unpropagated tables of users and items."""
        return {"user": [self.users.weight], "item": [self.items.weight]}
