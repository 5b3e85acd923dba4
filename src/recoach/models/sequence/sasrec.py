"""SASRec (Kang & McAuley 2018), as RecBole and as the original define it.

Departures from RecBole: all positions of a history are trained in one pass instead of a row for
every prefix; padding is kept out of the softmax and its row is zero.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
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
from recoach.models.losses import binary_cross_entropy, cross_entropy, sampled_cross_entropy
from recoach.models.sequence.transformer import EncoderConfig, SequenceEncoder
from recoach.models.sharded_embedding import first_local_item

_SHORT = 8
_WASTE = 1.5
"""Places a row may take for each item before rows are encoded in groups."""


class SASRecConfig(EncoderConfig):
    """Settings of SASRec."""

    loss: Literal["ce", "bce", "sampled_ce"] = "ce"
    """Softmax over the whole catalogue, one-against-one logistic, or softmax over a sample."""
    negatives: int = Field(1, gt=0)
    """Items drawn against each target by `bce` and `sampled_ce`."""


class SASRec(Recommender):
    """A causal transformer over the last items, scored with the table they are read from."""

    needs = ("states",)
    config: SASRecConfig

    def __init__(self, config: SASRecConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = SequenceEncoder(config)
        if config.loss != "ce":
            self.register_buffer("known", interaction_keys(train, n_items), persistent=False)
        self.apply(_normal_init)
        nn.init.normal_(self.encoder.position, std=0.02)
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
            raise ValueError("SASRec learns from states")
        queries, targets = batch.states.queries, batch.states.targets
        users, items = self.embed(queries)
        if self.config.loss == "ce":
            return cross_entropy(users, items, targets, first_local_item(self))
        drawn = draw_negatives(
            self.get_buffer("known"),
            queries.state_users,
            self.n_items,
            self.config.negatives,
            generator,
        )
        positive = (users * items[targets]).sum(dim=1)
        negative = torch.einsum("bd,bnd->bn", users, items[drawn])
        chosen = binary_cross_entropy if self.config.loss == "bce" else sampled_cross_entropy
        return chosen(positive, negative)

    def tables(self) -> dict[GroupName, list[Tensor]]:
        """Return the item table, the positions and the transformer."""
        position = self.encoder.position
        encoder: list[Tensor] = [p for p in self.encoder.parameters() if p is not position]
        return {"item": [self.items.weight], "position": [position], "encoder": encoder}


def read_states(encoder: nn.Module, items: nn.Embedding, queries: Queries) -> Tensor:
    """Encode the rows of queries and pick the state after each query's last item.

    Rows of like length are encoded together: one long history does not pad all others.

    Args:
        encoder: causal; called with float[R, T, D] and int64[R] lengths.
        items: the table histories are read with.
        queries: B states; one with an empty history gets zeros.

    Returns:
        float[B, D].
    """
    if queries.history.shape[1] == 0:
        return items.weight.new_zeros(len(queries), items.embedding_dim)
    first = torch.zeros_like(queries.lengths)
    parts, count = [], 0
    for rows, width in _groups(queries):
        states = encoder(items(queries.history[rows, :width]), queries.lengths[rows])
        first[rows] = count + torch.arange(len(states), device=first.device) * width
        parts.append(states.flatten(0, 1))
        count += len(parts[-1])
    picked = torch.cat(parts)[first[queries.rows] + (queries.ends - 1).clamp(min=0)]
    return picked * (queries.ends > 0)[:, None]


def _groups(queries: Queries) -> Iterator[tuple[slice | Tensor, int]]:
    """Yield (rows, width): all at once, or by powers of two where padding would outweigh items."""
    lengths, width = queries.lengths, queries.history.shape[1]
    if torch.compiler.is_compiling():  # a graph has one way through it, whatever the lengths
        yield slice(None), width
        return
    if width <= _SHORT or width * len(lengths) <= _WASTE * int(lengths.sum()):
        yield slice(None), width
        return
    least, most = 0, _SHORT
    while least < width:
        rows = torch.nonzero((lengths > least) & (lengths <= most))[:, 0]
        if len(rows):
            yield rows, min(most, width)
        least, most = most, 2 * most


def _normal_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
