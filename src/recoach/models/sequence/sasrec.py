"""SASRec (Kang & McAuley 2018), with the blocks of RecBole, the original code, LiGR or HSTU.

Departures from RecBole: all positions of a history are trained in one forward pass instead of one
row per prefix; the padding item is left out of the softmax and its embedding stays zero.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

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
from recoach.models.losses import binary_cross_entropy, cross_entropy, sampled_cross_entropy
from recoach.models.sequence.encoding import encode_queries, with_length_groups
from recoach.models.sequence.event_types import EventEmbedding
from recoach.models.sequence.transformer import EncoderConfig, SequenceEncoder
from recoach.models.sharded_embedding import first_local_item


class SASRecConfig(EncoderConfig):
    """Settings of SASRec."""

    loss: Literal["ce", "bce", "sampled_ce"] = "ce"
    """Cross-entropy over all items, binary cross-entropy or cross-entropy with negatives."""
    negatives: int = Field(default=1, gt=0)
    """Negative items per target, for the losses `bce` and `sampled_ce`."""
    event_embedding: bool = False
    """Add a vector of the event type (view, cart, purchase) to that of each item of the history."""


class SASRec(DotProductRecommender):
    """A causal transformer over the last items of a history, with tied item embeddings."""

    needs = ("states",)
    takes_weights = True
    knows_users = False
    config: SASRecConfig

    def __init__(self, config: SASRecConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = SequenceEncoder(config)
        self.events = EventEmbedding(train, config.dim) if config.event_embedding else None
        self.reads = ("event_type",) if config.event_embedding else ()
        if config.loss != "ce":
            self.train_pairs = interaction_keys(train, n_items)
        self.apply(_normal_init)
        nn.init.normal_(self.encoder.position, std=0.02)
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

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with the groups in which their histories are encoded."""
        return with_length_groups(queries)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the state after each query's last item, and the item embeddings."""
        states = encode_queries(self.encoder, self.items, queries, self.events)
        return Embeddings(states, self.items.weight[: self.n_items])

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return the negatives of each next item, with the losses that have some."""
        if self.config.loss == "ce":
            return ()
        users, count = batch.part("states", "SASRec").queries.state_users, self.config.negatives
        return (draw_negatives(self.train_pairs, users, self.n_items, count, generator),)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss of the next items."""
        queries, _, targets, weights = batch.part("states", "SASRec")
        users, items = self.embed(queries)
        if self.config.loss == "ce":
            first_item = first_local_item(self)
            return cross_entropy(users, items, targets, first_item, self.workspace, weights)
        (negative_ids,) = self.draws_of(batch, generator)
        positive = (users * items[targets]).sum(dim=1)
        negative = torch.einsum("bd,bnd->bn", users, items[negative_ids])
        loss = binary_cross_entropy if self.config.loss == "bce" else sampled_cross_entropy
        return loss(positive, negative, weights)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item embedding, the position embedding and the other weights."""
        position = self.encoder.position
        encoder: list[Tensor] = [p for p in self.encoder.parameters() if p is not position]
        encoder += [] if self.events is None else self.events.parameters()
        return {"item": [self.items.weight], "position": [position], "encoder": encoder}


def _normal_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
