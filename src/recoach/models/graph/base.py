"""What the models of the user-item graph share: LightGCN, NGCF and GraphSAGE."""

from abc import abstractmethod
from dataclasses import replace

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
from recoach.models.graph.edge_losses import (
    EdgeLoss,
    Edges,
    ItemSample,
    distinct_users,
    edge_cross_entropy,
    sample_items,
)
from recoach.models.graph.propagation import Graph, Normalisation, PropagationCache
from recoach.models.popularity_sampler import PopularitySampler


class GraphConfig(StrictConfig):
    """Settings of every model of the user-item graph."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the embeddings."""
    layers: int = Field(default=2, ge=0, le=100)
    """Number of propagation layers."""


class EdgeLossConfig(GraphConfig):
    """Settings of a model of the user-item graph with a choice of losses."""

    loss: EdgeLoss = "ce"
    """BPR with one uniform negative, cross-entropy over the catalogue, or over a sample of it."""
    negatives: int = Field(default=2048, gt=0)
    """Items drawn in a step for `sampled_ce`, beside those of the batch."""


class GraphRecommender(DotProductRecommender):
    """Embeddings that are propagated over the user-item graph; a state has its user's vector.

    Args:
        config: settings.
        train: the training histories, which are the edges.
        n_items: size of the catalogue.
        normalisation: of the adjacency matrix.
    """

    needs = ("edges",)
    config: GraphConfig

    def __init__(
        self,
        config: GraphConfig,
        train: RaggedArray,
        n_items: int,
        normalisation: Normalisation = "symmetric",
    ) -> None:
        super().__init__(config, train, n_items)
        self.users = nn.Embedding(self.n_users, config.dim)
        self.items = nn.Embedding(n_items, config.dim)
        self.layers = nn.ModuleList()
        """The layers with weights, if the model has some; `parameter_groups` calls them encoder."""
        self.graph = Graph(train, n_items, normalisation)
        self.train_pairs = interaction_keys(train, n_items)
        for table in (self.users, self.items):
            nn.init.xavier_uniform_(table.weight)
        self._cache = PropagationCache()
        samples = isinstance(config, EdgeLossConfig) and config.loss == "sampled_ce"
        self.sampler = PopularitySampler(train, n_items, alpha=0) if samples else None

    @abstractmethod
    def final_vectors(self, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Compute the result of `propagate`."""

    @property
    def draws(self) -> bool:
        """Whether the propagation draws random numbers now, as dropout does in training mode."""
        return self.training and any(
            isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules()
        )

    def propagate(self, hidden: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the propagated vectors of all users and items.

        Without gradients the result is cached until the weights change, unless it is random.

        Args:
            hidden: (int64[H] users, int64[H] items) of edges to leave out, see `Graph`.

        Returns:
            float[U, D] and float[I, D].
        """

        def propagate() -> tuple[Tensor, Tensor]:
            return self.final_vectors(hidden)

        cacheable = hidden is None and not self.draws
        return self._cache.get(list(self.parameters()), propagate, cacheable=cacheable)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the propagated vectors; an unknown user gets the mean over their history."""
        users, items = self.propagate(queries.hidden_edges)
        return Embeddings(fold_in(queries, users, items), items)

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with their distinct users, whose softmax is computed once."""
        return replace(queries, prepared=distinct_users(queries.state_users))

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return a negative for each interaction (`bpr`) or a sample of items (`sampled_ce`)."""
        edges = batch.part("edges", type(self).__name__)
        if not isinstance(self.config, EdgeLossConfig) or self.config.loss == "ce":
            return ()
        if self.sampler is not None:
            return sample_items(self.sampler, edges.targets, self.config.negatives, generator)
        users = edges.queries.state_users
        return (draw_negatives(self.train_pairs, users, self.n_items, 1, generator)[:, 0],)

    def catalogue_loss(self, edges: Edges, vectors: Embeddings, draws: Draws) -> Tensor:
        """Return `edge_cross_entropy` over the catalogue, or over a sample with `sampled_ce`."""
        sample = ItemSample(*draws) if draws else None
        return edge_cross_entropy(edges, vectors, self.workspace, sample)

    @torch.no_grad()
    def materialize_propagation(self) -> None:
        """Replace the embeddings by their propagated vectors and set `layers` to 0.

        The embeddings then have the dimension of the propagated vectors, and layers with weights
        are removed.
        """
        was_training = self.training
        tables = self.eval().propagate()
        self.train(was_training)
        self.users, self.items = _embedding(tables[0]), _embedding(tables[1])
        self.layers = nn.ModuleList()
        update = {"layers": 0, "dim": tables[0].shape[1]}
        self.config = self.config.model_copy(update=update)
        self._cache = PropagationCache()

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the user embedding and the item embedding before the propagation, and layers."""
        groups: dict[GroupName, list[Tensor]] = {
            "user": [self.users.weight],
            "item": [self.items.weight],
        }
        weights: list[Tensor] = list(self.layers.parameters())
        return groups | {"encoder": weights} if weights else groups


def _embedding(vectors: Tensor) -> nn.Embedding:
    """Return float[N, D] vectors as a table of their own."""
    n_rows, dim = vectors.shape
    return nn.Embedding(n_rows, dim, _weight=vectors.clone())
