"""The graphs of a batch of histories, built without a Python loop over them.

A node is a distinct item of a history, an edge leads from an item to the one that follows it. All
graphs of a batch are stored in flat arrays, one after another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from recoach.data.queries import Prepared, Queries
from recoach.data.transfer import to_device


class SessionGraph(NamedTuple):
    """The graphs of B states with P positions, N nodes and E distinct edges in all.

    For the history 1, 2, 3, 2, 4 the nodes are 1, 2, 3, 4; the edges 1→2, 2→3, 2→4, 3→2. An item
    that follows itself has an edge to itself. A state without history has no node.
    """

    users: Tensor
    """int64[B], user of each state, -1 for a user outside the training data."""
    is_empty: Tensor
    """bool[B], whether the state has no history."""
    states: Tensor
    """int64[P], state of each position, sorted."""
    places: Tensor
    """int64[P], place of each position in its history: 0 is the oldest."""
    places_from_end: Tensor
    """int64[P], place counted from the end: 0 is the last item."""
    nodes: Tensor
    """int64[P], node of each position."""
    node_items: Tensor
    """int64[N], item of each node."""
    node_states: Tensor
    """int64[N], state of each node, sorted."""
    counts: Tensor
    """int64[N], how often the item occurs in its history."""
    sources: Tensor
    """int64[E], the node at which each edge begins."""
    receivers: Tensor
    """int64[E], the node at which each edge ends, sorted."""
    edge_counts: Tensor
    """int64[E], how often the item of the receiver follows that of the source."""
    last_nodes: Tensor
    """int64[B], the node of the last position; 0 for a state without history."""
    without_loop: Tensor
    """int64[M], the nodes that have no edge to themselves."""
    host_states: Tensor
    """`node_states` on the host."""
    plan: "Prepared | None" = None
    """What a model computes from the graph on the host, beside it."""

    @property
    def n_states(self) -> int:
        """Number of states, B."""
        return len(self.users)

    @property
    def n_nodes(self) -> int:
        """Number of nodes of all states, N."""
        return len(self.node_items)

    def to(self, device: torch.device) -> "SessionGraph":
        """Return the same graphs on a device."""
        tensors = {
            name: to_device(tensor, device)
            for name, tensor in self._asdict().items()
            if isinstance(tensor, Tensor) and name != "host_states"
        }
        return self._replace(**tensors, plan=self.plan and self.plan.to(device))


def session_graph(queries: Queries, n_items: int) -> SessionGraph:
    """Return the graph of each state's history, on the host.

    Args:
        queries: B states; several may share a row, and each has a graph of its own.
        n_items: size of the catalogue.
    """
    queries = queries.on_host
    ends = queries.ends
    states = torch.repeat_interleave(ends)
    first = ends.cumsum(0) - ends
    places = torch.arange(len(states)) - first[states]
    items = queries.history[queries.rows[states], places]
    keys, nodes, counts = torch.unique(
        states * n_items + items, return_inverse=True, return_counts=True
    )
    n_nodes = max(1, len(keys))
    follows = places[1:] > 0  # the position is not the first of its history
    edges, edge_counts = torch.unique(
        (nodes[1:] * n_nodes + nodes[:-1])[follows], return_counts=True
    )
    is_empty = ends == 0
    if len(nodes):
        last_nodes = nodes[(first + ends - 1).clamp(min=0)].masked_fill(is_empty, 0)
    else:
        last_nodes = torch.zeros_like(ends)
    sources, receivers = edges % n_nodes, edges // n_nodes
    has_loop = torch.zeros(len(keys), dtype=torch.bool)
    has_loop[sources[sources == receivers]] = True
    node_states = keys // n_items
    return SessionGraph(
        users=queries.state_users,
        is_empty=is_empty,
        states=states,
        places=places,
        places_from_end=ends[states] - 1 - places,
        nodes=nodes,
        node_items=keys % n_items,
        node_states=node_states,
        counts=counts,
        sources=sources,
        receivers=receivers,
        edge_counts=edge_counts,
        last_nodes=last_nodes,
        without_loop=torch.nonzero(~has_loop)[:, 0],
        host_states=node_states,
    )


class Edges(NamedTuple):
    """E weighted edges between nodes."""

    sources: Tensor
    """int64[E], the node at which each edge begins."""
    receivers: Tensor
    """int64[E], the node at which each edge ends, sorted."""
    weights: Tensor
    """float[E]."""


def with_self_loops(graph: SessionGraph, weights: Tensor) -> Edges:
    """Return the edges, and one of weight 1 from each node to itself that has none.

    Args:
        graph: N nodes and E edges.
        weights: float[E], the weights of the edges of the graph.
    """
    loops = graph.without_loop
    receivers, order = torch.cat([graph.receivers, loops]).sort(stable=True)
    return Edges(
        torch.cat([graph.sources, loops])[order],
        receivers,
        torch.cat([weights, weights.new_ones(len(loops))])[order],
    )
