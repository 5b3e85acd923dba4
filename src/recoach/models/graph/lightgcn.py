"""LightGCN (He et al. 2020): the mean of linear propagations over the user-item graph.

e^(k+1) = D^-1/2 A D^-1/2 e^(k), and the final vectors are the mean of e^(0) .. e^(K) (Eq. 7, 8).

Departures: the default loss is cross-entropy over the catalogue, which converges in far fewer
epochs than BPR, the authors' loss (`loss = "bpr"`); the penalty is RecBole's or the authors'. It is
on the users and items of a batch, with BPR also on the negatives.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.models.base import Embeddings, TrainingBatch
from recoach.models.graph.base import EdgeLossConfig, GraphRecommender
from recoach.models.graph.edge_losses import (
    batch_edges,
    bpr_of_vectors,
    half_squared_norm,
    lookup,
    with_negatives,
)


class LightGCNConfig(EdgeLossConfig):
    """Settings of LightGCN; the defaults are RecBole's, but for the loss.

    With `penalty` and without `loss`, as earlier versions stored the settings, the loss is BPR.
    """

    layers: int = Field(default=2, ge=0, le=100)
    """Number of propagation layers (the authors use 3)."""
    regularisation: float = Field(default=1e-5, ge=0)
    """Weight of the penalty on the unpropagated embeddings of a batch."""
    penalty: Literal["norm", "squared"] = "norm"
    """Norm of the embeddings of a batch (RecBole), or half the squared norm (authors)."""

    @model_validator(mode="before")
    @classmethod
    def _add_former_loss(cls, values: object) -> object:
        """Add the only loss of earlier versions, which stored all settings but had no `loss`."""
        if isinstance(values, Mapping) and "penalty" in values and "loss" not in values:
            return {**values, "loss": "bpr"}
        return values


class LightGCN(GraphRecommender):
    """Embeddings propagated over the user-item graph; a state has the vector of its user."""

    config: LightGCNConfig

    def __init__(self, config: LightGCNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items, "symmetric")

    def final_vectors(self, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Compute the mean of the layers, see `propagate`."""
        tables = (self.users.weight, self.items.weight)
        result: tuple[Tensor, Tensor] = self.graph(*tables, self.config.layers, hidden)
        return result

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss, plus the penalty on the unpropagated vectors of the batch."""
        edges, tables = batch_edges(batch, "LightGCN"), (self.users.weight, self.items.weight)
        draws = self.draws_of(batch, generator)
        if self.config.loss != "bpr":
            ranking = self.catalogue_loss(edges, Embeddings(*self.propagate()), draws)
        else:
            edges = with_negatives(edges, *draws)
            ranking = bpr_of_vectors(*lookup(edges, *self.propagate()))
        return ranking + self.config.regularisation * self._penalty(lookup(edges, *tables))

    def _penalty(self, vectors: tuple[Tensor, ...]) -> Tensor:
        """Return the penalty on the vectors of users, positives and negatives, each float[B, D]."""
        if self.config.penalty == "squared":
            return half_squared_norm(vectors)
        batch_size = distributed.data_sum(len(vectors[0]))
        norms = [distributed.all_gather_with_grad(part).norm() for part in vectors]
        return distributed.scale_replicated(torch.stack(norms).sum() / batch_size)
