"""GAG (Qiu et al. 2020, SIGIR): a graph network with an attribute of the graph, on a fixed log.

The vector of the user is the attribute of the whole graph: it enters every message, the attention
of the readout and the state. Scores are dot products with the item table, the loss is
cross-entropy. Only the official code was at hand; the paper's text was not.

Departures from the official code, whose defects are not imitated: the layer is trained (there it
is kept in a plain list and never is), the last item is the last click (there the last new item),
and long histories keep their end (there their beginning). There is one layer: with more, the
official readout reads a vector of the user that the layers have replaced. The paper's streaming
(updates by slices of time, with a reservoir of past sessions) is not part of the model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.models.base import GroupName
from recoach.models.segments import count_rows, neighbour_sum, of_segments, segment_sum
from recoach.models.session.base import SessionConfig, SessionModel
from recoach.models.session.graph import Edges, SessionGraph, with_self_loops


class GAGConfig(SessionConfig):
    """Settings of GAG."""

    users: bool = True
    """Give each user of the training data a vector. Without them, as for users who are not in the
    training data, the vector of the user is 0."""


class GAG(SessionModel):
    """A graph network over the items of a session, attributed with the vector of the user."""

    config: GAGConfig

    def __init__(self, config: GAGConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        dim, self.knows_users = config.dim, config.users
        if config.users:
            self.users = nn.Embedding(self.n_users, dim)
        self.layer = AttributedGraphLayer(dim)
        self.attention = nn.Linear(3 * dim, dim)
        self.query = nn.Linear(dim, 1)
        self.session = nn.Linear(2 * dim, dim)
        self.user = nn.Linear(dim, dim)
        self.init_weights()

    def encode(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return the states, see `SessionModel`."""
        states = graph.node_states
        users = self._user_vectors(graph, nodes)
        node_users = of_segments(users, states)
        nodes = torch.tanh(self.layer(graph, nodes, node_users))
        last = functional.embedding(graph.last_nodes, nodes)
        inputs = torch.cat([of_segments(last, states), nodes, node_users], dim=1)
        weights = self.query(torch.sigmoid(self.attention(inputs))) * graph.counts[:, None]
        weighted = segment_sum(weights * nodes, states, graph.n_states)
        session: Tensor = self.session(torch.cat([last, weighted], dim=1))
        return session + torch.tanh(self.user(users))

    def _user_vectors(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        if not self.config.users:
            return nodes.new_zeros(graph.n_states, nodes.shape[1])
        vectors: Tensor = self.users(graph.users.clamp(min=0))
        return vectors.masked_fill((graph.users < 0)[:, None], 0.0)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the tables of items and users, and the other weights."""
        groups = super().parameter_groups()
        if self.config.users:
            table = self.users.weight
            groups["encoder"] = [p for p in groups["encoder"] if p is not table]
            groups["user"] = [table]
        return groups


class AttributedGraphLayer(nn.Module):
    """A graph convolution in both directions of the edges, with an attribute of the graph.

    The input of node v is [h_v ; u]. For messages along the edges, the weight of an edge is its
    number of transitions divided by the number of edges into its end; for messages against them,
    divided by the number of edges out of its beginning. A node without an edge to itself gets one
    of weight 1. Weights are then divided by the square roots of two sums, those over the edges that
    begin at each of its ends, as in the official code.

    Args:
        dim: of the vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.forward_map = nn.Linear(2 * dim, dim, bias=False)
        self.backward_map = nn.Linear(2 * dim, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.output = nn.Linear(2 * dim, dim)

    def forward(self, graph: SessionGraph, nodes: Tensor, users: Tensor) -> Tensor:
        """Return float[N, D]; `nodes` and `users` are float[N, D], the items and their users."""
        counts, n_nodes = graph.edge_counts.to(nodes.dtype), len(nodes)
        inputs = torch.cat([nodes, users], dim=1)
        along = _normalised(
            with_self_loops(graph, counts / _degrees(graph.receivers, n_nodes)), n_nodes
        )
        messages = self.forward_map(inputs)
        received = neighbour_sum(messages, along.weights, along.sources, along.receivers, n_nodes)
        against = _normalised(
            with_self_loops(graph, counts / _degrees(graph.sources, n_nodes)), n_nodes
        )
        by_source, order = against.sources.sort(stable=True)
        returned = neighbour_sum(
            self.backward_map(inputs),
            against.weights[order],
            against.receivers[order],
            by_source,
            n_nodes,
        )
        both = torch.cat([received + self.bias, returned + self.bias], dim=1)
        result: Tensor = self.output(both)
        return result


def _degrees(ends: Tensor, n_nodes: int) -> Tensor:
    """Return int64[E], the number of edges that share an end with each edge."""
    return count_rows(ends, n_nodes)[ends]


def _normalised(edges: Edges, n_nodes: int) -> Edges:
    """Divide weights by the roots of the sums over all edges that begin at their two ends."""
    sums = count_rows(edges.sources, n_nodes, edges.weights).to(edges.weights.dtype)
    scales = sums.rsqrt()
    return edges._replace(weights=scales[edges.sources] * edges.weights * scales[edges.receivers])
