"""GSAU: graph and sequence under alignment and uniformity (Cao et al. 2024), and GSAU(rec).

Departures from the authors' code: padding is no row of the softmax; all positions of a history
may be trained in one pass; the partner of the user-item uniformity is a random rotation of the
batch, the simplest draw without a fixed point.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.batches import Queries
from recoach.data.split import RaggedArray
from recoach.models.base import Embeddings, GroupName, Recommender, TrainingBatch
from recoach.models.graph.propagation import Graph, Kept, fold_in
from recoach.models.losses import alignment, cross_entropy, cross_uniformity, uniformity
from recoach.models.sequence.sasrec import read_states
from recoach.models.sequence.transformer import EncoderConfig, SequenceEncoder


class GSAUConfig(EncoderConfig):
    """Settings of GSAU; `layers` serves both encoders, as in the authors' code."""

    rec: bool = False
    """GSAU(rec): cross-entropy in place of the sequential alignment."""
    gamma: float = Field(0.1, ge=0)
    """Weight of uniformity."""
    user_item_uniformity: bool = True
    """Also push states from other states' next items."""
    scorer: Literal["seq", "graph", "fuse_emb", "fuse_score"] = "seq"
    """What ranks: the sequence (as the authors do), the graph, mixed vectors (Eq. 3) or scores."""
    fusion_weight: float = Field(0.5, ge=0, le=1)
    """Share of the graph in the mixtures."""
    normalise_views: bool = False
    """Give each view's vectors unit length before they are mixed."""
    cross_view: float = Field(0.0, ge=0)
    """Weight of alignment and uniformity across the two views; 0 in the authors' code."""


class GSAU(Recommender):
    """A graph encoder and a sequence encoder that share their tables."""

    needs = ("states", "edges")
    regularises = True  # alignment and uniformity of both views
    config: GSAUConfig

    def __init__(self, config: GSAUConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = SequenceEncoder(config)
        self.graph = Graph(train, n_items)
        self._kept = Kept()
        self.apply(_xavier_init)
        nn.init.xavier_normal_(self.encoder.position)
        with torch.no_grad():
            self.items.weight[n_items] = 0

    @property
    def history_length(self) -> int:
        """Number of last items the model reads."""
        return self.config.max_length

    def embed(self, queries: Queries) -> Embeddings:
        """Return the vectors of the configured scorer; dimension 2 D for mixed scores."""
        if self.config.scorer == "seq":
            return self._sequence(queries)
        if self.config.scorer == "graph":
            return self._graph(queries)
        views = [self._graph(queries), self._sequence(queries)]
        if self.config.normalise_views:
            views = [
                Embeddings(functional.normalize(u, dim=1), functional.normalize(i, dim=1))
                for u, i in views
            ]
        (graph_users, graph_items), (seq_users, seq_items) = views
        share = self.config.fusion_weight
        if self.config.scorer == "fuse_emb":
            users = share * graph_users + (1 - share) * seq_users
            return Embeddings(users, share * graph_items + (1 - share) * seq_items)
        users = torch.cat([share * graph_users, (1 - share) * seq_users], dim=1)
        return Embeddings(users, torch.cat([graph_items, seq_items], dim=1))

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return L_GA + L_SA + γ (L_GU + L_SU), alignment and uniformity of both views."""
        if batch.states is None or batch.edges is None:
            raise ValueError("GSAU learns from states and edges")
        users, items = self._propagate()
        who, taken = batch.edges.queries.state_users, batch.edges.targets
        loss = self._aligned(users[who], items[taken])

        states, table = self._sequence(batch.states.queries)
        targets = batch.states.targets
        following = table[targets]
        if self.config.rec:
            loss = loss + cross_entropy(functional.normalize(states, dim=1), table, targets)
        else:
            loss = loss + alignment(states, following)
        loss = loss + self.config.gamma * (uniformity(states) + uniformity(following))
        count = int(distributed.data_sum(len(states)))
        if self.config.user_item_uniformity and count > 1:
            shift = int(torch.randint(1, count, (1,), generator=generator))
            loss = loss + self.config.gamma * cross_uniformity(states, following, shift)
        if self.config.cross_view:
            asking = batch.states.queries.state_users
            across = self._aligned(states, users[asking]) + self._aligned(following, items[targets])
            loss = loss + self.config.cross_view * across
        return loss

    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return the tables of items, users and positions, and the transformer."""
        position = self.encoder.position
        encoder: list[Tensor] = [p for p in self.encoder.parameters() if p is not position]
        return {
            "item": [self.items.weight],
            "user": [self.users.weight],
            "position": [position],
            "encoder": encoder,
        }

    def _aligned(self, left: Tensor, right: Tensor) -> Tensor:
        spread = uniformity(left) + uniformity(right)
        return alignment(left, right) + self.config.gamma * spread

    def _propagate(self, hidden: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        def propagated() -> tuple[Tensor, Tensor]:
            items, layers = self.items.weight[: self.n_items], self.config.layers
            both: tuple[Tensor, Tensor] = self.graph(self.users.weight, items, layers, hidden)
            return both

        tables = [self.users.weight, self.items.weight]
        return self._kept.get(tables, propagated, whole=hidden is None)

    def _sequence(self, queries: Queries) -> Embeddings:
        states = read_states(self.encoder, self.items, queries)
        return Embeddings(states, self.items.weight[: self.n_items])

    def _graph(self, queries: Queries) -> Embeddings:
        users, items = self._propagate(queries.hidden_edges)
        history = queries.history[queries.rows]
        return Embeddings(fold_in(queries.state_users, users, items, history, queries.ends), items)


def _xavier_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
