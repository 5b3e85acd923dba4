"""LightGCN (He et al. 2020) trained with BPR, with the penalty of RecBole or of the authors."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach import distributed
from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import (
    DotProductRecommender,
    Embeddings,
    GroupName,
    TrainingBatch,
    draw_negatives,
    interaction_keys,
)
from recoach.models.fold_in import fold_in
from recoach.models.graph.propagation import Graph, PropagationCache
from recoach.models.losses import bpr


class LightGCNConfig(StrictConfig):
    """Settings of LightGCN; the defaults are RecBole's."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the embeddings."""
    layers: int = Field(default=2, ge=0, le=100)
    """Number of propagation layers (the authors use 3)."""
    regularisation: float = Field(default=1e-5, ge=0)
    """Weight of the penalty on the unpropagated embeddings of a batch."""
    penalty: Literal["norm", "squared"] = "norm"
    """Norm of the embeddings of a batch (RecBole), or half the squared norm (authors)."""


class LightGCN(DotProductRecommender):
    """Embeddings propagated over the user-item graph; a state has the vector of its user."""

    needs = ("edges",)
    config: LightGCNConfig

    def __init__(self, config: LightGCNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items, config.dim)
        self.graph = Graph(train, n_items)
        self.register_buffer("train_pairs", interaction_keys(train, n_items), persistent=False)
        for table in (self.users, self.items):
            nn.init.xavier_uniform_(table.weight)
        self._cache = PropagationCache()

    def propagate(self, hidden: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the propagated vectors of all users and items.

        Without gradients the result is cached until the embeddings change.

        Args:
            hidden: (int64[H] users, int64[H] items) of edges to leave out, see `Graph`.

        Returns:
            float[U, D] and float[I, D].
        """
        tables = [self.users.weight, self.items.weight]

        def propagate() -> tuple[Tensor, Tensor]:
            result: tuple[Tensor, Tensor] = self.graph(*tables, self.config.layers, hidden)
            return result

        return self._cache.get(tables, propagate, cacheable=hidden is None)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the propagated vectors; an unknown user gets the mean over their history."""
        users, items = self.propagate(queries.hidden_edges)
        history = queries.history[queries.rows]
        return Embeddings(fold_in(queries.state_users, users, items, history, queries.ends), items)

    @torch.no_grad()
    def materialize_propagation(self) -> None:
        """Replace the embeddings by their propagated vectors and set `layers` to 0."""
        users, items = self.propagate()
        self.users.weight.copy_(users)
        self.items.weight.copy_(items)
        self.config = self.config.model_copy(update={"layers": 0})
        self._cache = PropagationCache()

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return BPR with one uniform negative, plus the penalty on the unpropagated vectors."""
        if batch.edges is None:
            raise ValueError("LightGCN learns from edges; the batch has none.")
        user_ids, positive_ids = batch.edges.queries.state_users, batch.edges.targets
        train_pairs = self.get_buffer("train_pairs")
        negative_ids = draw_negatives(train_pairs, user_ids, self.n_items, 1, generator)[:, 0]
        # One lookup for both: the gradient of each lookup is as large as the embedding.
        item_ids = torch.cat([positive_ids, negative_ids])
        all_users, all_items = self.propagate()
        users, (positives, negatives) = all_users[user_ids], all_items[item_ids].chunk(2)
        ranking = bpr((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        unpropagated = (self.users.weight[user_ids], *self.items.weight[item_ids].chunk(2))
        return ranking + self.config.regularisation * self._penalty(unpropagated)

    def _penalty(self, vectors: tuple[Tensor, ...]) -> Tensor:
        """Return the penalty on the vectors of users, positives and negatives, each float[B, D]."""
        batch_size = distributed.data_sum(len(vectors[0]))
        if self.config.penalty == "norm":
            norms = [distributed.all_gather_with_grad(part).norm() for part in vectors]
            return distributed.scale_replicated(torch.stack(norms).sum() / batch_size)
        norms = [part.norm() for part in vectors]
        return torch.stack(norms).square().sum() / (2 * batch_size)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the unpropagated user embedding and item embedding."""
        return {"user": [self.users.weight], "item": [self.items.weight]}
