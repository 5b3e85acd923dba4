"""GRU4Rec (Tan et al. 2016) as in RecBole: a GRU without biases, then a linear layer.

Departures from RecBole: all positions of a history are trained in one forward pass instead of one
row per prefix; the padding item is left out of the softmax and its embedding stays zero.
"""

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

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
from recoach.models.losses import bpr, cross_entropy
from recoach.models.sequence.encoding import encode_queries
from recoach.models.sharded_embedding import first_local_item


class GRU4RecConfig(StrictConfig):
    """Settings of GRU4Rec; the defaults are RecBole's."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the item embeddings."""
    hidden_dim: int = Field(default=128, gt=0)
    """Dimension of the GRU's hidden state."""
    layers: int = Field(default=1, gt=0, le=100)
    """Number of GRU layers."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout rate of the GRU's inputs."""
    max_length: int = Field(default=50, gt=0)
    """Number of last items of a history that the model reads."""
    loss: Literal["ce", "bpr"] = "ce"
    """Cross-entropy over all items, or BPR with one uniform negative."""


class GRU4Rec(DotProductRecommender):
    """A recurrent network over the last items of a history, with tied item embeddings."""

    needs = ("states",)
    knows_users = False
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = _GRUEncoder(config)
        if config.loss == "bpr":
            self.register_buffer("train_pairs", interaction_keys(train, n_items), persistent=False)
        nn.init.xavier_normal_(self.items.weight)
        with torch.no_grad():
            self.items.weight[n_items] = 0

    @property
    def shardable(self) -> bool:
        """Whether the item embedding can be sharded: with `ce`, which only needs the softmax."""
        return self.config.loss == "ce"

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the model reads."""
        return self.config.max_length

    def embed(self, queries: Queries) -> Embeddings:
        """Return the state after each query's last item, and the item embeddings."""
        states = encode_queries(self.encoder, self.items, queries)
        return Embeddings(states, self.items.weight[: self.n_items])

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss of the next items."""
        if batch.states is None:
            raise ValueError("GRU4Rec learns from states; the batch has none.")
        queries, targets = batch.states.queries, batch.states.targets
        users, items = self.embed(queries)
        if self.config.loss == "ce":
            return cross_entropy(users, items, targets, first_local_item(self), self.workspace)
        train_pairs = self.get_buffer("train_pairs")
        negatives = draw_negatives(train_pairs, queries.state_users, self.n_items, 1, generator)
        positive = (users * items[targets]).sum(dim=1)
        return bpr(positive, (users * items[negatives[:, 0]]).sum(dim=1))

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item embedding and the network's weights."""
        return {"item": [self.items.weight], "encoder": list(self.encoder.parameters())}


class _GRUEncoder(nn.Module):
    """Return one state after each item of a history: a causal encoder."""

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
        # cuDNN computes no gradient in evaluation mode; a GRU without dropout does not change.
        self.gru.train()
        return self

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        del lengths  # padding stands on the right, after all states that are used
        states, _ = self.gru(self.dropout(vectors))
        result: Tensor = self.output(states)
        return result
