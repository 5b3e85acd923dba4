"""The gated graph layer of SR-GNN and TAGNN."""

from typing import Literal

import torch
from torch import Tensor, nn

from recoach.models.segments import count_rows, neighbour_sum
from recoach.models.session.graph import SessionGraph


class GatedGraphLayer(nn.Module):
    """A GRU cell whose input is the mean of a node's predecessors and successors (Eq. 1 to 5).

    a_in(v) = mean over u → v of (W_in h_u + b_in) + b, a_out(v) the same over v → u; a node without
    neighbours on one side has the bias alone. The cell is the one of cuDNN: the reset gate
    multiplies the product U h, not h (paper), as in the official code.

    Args:
        dim: of the vectors.
        steps: applications of the cell, with the same weights.
        edges: "binary" weighs all neighbours equally (official code); "count" weighs them by the
            number of transitions (paper).
    """

    def __init__(
        self, dim: int, steps: int = 1, edges: Literal["binary", "count"] = "binary"
    ) -> None:
        super().__init__()
        self.steps, self.edges = steps, edges
        self.incoming = nn.Linear(dim, dim)
        self.outgoing = nn.Linear(dim, dim)
        self.incoming_bias = nn.Parameter(torch.zeros(dim))
        self.outgoing_bias = nn.Parameter(torch.zeros(dim))
        self.cell = nn.GRUCell(2 * dim, dim)

    def forward(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[N, D], the vectors of the nodes after the last step; see `SessionGraph`."""
        sources, receivers = graph.sources, graph.receivers
        counts = graph.edge_counts
        weights = torch.ones_like(counts) if self.edges == "binary" else counts
        into = (weights / _totals(weights, receivers, graph.n_nodes)).to(nodes.dtype)
        out = (weights / _totals(weights, sources, graph.n_nodes)).to(nodes.dtype)
        by_source, order = sources.sort(stable=True)
        for _ in range(self.steps):
            messages = [
                neighbour_sum(self.incoming(nodes), into, sources, receivers, graph.n_nodes)
                + self.incoming_bias,
                neighbour_sum(
                    self.outgoing(nodes), out[order], receivers[order], by_source, graph.n_nodes
                )
                + self.outgoing_bias,
            ]
            nodes = self.cell(torch.cat(messages, dim=1), nodes)
        return nodes


def _totals(weights: Tensor, ends: Tensor, n_nodes: int) -> Tensor:
    """Return float64[E], the sum of the weights of all edges that share an end with each edge."""
    return count_rows(ends, n_nodes, weights)[ends]
