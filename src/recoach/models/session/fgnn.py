"""FGNN (Qiu et al. 2019, "Rethinking the Item Order in Session-based Recommendation", CIKM).

Layers of graph attention whose logits read the number of transitions (WGAT), then Set2Set with a
GRU as the readout; scores are dot products with the item table, the loss is cross-entropy.

The official repository lacks the module that joins the two parts; the name of its log says eight
heads, then one, and no activation, which are the defaults here. `activation = "elu"` is the usual
choice between layers of graph attention. Attention is normalised over the edges into a node: the
official code normalises over row 0 of the edges, which was the receiver in the library it was
written for. The last click enters by the graph alone, as in the code.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.models.segments import neighbour_sum, of_segments, segment_softmax, segment_sum
from recoach.models.session.base import SessionConfig, SessionModel
from recoach.models.session.graph import Edges, SessionGraph, with_self_loops


class FGNNConfig(SessionConfig):
    """Settings of FGNN."""

    layers: int = Field(default=2, gt=0, le=100)
    """Layers of graph attention; all but the last have several heads, which are concatenated."""
    heads: int = Field(default=8, gt=0)
    """Heads of every layer but the last, each of dimension `dim`."""
    steps: int = Field(default=3, gt=0, le=100)
    """Steps of Set2Set."""
    activation: Literal["none", "elu"] = "none"
    """Function between layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of the attention weights."""


class FGNN(SessionModel):
    """Weighted graph attention over the items of a session, read by Set2Set."""

    config: FGNNConfig

    def __init__(self, config: FGNNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        heads = [config.heads] * (config.layers - 1) + [1]
        dims = [config.dim] + [config.dim * config.heads] * (config.layers - 1)
        self.layers = nn.ModuleList(
            WeightedGraphAttention(dim, config.dim, count, config.dropout)
            for dim, count in zip(dims, heads, strict=True)
        )
        self.readout = Set2Set(config.dim, config.steps)
        self.output = nn.Linear(2 * config.dim, config.dim, bias=False)
        self.init_weights()

    def encode(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return the states, see `SessionModel`."""
        edges = with_self_loops(graph, graph.edge_counts.to(nodes.dtype))
        for number, layer in enumerate(self.layers):
            if number and self.config.activation == "elu":
                nodes = functional.elu(nodes)
            nodes = layer(edges, nodes)
        states: Tensor = self.output(self.readout(graph, nodes))
        return states


class WeightedGraphAttention(nn.Module):
    """Graph attention with the number of transitions as a feature of an edge.

    The logit of an edge j → i with n transitions is LeakyReLU(a · [W h_i ; W h_j ; n]) with slope
    0.2, its weight the softmax over all edges into i, and the result the weighted sum of the W h_j.

    Args:
        in_dim: of the vectors of the nodes.
        out_dim: of each head.
        heads: concatenated in the result.
        dropout: rate of the attention weights.
    """

    def __init__(self, in_dim: int, out_dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.linear = nn.Linear(in_dim, heads * out_dim, bias=False)
        self.of_receiver = nn.Parameter(torch.empty(heads, out_dim))
        self.of_source = nn.Parameter(torch.empty(heads, out_dim))
        self.of_count = nn.Parameter(torch.empty(heads))

    def forward(self, edges: Edges, nodes: Tensor) -> Tensor:
        """Return float[N, heads * out_dim].

        Args:
            edges: E edges between N nodes with the numbers of transitions as weights; each node has
                an edge to itself.
            nodes: float[N, in_dim].
        """
        n_nodes = len(nodes)
        vectors = self.linear(nodes).view(n_nodes, self.heads, -1)
        receiver = of_segments((vectors * self.of_receiver).sum(dim=2), edges.receivers)
        source = functional.embedding(edges.sources, (vectors * self.of_source).sum(dim=2))
        logits = receiver + source + edges.weights[:, None] * self.of_count
        weights = segment_softmax(functional.leaky_relu(logits, 0.2), edges.receivers, n_nodes)
        weights = functional.dropout(weights, self.dropout, self.training)
        # One sum for all heads, whose nodes are numbered one head after another.
        first = torch.arange(self.heads, device=nodes.device)[:, None] * n_nodes
        sums = neighbour_sum(
            vectors.transpose(0, 1).reshape(self.heads * n_nodes, -1),
            weights.T.reshape(-1),
            (first + edges.sources).view(-1),
            (first + edges.receivers).view(-1),
            self.heads * n_nodes,
        )
        return sums.view(self.heads, n_nodes, -1).transpose(0, 1).reshape(n_nodes, -1)


class Set2Set(nn.Module):
    """Set2Set (Vinyals et al. 2016) with a GRU: repeated attention over the nodes of a session.

    From q* = 0: q = GRU(q*), weights = softmax over the nodes of h · q, r = the weighted sum of the
    nodes, q* = [q ; r]. An item that occurs several times is one node, as in the official code.

    Args:
        dim: of the vectors.
        steps: repetitions.
    """

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.dim, self.steps = dim, steps
        self.cell = nn.GRUCell(2 * dim, dim)

    def forward(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[B, 2 D], the last q* of each state; `nodes` is float[N, D]."""
        states, n_states = graph.node_states, graph.n_states
        query = nodes.new_zeros(n_states, self.dim)
        result = nodes.new_zeros(n_states, 2 * self.dim)
        for _ in range(self.steps):
            query = self.cell(result, query)
            logits = (nodes * of_segments(query, states)).sum(dim=1)
            weights = segment_softmax(logits, states, n_states)
            result = torch.cat([query, segment_sum(weights[:, None] * nodes, states, n_states)], 1)
        return result
