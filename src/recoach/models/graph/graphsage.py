"""GraphSAGE (Hamilton et al. 2017) for recommendation: mean aggregation over the user-item graph.

Users and items have embeddings in place of features. A layer is

    h' = act([W_self h ; W_neighbours mean of h over the neighbours])   (mean aggregator),

with ReLU except after the last layer, and without bias. The final vectors are divided by their
norm, and the score of an item is `scale` times the cosine with the user: without a scale a softmax
over 40,000 cosines gives an item at most 1.8e-4.

Departures: the mean is over all neighbours instead of 25 and 10 sampled ones, so that scores are
deterministic and a policy equals its frozen copy; the authors' paper normalises after each layer,
their code and this model after the last; the loss is that of recommendation instead of random
walks. There is no official code for recommendation.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import Embeddings, TrainingBatch
from recoach.models.graph.base import EdgeLossConfig, GraphRecommender
from recoach.models.graph.edge_losses import (
    batch_edges,
    bpr_of_vectors,
    distinct_rows,
    lookup,
    with_negatives,
)


class GraphSAGEConfig(EdgeLossConfig):
    """Settings of GraphSAGE."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the embeddings and of both halves of a layer; the vectors have 2 x dim."""
    layers: int = Field(default=2, ge=0, le=100)
    """Number of layers; 0 gives normalised embeddings."""
    share_weights: bool = True
    """One layer for users and items, or one for each."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the linear maps, in training only."""
    scale: float = Field(default=10.0, gt=0)
    """Factor of the cosine in the scores."""


class GraphSAGE(GraphRecommender):
    """Embeddings of nodes joined with the mean of their neighbours; scores are scaled cosines."""

    config: GraphSAGEConfig

    def __init__(self, config: GraphSAGEConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items, "mean")
        n_sides = 1 if config.share_weights else 2
        widths = [config.dim, *[2 * config.dim] * config.layers]
        self.layers = nn.ModuleList(
            nn.ModuleList(SAGELayer(width, config) for _ in range(n_sides))
            for width in widths[: config.layers]
        )

    def final_vectors(self, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Compute the vectors of length 1, see `propagate`."""
        users, items = self._propagated(hidden, self.layers)
        return functional.normalize(users, dim=1), functional.normalize(items, dim=1)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the vectors, those of users of length `scale`.

        An unknown user gets the mean over their history, of the same length.
        """
        states, items = super().embed(queries)
        return Embeddings(self.config.scale * functional.normalize(states, dim=1), items)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss of the scaled cosines."""
        edges = batch_edges(batch, "GraphSAGE")
        if self.config.loss != "bpr":
            users, items = self.final_vectors(None)
            return self.catalogue_loss(
                edges, Embeddings(self.config.scale * users, items), self.draws_of(batch, generator)
            )
        rows, edges = distinct_rows(with_negatives(edges, *self.draws_of(batch, generator)))
        users, items = self._final_rows(rows)
        return bpr_of_vectors(*lookup(edges, self.config.scale * users, items))

    def _final_rows(self, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the vectors of some users and items, computing only them in the last layer.

        Args:
            rows: int64[n] users and int64[m] items.
        """
        before = self._propagated(None, self.layers[:-1])
        vectors = before[0][rows[0]], before[1][rows[1]]
        for layer in self.layers[-1:]:
            vectors = _apply(layer, vectors, self.graph.rows_of_sums(*before, rows))
        return functional.normalize(vectors[0], dim=1), functional.normalize(vectors[1], dim=1)

    def _propagated(
        self, hidden: tuple[Tensor, Tensor] | None, layers: Iterable[nn.Module]
    ) -> tuple[Tensor, Tensor]:
        """Return the vectors after some of the first layers, with ReLU after all but the last."""
        vectors, weights = (self.users.weight, self.items.weight), self.graph.edge_weights(hidden)
        for number, layer in enumerate(layers, start=1):
            vectors = _apply(layer, vectors, self.graph.neighbour_sums(*vectors, weights))
            if number < len(self.layers):
                vectors = vectors[0].relu(), vectors[1].relu()
        return vectors


def _apply(
    layer: nn.Module, vectors: tuple[Tensor, Tensor], means: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the next vectors of users and items; `layer` has one `SAGELayer` or one per side."""
    sides = list(layer.children())
    return sides[0](vectors[0], means[0]), sides[-1](vectors[1], means[1])


class SAGELayer(nn.Module):
    """The linear maps of one layer, without activation.

    Args:
        width: dimension of the input.
        config: gives the dimension of each map and the dropout.
    """

    def __init__(self, width: int, config: GraphSAGEConfig) -> None:
        super().__init__()
        self.own, self.neighbours = (nn.Linear(width, config.dim, bias=False) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.own, self.neighbours):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, vectors: Tensor, means: Tensor) -> Tensor:
        """Return float[N, 2 dim] from the vectors of nodes and the means of their neighbours.

        Args:
            vectors: float[N, width].
            means: float[N, width].
        """
        parts = [self.own(self.dropout(vectors)), self.neighbours(self.dropout(means))]
        return torch.cat(parts, dim=1)
