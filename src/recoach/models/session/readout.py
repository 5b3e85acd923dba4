"""Readouts: one vector for each session from the vectors of its nodes."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach.models.segments import of_segments, segment_mean, segment_softmax, segment_sum
from recoach.models.session.graph import SessionGraph

Positions = Literal["reversed", "forward", "none"]
"""How positions are numbered: 0 is the last item (reversed), the oldest item, or no positions."""


class SoftAttention(nn.Module):
    """The attention of the last item over a session (SR-GNN, Wu et al. 2019, Eq. 6).

    The weight of node i is q · sigmoid(W1 h_last + W2 h_i + b) times the number of its positions,
    which equals the sum over positions.

    Args:
        dim: of the vectors.
        softmax: divide the exponentials of the weights by their sum over positions (TAGNN); SR-GNN
            takes the weights as they are.
    """

    def __init__(self, dim: int, *, softmax: bool = False) -> None:
        super().__init__()
        self.last = nn.Linear(dim, dim)
        self.node = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, 1, bias=False)
        self.softmax = softmax

    def forward(self, graph: SessionGraph, nodes: Tensor, last: Tensor) -> Tensor:
        """Return float[B, D], the weighted sum of the nodes of each state.

        Args:
            graph: B states, N nodes.
            nodes: float[N, D].
            last: float[B, D], the vector of each state's last item.
        """
        states, counts = graph.node_states, graph.counts
        hidden = torch.sigmoid(of_segments(self.last(last), states) + self.node(nodes))
        weights = self.query(hidden)[:, 0]
        if self.softmax:
            weights = segment_softmax(weights + counts.log(), states, graph.n_states)
        else:
            weights = weights * counts
        return segment_sum(weights[:, None] * nodes, states, graph.n_states)


class PositionAttention(nn.Module):
    """The attention of GCE-GNN (Wang et al. 2020, Eq. 14 to 17) and COTREC over positions.

    For position i with vector h_i and position vector p_i: z_i = tanh(W [p_i ; h_i]), the weight is
    w · sigmoid(G1 z_i + G2 mean(h) + b), and the result the weighted sum of the h_i. Without
    positions z_i = h_i, as in the COTREC of Tmall. The official codes leave out the bias of the
    paper's z_i; so does this one.

    Args:
        dim: of the vectors.
        max_length: number of rows of the position table.
        positions: how positions are numbered.
    """

    def __init__(self, dim: int, max_length: int, positions: Positions = "reversed") -> None:
        super().__init__()
        self.positions = positions
        if positions != "none":
            self.position = nn.Parameter(torch.empty(max_length, dim))
            self.of_position = nn.Linear(dim, dim, bias=False)
            self.of_item = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(dim, dim)
        self.mean_gate = nn.Linear(dim, dim, bias=False)
        self.query = nn.Linear(dim, 1, bias=False)

    def forward(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[B, D], the weighted sum over the positions of each state.

        Args:
            graph: B states, N nodes; no history is longer than the position table.
            nodes: float[N, D].
        """
        vectors = functional.embedding(graph.nodes, nodes)
        mean = segment_mean(vectors, graph.states, graph.n_states)
        if self.positions == "none":
            hidden = vectors
        else:
            places = graph.places if self.positions == "forward" else graph.places_from_end
            # Both halves of W [p ; h] are computed once for each position number and each node.
            hidden = torch.tanh(
                functional.embedding(places, self.of_position(self.position))
                + functional.embedding(graph.nodes, self.of_item(nodes))
            )
        gates = self.gate(hidden) + of_segments(self.mean_gate(mean), graph.states)
        weights = self.query(torch.sigmoid(gates))
        return segment_sum(weights * vectors, graph.states, graph.n_states)
