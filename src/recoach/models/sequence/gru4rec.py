"""GRU4Rec: a recurrent network with RecBole's layers or the authors', and the authors' losses.

The defaults are RecBole's model (Tan et al. 2016): a GRU without biases, then a linear layer, all
items in the softmax. Departures from RecBole: all positions of a history are trained in one forward
pass instead of one row per prefix; the padding item is left out of the softmax and its embedding
stays zero.

`architecture = "original"` and the losses `sampled_ce` and `bpr_max` are those of Hidasi &
Karatzoglou (CIKM 2018) as in the authors' code (`GRU4Rec_PyTorch_Official`): the state is the GRU's
output; negatives are the other targets of the batch and items drawn with probability proportional
to count^`sampling_alpha`, the same for all states. Departures from that code:

- Batches are random histories whose positions are all trained, by backpropagation through the whole
  history. The authors' batches walk through sessions in parallel, one item a step, and cut the
  gradient after each. Their batches have one state of a session; here, targets of a state's own
  session are therefore no negatives.
- An item that is the target is not a negative of it.
- Dropout is applied to the GRU's output, not to the state that it carries on.
- `logq` subtracts logs of probabilities that sum to 1 over the catalogue, from targets and from
  the drawn items. The authors' are logs of counts and of counts^`sampling_alpha`, which leave a
  constant difference between the two groups.
"""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.config import StrictConfig
from recoach.data.batches import Batch
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
from recoach.models.losses import bpr, bpr_max, cross_entropy, sampled_cross_entropy
from recoach.models.popularity_sampler import PopularitySampler
from recoach.models.products import product_dtype
from recoach.models.sequence.encoding import encode_queries, with_length_groups
from recoach.models.sequence.event_types import EventEmbedding
from recoach.models.sharded_embedding import first_local_item

_LOSSES_OF = {
    "negatives": ("sampled_ce", "bpr_max"),
    "sampling_alpha": ("sampled_ce", "bpr_max"),
    "logq": ("sampled_ce",),
    "bpreg": ("bpr_max",),
    "elu": ("bpr_max",),
}
"""Setting -> the losses that read it."""


class GRU4RecConfig(StrictConfig):
    """Settings of GRU4Rec; the defaults are RecBole's."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the item embeddings."""
    hidden_dim: int = Field(default=128, gt=0)
    """Dimension of the GRU's hidden state; with `original` it is `dim`."""
    layers: int = Field(default=1, gt=0, le=100)
    """Number of GRU layers."""
    architecture: Literal["recbole", "original"] = "recbole"
    """A GRU without biases and a linear layer, or the authors' GRU, whose output is the state."""
    constrained_embedding: bool = True
    """Read and score items by the same table."""
    item_bias: bool = False
    """Learn a bias for the score of each item."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout rate of the GRU's inputs."""
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of the GRU's outputs."""
    max_length: int = Field(default=50, gt=0)
    """Number of last items of a history that the model reads."""
    event_embedding: bool = False
    """Add a vector of the event type (view, cart, purchase) to that of each item of the history."""
    loss: Literal["ce", "bpr", "sampled_ce", "bpr_max"] = "ce"
    """Cross-entropy over all items; BPR with one uniform negative; cross-entropy or BPR-max with
    the other targets of the batch and `negatives` items as negatives."""
    negatives: int = Field(default=2048, gt=0)
    """Items drawn in a step, for `sampled_ce` and `bpr_max`."""
    sampling_alpha: float = Field(default=0.75, ge=0)
    """They are drawn with probability proportional to count^`sampling_alpha`; 0 is uniform."""
    logq: float = Field(default=1.0, ge=0)
    """Part of the log-probability of being a negative that `sampled_ce` subtracts from a score; 1
    estimates the cross-entropy over all items."""
    bpreg: float = Field(default=1.0, ge=0)
    """Weight of the squared scores of the negatives in `bpr_max`."""
    elu: float = Field(default=1.0, ge=0)
    """`bpr_max` takes ELU of the scores with this parameter; 0 takes them as they are."""

    @model_validator(mode="after")
    def _check_effect(self) -> Self:
        fields = type(self).model_fields
        for name, losses in _LOSSES_OF.items():
            if self.loss not in losses and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} has no effect with loss {self.loss!r}; it belongs to "
                    f"{' and '.join(losses)}"
                )
        if self.architecture == "original" and self.hidden_dim not in (
            self.dim,
            fields["hidden_dim"].default,
        ):
            raise ValueError(
                "hidden_dim has no effect with architecture 'original', whose state has the "
                "dimension dim; leave it out"
            )
        return self


class GRU4Rec(DotProductRecommender):
    """A recurrent network over the last items of a history."""

    needs = ("states",)
    takes_weights = True
    knows_users = False
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.encoder = _GRUEncoder(config)
        if config.loss == "bpr":
            self.train_pairs = interaction_keys(train, n_items)
        nn.init.xavier_normal_(self.items.weight)
        self.input_items = None
        if not config.constrained_embedding:
            self.input_items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
            nn.init.xavier_normal_(self.input_items.weight)
        self.events = None
        if config.event_embedding:
            self.events, self.reads = EventEmbedding(train, config.dim), ("event_type",)
            nn.init.xavier_normal_(self.events.table.weight)
        with torch.no_grad():
            for table in self._item_tables():
                table.weight[n_items] = 0
        self.bias = nn.Parameter(torch.zeros(n_items, 1)) if config.item_bias else None
        self.sampler = None
        if config.loss in _LOSSES_OF["negatives"]:
            self.sampler = PopularitySampler(train, n_items, config.sampling_alpha)

    @property
    def shardable(self) -> bool:
        """Whether the item embedding can be sharded: the only table, with loss `ce`."""
        config = self.config
        return config.loss == "ce" and config.constrained_embedding and not config.item_bias

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the model reads."""
        return self.config.max_length

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with the groups in which their histories are encoded."""
        return with_length_groups(queries)

    def embed(self, queries: Queries) -> Embeddings:
        """Return the state after each query's last item, and the item embeddings.

        With `item_bias` both have one more coordinate, 1 and the bias of the item.
        """
        items = self.items.weight[: self.n_items]
        if self.bias is not None:
            items = torch.cat([items, self.bias], dim=1)
        return Embeddings(self._states(queries), items)

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return the negatives: one for each next item, or some that all states share."""
        if self.sampler is not None:
            return (self.sampler.draw(self.config.negatives, generator),)
        if self.config.loss == "ce":
            return ()
        users = batch.part("states", "GRU4Rec").queries.state_users
        return (draw_negatives(self.train_pairs, users, self.n_items, 1, generator),)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the configured loss of the next items."""
        states = batch.part("states", "GRU4Rec")
        if self.sampler is not None:
            return self._sampled_loss(states, self.sampler, *self.draws_of(batch, generator))
        queries, _, targets, weights = states
        users, items = self.embed(queries)
        if self.config.loss == "ce":
            first_item = first_local_item(self)
            return cross_entropy(users, items, targets, first_item, self.workspace, weights)
        (negatives,) = self.draws_of(batch, generator)
        positive = (users * items[targets]).sum(dim=1)
        return bpr(positive, (users * items[negatives[:, 0]]).sum(dim=1), weights)

    def _sampled_loss(
        self, batch: Batch, sampler: PopularitySampler, drawn_items: Tensor
    ) -> Tensor:
        """Return the loss with the targets of the batch and drawn items as shared negatives."""
        config, targets, users = self.config, batch.targets, batch.queries.state_users
        batch_items, batch_users = (distributed.all_gather(ids) for ids in (targets, users))
        negatives = torch.cat([batch_items, drawn_items])
        states = self._states(batch.queries)
        vectors = self._vectors_of(torch.cat([targets, negatives]))
        positive = (states * vectors[: len(targets)]).sum(dim=1)
        negative = _products(states, vectors[len(targets) :])
        masked = targets[:, None] == negatives
        # The other targets of a user are next to certain to be in the batch, whatever their share.
        masked[:, : len(batch_users)] |= users[:, None] == batch_users
        if config.loss == "bpr_max":
            if config.elu:
                positive, negative = (functional.elu(s, config.elu) for s in (positive, negative))
            negative = negative.masked_fill_(masked, -torch.inf)
            return bpr_max(positive, negative, config.bpreg, batch.weights)
        log_q = torch.cat([sampler.log_shares[batch_items], sampler.log_p[drawn_items]])
        positive = positive - config.logq * sampler.log_shares[targets]
        negative = negative.sub_(config.logq * log_q)
        negative = negative.masked_fill_(masked, -torch.inf)
        return sampled_cross_entropy(positive, negative, batch.weights)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item embeddings and biases, and the other weights."""
        items: list[Tensor] = [table.weight for table in self._item_tables()]
        items += [] if self.bias is None else [self.bias]
        events = [] if self.events is None else self.events.parameters()
        return {"item": items, "encoder": [*self.encoder.parameters(), *events]}

    def _item_tables(self) -> list[nn.Embedding]:
        return [self.items] if self.input_items is None else [self.items, self.input_items]

    def _states(self, queries: Queries) -> Tensor:
        states = encode_queries(self.encoder, self._item_tables()[-1], queries, self.events)
        if self.bias is None:
            return states
        return torch.cat([states, states.new_ones(len(states), 1)], dim=1)

    def _vectors_of(self, items: Tensor) -> Tensor:
        vectors: Tensor = self.items(items)
        if self.bias is None:
            return vectors
        bias = functional.embedding(items, self.bias, sparse=self.items.sparse)
        return torch.cat([vectors, bias], dim=1)


def _products(states: Tensor, items: Tensor) -> Tensor:
    """Return float[B, N], the products of all pairs, in bfloat16 where that is faster."""
    dtype = product_dtype(items)
    return (states.to(dtype) @ items.to(dtype).T).to(states.dtype)


class _GRUEncoder(nn.Module):
    """Return one state after each item of a history: a causal encoder."""

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        self.dropout, self.hidden_dropout = map(nn.Dropout, (config.dropout, config.hidden_dropout))
        original = config.architecture == "original"
        width = config.dim if original else config.hidden_dim
        self.gru = nn.GRU(config.dim, width, config.layers, bias=original, batch_first=True)
        self.output = nn.Identity() if original else nn.Linear(width, config.dim)
        for weight in self.gru.parameters():
            if not original:
                nn.init.xavier_uniform_(weight)
            elif weight.ndim == 1:
                nn.init.zeros_(weight)
            else:  # each of the three gates by itself
                scale = math.sqrt(6 / (width + weight.shape[1]))
                nn.init.uniform_(weight, -scale, scale)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # cuDNN computes no gradient in evaluation mode; a GRU without dropout does not change.
        self.gru.train()
        return self

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        del lengths  # padding stands on the right, after all states that are used
        states, _ = self.gru(self.dropout(vectors))
        result: Tensor = self.output(self.hidden_dropout(states))
        return result
