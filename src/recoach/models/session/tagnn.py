"""TAGNN (Yu et al. 2020, "TAGNN: Target Attentive Graph Neural Networks", SIGIR).

Graph and gated graph layer are those of SR-GNN. The session vector has softmax attention over
positions, s = W3 [sum_i alpha_i h_i ; h_last] + b3; each item t adds an attention vector of its
own over the positions,

    beta_{t,i} = softmax_i(e_t · W_t h_i),   score_t = (s + sum_i beta_{t,i} h_i) · e_t

so that scores are no dot products of a state's and an item's vector. They are computed without a
states × items × dimension tensor, see `target_attention`; the loss is cross-entropy.

The official code is followed in adding the attention vector to s; the paper concatenates it with
the other two before W3. Departures from the code: its softmaxes run over padding positions as
well (alpha is masked afterwards, beta not at all), so that its scores depend on the longest
session of the data; here they run over the positions of the session alone, and no setting
reproduces the padding. Cosine scores (`normalise` of the other session models) would need the norm
of a vector for each state and item, and are not offered.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import GroupName, Recommender, TrainingBatch
from recoach.models.session.gated import GatedGraphLayer
from recoach.models.session.graph import SessionGraph, session_graph
from recoach.models.session.readout import SoftAttention
from recoach.models.session.target_attention import (
    AttentionStates,
    attention_cross_entropy,
    attention_scores,
)


class TAGNNConfig(StrictConfig):
    """Settings of TAGNN."""

    dim: int = Field(default=100, gt=0)
    """Dimension of the embeddings and of the states."""
    max_length: int = Field(default=50, gt=0)
    """Number of last items of a history that the model reads."""
    steps: int = Field(default=1, gt=0, le=100)
    """Steps of the gated graph layer."""
    edges: Literal["binary", "count"] = "binary"
    """Weigh neighbours equally (official code), or by the number of transitions (paper)."""


class TAGNN(Recommender):
    """A gated graph network over the items of a session, with attention of each scored item."""

    needs = ("states",)
    knows_users = False
    scores_at_once = 2**24
    config: TAGNNConfig

    def __init__(self, config: TAGNNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items, config.dim)
        self.layer = GatedGraphLayer(config.dim, config.steps, config.edges)
        self.readout = SoftAttention(config.dim, softmax=True)
        self.output = nn.Linear(2 * config.dim, config.dim)
        self.target = nn.Linear(config.dim, config.dim, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(config.dim**-0.5), config.dim**-0.5)

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the model reads."""
        return self.config.max_length

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with the graphs of their histories."""
        return replace(queries, prepared=session_graph(queries, self.n_items))

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the scores of items for B states, 0 for an empty history, see `Recommender`."""
        vectors = self.items.weight if items is None else self.items(items)
        return attention_scores(self._encode(queries), vectors)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy of the next items over the catalogue."""
        del generator  # nothing is drawn
        states = batch.part("states", "TAGNN")
        encoded = self._encode(states.queries)
        return attention_cross_entropy(encoded, self.items.weight, states.targets)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item table and the other weights."""
        item = self.items.weight
        return {"item": [item], "encoder": [p for p in self.parameters() if p is not item]}

    def _encode(self, queries: Queries) -> AttentionStates:
        """Return the session vectors, zero for an empty history, and their nodes."""
        table, graph = self.items.weight, queries.prepared
        if not isinstance(graph, SessionGraph):
            graph = session_graph(queries, self.n_items).to(table.device)
        if not graph.n_nodes:
            states = table.new_zeros(len(queries), self.config.dim)
            return AttentionStates(states, table[:0], table[:0], graph.node_states, graph.counts)
        nodes = self.layer(graph, self.items(graph.node_items))
        last = functional.embedding(graph.last_nodes, nodes)
        session = self.readout(graph, nodes, last)
        states = self.output(torch.cat([session, last], dim=1))
        states = states.masked_fill(graph.is_empty[:, None], 0.0)
        return AttentionStates(
            states, nodes, self.target(nodes), graph.node_states, graph.counts, graph.host_states
        )
