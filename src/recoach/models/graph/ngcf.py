"""NGCF (Wang et al. 2019): nonlinear propagation over the user-item graph; the layers are joined.

With A^ the normalised adjacency matrix and * the elementwise product, a layer of the authors' code
is (`normalisation = "row"`, A^ = D^-1 (A + I); `activations = "two"`)

    e' = LeakyReLU(A^ e W1 + b1) + LeakyReLU((e * A^ e) W2 + b2),

and of the paper (Eq. 7; `symmetric`, L = D^-1/2 A D^-1/2; `one`)

    e' = LeakyReLU((L + I) e W1 + b1 + (e * L e) W2 + b2)

with slope 0.2. The next layer reads e' after message dropout; the final vector joins e^(0) and the
layers, each divided by its norm. The authors' loss is BPR (`loss = "bpr"`), with a penalty on the
final vectors; the default is cross-entropy over the catalogue, as for the other graph models.
The paper and the code of the authors disagree about the layer; the defaults are those of the code,
from which the published figures come, and the settings give the paper's. RecBole has the paper's
layer, but hands on the normalised vectors.

Departures from the authors' code: a batch has interactions instead of distinct users with one
interaction each; node dropout, which is off there unless a flag is set, is left out.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.models.base import Embeddings, TrainingBatch
from recoach.models.graph.base import EdgeLossConfig, GraphRecommender
from recoach.models.graph.edge_losses import (
    batch_edges,
    bpr_of_vectors,
    distinct_rows,
    half_squared_norm,
    lookup,
    with_negatives,
)

_SLOPE = 0.2


class NGCFConfig(EdgeLossConfig):
    """Settings of NGCF; the layers are by default those of the authors' code."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the embeddings and of each layer."""
    layers: int = Field(default=3, ge=0, le=100)
    """Number of propagation layers; the vectors have (layers + 1) x dim dimensions."""
    normalisation: Literal["row", "symmetric"] = "row"
    """D^-1 (A + I), as the authors' code, or D^-1/2 A D^-1/2, as the paper."""
    activations: Literal["two", "one"] = "two"
    """One of each half of a layer (the authors' code), or one of their sum (the paper)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Message dropout: on the output of each layer, in training only."""
    regularisation: float = Field(default=1e-5, ge=0)
    """Weight of half the squared norm of the final vectors of a batch."""


class NGCF(GraphRecommender):
    """Embeddings propagated by layers with weights; a state has the vector of its user."""

    config: NGCFConfig

    def __init__(self, config: NGCFConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items, config.normalisation)
        self.layers = nn.ModuleList(NGCFLayer(config) for _ in range(config.layers))

    def final_vectors(self, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Compute the concatenations of the layers, see `propagate`."""
        users, items = zip(*self._layer_vectors(hidden, self.layers), strict=True)
        return _join(users), _join(items)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss, plus the penalty on the final vectors of the batch."""
        edges = batch_edges(batch, "NGCF")
        if self.config.loss != "bpr":
            final = Embeddings(*self.final_vectors(None))
            ranking = self.catalogue_loss(edges, final, self.draws_of(batch, generator))
            return ranking + self.config.regularisation * half_squared_norm(lookup(edges, *final))
        edges = with_negatives(edges, *self.draws_of(batch, generator))
        rows, edges = distinct_rows(edges)
        vectors = lookup(edges, *self._final_rows(rows))
        return bpr_of_vectors(*vectors) + self.config.regularisation * half_squared_norm(vectors)

    def _final_rows(self, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the final vectors of some users and items, computing only them in the last layer.

        Args:
            rows: int64[n] users and int64[m] items.
        """
        *before, last = self._layer_vectors(None, self.layers[:-1])
        parts = [(users[rows[0]], items[rows[1]]) for users, items in (*before, last)]
        for layer in self.layers[-1:]:
            sums = self.graph.rows_of_sums(*last, rows)
            parts.append((layer(parts[-1][0], sums[0]), layer(parts[-1][1], sums[1])))
        users, items = zip(*parts, strict=True)
        return _join(users), _join(items)

    def _layer_vectors(
        self, hidden: tuple[Tensor, Tensor] | None, layers: Iterable[nn.Module]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the vectors of users and items before and after each layer, not normalised."""
        vectors, weights = (self.users.weight, self.items.weight), self.graph.edge_weights(hidden)
        result = [vectors]
        for layer in layers:
            sums = self.graph.neighbour_sums(*vectors, weights)
            vectors = layer(vectors[0], sums[0]), layer(vectors[1], sums[1])
            result.append(vectors)
        return result


class NGCFLayer(nn.Module):
    """One layer, from the vectors of nodes and the sums over their neighbours."""

    def __init__(self, config: NGCFConfig) -> None:
        super().__init__()
        self.sums, self.products = (nn.Linear(config.dim, config.dim) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        # The matrix of the authors has the loops of nodes to themselves; the paper adds them.
        self.adds_loops = config.normalisation == "symmetric"
        self.one_activation = config.activations == "one"
        for linear in (self.sums, self.products):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.xavier_uniform_(linear.bias[None])

    def forward(self, vectors: Tensor, sums: Tensor) -> Tensor:
        """Return the next vectors.

        Args:
            vectors: float[N, D].
            sums: float[N, D], the normalised adjacency matrix times the vectors.

        Returns:
            float[N, D], after dropout.
        """
        products = self.products(vectors * sums)
        sums = self.sums(sums + vectors if self.adds_loops else sums)
        if self.one_activation:
            result = functional.leaky_relu(sums + products, _SLOPE)
        else:
            result = functional.leaky_relu(sums, _SLOPE)
            result = result + functional.leaky_relu(products, _SLOPE)
        dropped: Tensor = self.dropout(result)
        return dropped


def _join(layers: tuple[Tensor, ...]) -> Tensor:
    """Return the concatenation of layers, float[N, D] each; all but the first are normalised."""
    first, *others = layers
    return torch.cat([first, *(functional.normalize(layer, dim=1) for layer in others)], dim=1)
