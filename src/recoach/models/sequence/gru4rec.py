"""GRU4Rec (Tan et al. 2016) as RecBole defines it: a GRU without biases, then a linear layer.

Departures: all positions of a history are trained in one pass instead of a row for every prefix;
padding is kept out of the softmax and its row is zero.
"""

from typing import Literal, Self

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
from recoach.models.losses import bpr, cross_entropy
from recoach.models.sequence.sasrec import read_states
from recoach.models.sharded_embedding import first_local_item


class GRU4RecConfig(BaseModel):
    """Settings of GRU4Rec; the defaults are RecBole's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: int = Field(64, gt=0)
    """Length of the vectors."""
    hidden_dim: int = Field(128, gt=0)
    """Width of the GRU."""
    layers: int = Field(1, gt=0, le=100)
    """Number of GRU layers."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout of the items read."""
    max_length: int = Field(50, gt=0)
    """Number of last items read."""
    loss: Literal["ce", "bpr"] = "ce"
    """Softmax over the whole catalogue, or BPR with one uniform negative."""


class GRU4Rec(Recommender):
    """A recurrent network over the last items, scored with the table they are read from."""

    needs = ("states",)
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = _Recurrent(config)
        if config.loss == "bpr":
            self.register_buffer("known", interaction_keys(train, n_items), persistent=False)
        nn.init.xavier_normal_(self.items.weight)
        with torch.no_grad():
            self.items.weight[n_items] = 0

    @property
    def shardable(self) -> bool:
        """Whether the item table may lie with several processes: the softmax needs no more."""
        return self.config.loss == "ce"

    @property
    def history_length(self) -> int:
        """Number of last items the model reads."""
        return self.config.max_length

    def embed(self, queries: Queries) -> Embeddings:
        """Return the state after each query's last item, and the item table."""
        states = read_states(self.encoder, self.items, queries)
        return Embeddings(states, self.items.weight[: self.n_items])

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss of the next items."""
        if batch.states is None:
            raise ValueError("GRU4Rec learns from states")
        queries, targets = batch.states.queries, batch.states.targets
        users, items = self.embed(queries)
        if self.config.loss == "ce":
            return cross_entropy(users, items, targets, first_local_item(self))
        who, known = queries.state_users, self.get_buffer("known")
        other = draw_negatives(known, who, self.n_items, 1, generator)[:, 0]
        return bpr((users * items[targets]).sum(dim=1), (users * items[other]).sum(dim=1))

    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return the item table and the network."""
        return {"item": [self.items.weight], "encoder": list(self.encoder.parameters())}


class _Recurrent(nn.Module):
    """Turn the vectors of a history into one state after each of its items."""

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(
            config.dim, config.hidden_dim, config.layers, bias=False, batch_first=True
        )
        self.output = nn.Linear(config.hidden_dim, config.dim)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # cuDNN takes no gradient outside training mode; the GRU, without dropout, has but one.
        self.gru.train()
        return self

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        del lengths  # what is read from left to right never meets the padding on its right
        states, _ = self.gru(self.dropout(vectors))
        result: Tensor = self.output(states)
        return result
