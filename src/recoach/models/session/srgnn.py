"""SR-GNN (Wu et al. 2019, "Session-based Recommendation with Graph Neural Networks", AAAI).

The nodes of a session graph pass through a gated graph layer (Eq. 1 to 5); the attention of the
last item over all positions (Eq. 6) and the last item make the state (Eq. 7); scores are dot
products with the item table (Eq. 8), the loss is cross-entropy.

Where the paper and the official code disagree, the code is followed: edges are binary (`edges =
"count"` follows the paper), the reset gate multiplies the product, and weights are drawn from
U(-1/sqrt(d), 1/sqrt(d)) instead of N(0, 0.1). Departures from the code: no padding; all positions
of the last clicks count, which the official code does too, and some ports do not.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.models.session.base import SessionConfig, SessionModel
from recoach.models.session.gated import GatedGraphLayer
from recoach.models.session.graph import SessionGraph
from recoach.models.session.readout import SoftAttention


class SRGNNConfig(SessionConfig):
    """Settings of SR-GNN."""

    steps: int = Field(default=1, ge=0, le=100)
    """Steps of the gated graph layer; 0 leaves it out."""
    edges: Literal["binary", "count"] = "binary"
    """Weigh neighbours equally (official code), or by the number of transitions (paper)."""


class SRGNN(SessionModel):
    """A gated graph network over the items of a session, read by the attention of the last item."""

    config: SRGNNConfig

    def __init__(self, config: SRGNNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        if config.steps:
            self.layer = GatedGraphLayer(config.dim, config.steps, config.edges)
        self.readout = SoftAttention(config.dim)
        self.output = nn.Linear(2 * config.dim, config.dim)
        self.init_weights()

    def encode(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return the states, see `SessionModel`."""
        if self.config.steps:
            nodes = self.layer(graph, nodes)
        last = functional.embedding(graph.last_nodes, nodes)
        session = self.readout(graph, nodes, last)
        states: Tensor = self.output(torch.cat([session, last], dim=1))
        return states
