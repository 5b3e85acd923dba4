"""GSAU (Cao et al. 2024): alignment and uniformity of a graph and a sequence encoder; GSAU(rec).

Departures from the authors' code: the padding item is left out of the softmax; all positions of a
history can be trained in one forward pass; user-item uniformity pairs each state with the next
item of another one by a random rotation of the batch.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import (
    DotProductRecommender,
    Draws,
    Embeddings,
    GroupName,
    TrainingBatch,
)
from recoach.models.fold_in import fold_in
from recoach.models.graph.propagation import Graph, PropagationCache
from recoach.models.losses import alignment, cross_entropy, cross_uniformity, uniformity
from recoach.models.sequence.encoding import encode_queries, with_length_groups
from recoach.models.sequence.transformer import EncoderConfig, SequenceEncoder


class GSAUConfig(EncoderConfig):
    """Settings of GSAU; `layers` is used by both encoders, as in the authors' code."""

    rec: bool = False
    """GSAU(rec): cross-entropy instead of the alignment of the sequence encoder."""
    gamma: float = Field(default=0.1, ge=0)
    """Weight of the uniformity losses."""
    user_item_uniformity: bool = True
    """Add uniformity between states and the next items of other states."""
    scorer: Literal["seq", "graph", "fuse_emb", "fuse_score"] = "seq"
    """Score by the sequence (as the authors), the graph, fused vectors (Eq. 3) or fused scores."""
    fusion_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the graph in `fuse_emb` and `fuse_score`; the sequence has 1 minus it."""
    normalise_views: bool = False
    """Normalise the vectors of both encoders to unit length before they are fused."""
    cross_view: float = Field(default=0.0, ge=0)
    """Weight of alignment and uniformity between the two encoders; 0 in the authors' code."""


class GSAU(DotProductRecommender):
    """A graph encoder and a sequence encoder that share their item embedding."""

    needs = ("states", "edges")
    regularises = True  # alignment and uniformity of both encoders
    config: GSAUConfig

    def __init__(self, config: GSAUConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = SequenceEncoder(config)
        self.graph = Graph(train, n_items)
        self._cache = PropagationCache()
        self.apply(_xavier_init)
        nn.init.xavier_normal_(self.encoder.position)
        with torch.no_grad():
            self.items.weight[n_items] = 0

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the model reads."""
        return self.config.max_length

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with the groups in which their histories are encoded."""
        return with_length_groups(queries)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the vectors of the configured scorer; of dimension 2 D for `fuse_score`."""
        if self.config.scorer == "seq":
            return self._embed_sequence(queries)
        if self.config.scorer == "graph":
            return self._embed_graph(queries)
        views = [self._embed_graph(queries), self._embed_sequence(queries)]
        if self.config.normalise_views:
            views = [
                Embeddings(functional.normalize(u, dim=1), functional.normalize(i, dim=1))
                for u, i in views
            ]
        (graph_users, graph_items), (seq_users, seq_items) = views
        weight = self.config.fusion_weight
        if self.config.scorer == "fuse_emb":
            users = weight * graph_users + (1 - weight) * seq_users
            return Embeddings(users, weight * graph_items + (1 - weight) * seq_items)
        users = torch.cat([weight * graph_users, (1 - weight) * seq_users], dim=1)
        return Embeddings(users, torch.cat([graph_items, seq_items], dim=1))

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return by how much next items are rotated, where states are compared with others'."""
        n_states = int(distributed.data_sum(len(batch.part("states", "GSAU").targets)))
        if not self.config.user_item_uniformity or n_states < 2:
            return ()
        return (int(torch.randint(1, n_states, (1,), generator=generator)),)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return L_GA + L_SA + γ (L_GU + L_SU), alignment and uniformity of both encoders."""
        if batch.states is None or batch.edges is None:
            raise ValueError("GSAU learns from states and edges; the batch lacks one of them.")
        graph_users, graph_items = self._propagate()
        user_ids, item_ids = batch.edges.queries.state_users, batch.edges.targets
        loss = self._align(graph_users[user_ids], graph_items[item_ids])

        states, table = self._embed_sequence(batch.states.queries)
        target_ids = batch.states.targets
        targets = table[target_ids]
        if self.config.rec:
            unit_states = functional.normalize(states, dim=1)
            loss = loss + cross_entropy(unit_states, table, target_ids, workspace=self.workspace)
        else:
            loss = loss + alignment(states, targets)
        loss = loss + self.config.gamma * (uniformity(states) + uniformity(targets))
        for shift in self.draws_of(batch, generator):
            loss = loss + self.config.gamma * cross_uniformity(states, targets, int(shift))
        if self.config.cross_view:
            state_users = graph_users[batch.states.queries.state_users]
            user_loss = self._align(states, state_users)
            cross_view = user_loss + self._align(targets, graph_items[target_ids])
            loss = loss + self.config.cross_view * cross_view
        return loss

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item, user and position embeddings and the transformer's weights."""
        position = self.encoder.position
        encoder: list[Tensor] = [p for p in self.encoder.parameters() if p is not position]
        return {
            "item": [self.items.weight],
            "user": [self.users.weight],
            "position": [position],
            "encoder": encoder,
        }

    def _align(self, left: Tensor, right: Tensor) -> Tensor:
        """Return alignment plus γ times the uniformity of paired vectors, each float[B, D]."""
        both = uniformity(left) + uniformity(right)
        return alignment(left, right) + self.config.gamma * both

    def _propagate(self, hidden: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the propagated vectors, float[U, D] and float[I, D]; see `LightGCN.propagate`."""

        def propagate() -> tuple[Tensor, Tensor]:
            items, layers = self.items.weight[: self.n_items], self.config.layers
            result: tuple[Tensor, Tensor] = self.graph(self.users.weight, items, layers, hidden)
            return result

        tables = [self.users.weight, self.items.weight]
        return self._cache.get(tables, propagate, cacheable=hidden is None)

    def _embed_sequence(self, queries: Queries) -> Embeddings:
        states = encode_queries(self.encoder, self.items, queries)
        return Embeddings(states, self.items.weight[: self.n_items])

    def _embed_graph(self, queries: Queries) -> Embeddings:
        users, items = self._propagate(queries.hidden_edges)
        return Embeddings(fold_in(queries, users, items), items)


def _xavier_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
