"""GCE-GNN: Global Context Enhanced Graph Neural Networks (Wang et al. 2020, SIGIR).

A node u of a session graph has two vectors. The local one (Eq. 7 to 9) is sum_v alpha_uv h_v over
u itself and the nodes that precede or follow it, alpha_uv = softmax_v LeakyReLU(a_r · (h_u * h_v))
with a vector a_r for each relation r: v is u itself, follows u, precedes u, or both. The global one
(Eq. 2 to 6) gathers the items that stand near u in the training sessions, with the mean c of the
session as context: g_u = ReLU([h_u ; sum_j pi_uj h_j] W2), where
pi_uj = softmax_j q · LeakyReLU([c * h_j ; w_uj] W1); a second hop gathers from neighbours of
neighbours. The sum of both, each after dropout (Eq. 13), is read out by attention over positions
(Eq. 14 to 17, `PositionAttention`). Scores are dot products with the item table, and the loss is
cross-entropy.

Where the paper and the official code disagree:

- Relations are those of the paper. In the code, "both" applies to one of the two nodes only, and a
  further transition between the two takes it back.
- W1 has d columns (code), not d + 1; the readout has no bias before tanh (code); weights are drawn
  from U(-1/sqrt(d), 1/sqrt(d)) (code) instead of N(0, 0.1).
- Neighbours are those of the code: the 12 of the largest counts, of equal ones the first in train.

Departures: an item with fewer than 12 neighbours attends to those that it has, where the code draws
12 of them with replacement, once per run. The weights w are log(1 + count), because counts range
over three orders of magnitude; `weights = "raw"` has the counts of the code. The default has one
hop: in the paper's ablation on Diginetica the second one adds 0.2 points of P@20, and it takes
eight times as many products. As in the paper, the global graph contains the pairs that a training
batch is to predict.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import RaggedArray
from recoach.data.transfer import to_device
from recoach.models.segments import neighbour_sum, of_segments, segment_softmax, segment_sum
from recoach.models.session.base import SessionConfig, SessionModel
from recoach.models.session.graph import SessionGraph
from recoach.models.session.neighbour_table import NeighbourTable, PairWeights
from recoach.models.session.readout import PositionAttention, Positions

_SLOPE = 0.2
"""Of LeakyReLU."""


class GCEGNNConfig(SessionConfig):
    """Settings of GCE-GNN; the rates of dropout are the paper's for Diginetica."""

    hops: Literal[1, 2] = 1
    """Steps in the global graph (the paper has 2 for Diginetica, 1 elsewhere)."""
    neighbours: int = Field(default=12, gt=0, le=1000)
    """Neighbours of an item in the global graph."""
    window: int = Field(default=3, gt=0, le=1000)
    """Items at most this many positions apart in a training session are neighbours."""
    weights: PairWeights = "log"
    """Weight of a pair in the attention over neighbours: its count (official code), or the log of 1
    plus the count."""
    positions: Positions = "reversed"
    """Number the positions of the readout from the last item or from the first one, or have
    none."""
    dropout_gcn: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate of the inputs of the last map of a global layer (Tmall 0.6, Nowplaying 0)."""
    dropout_local: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of the local vectors (Tmall 0.5)."""
    dropout_global: float = Field(default=0.5, ge=0, lt=1)
    """Dropout rate of the global vectors."""


class GCEGNN(SessionModel):
    """Attention within the session graph and over the items that train has near each item."""

    config: GCEGNNConfig

    def __init__(self, config: GCEGNNConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.neighbours = NeighbourTable(
            train,
            n_items,
            neighbours=config.neighbours,
            window=config.window,
            weights=config.weights,
        )
        self.local = LocalAttention(config.dim)
        self.layers = nn.ModuleList(
            GlobalAttention(config.dim, config.dropout_gcn) for _ in range(config.hops)
        )
        self.dropout_local = nn.Dropout(config.dropout_local)
        self.dropout_global = nn.Dropout(config.dropout_global)
        self.readout = PositionAttention(config.dim, config.max_length, config.positions)
        self.init_weights()

    def plan_of(self, graph: SessionGraph) -> "Neighbourhoods":
        """Return the pairs of the attention within sessions, and those of the global graph."""
        hops = [frontier(graph.node_states, graph.node_items, self.neighbours)]
        while len(hops) < self.config.hops:
            hops.append(frontier(hops[-1].states, hops[-1].items, self.neighbours))
        return Neighbourhoods(relations(graph), tuple(hops))

    def encode(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return the states, see `SessionModel`."""
        local_vectors = self.dropout_local(self.local(graph, nodes))
        global_vectors = self.dropout_global(self.from_neighbours(graph, nodes))
        states: Tensor = self.readout(graph, local_vectors + global_vectors)
        return states

    def from_neighbours(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[N, D], the global vectors of the nodes."""
        plan = graph.plan if isinstance(graph.plan, Neighbourhoods) else self.plan_of(graph)
        hops = plan.hops
        vectors = functional.embedding(hops[-1].items, self.items.weight)
        if self.config.normalise:
            vectors = functional.normalize(vectors, dim=1)
        means = session_means(graph, nodes)
        for layer, hop in zip(self.layers, reversed(hops), strict=True):
            vectors = layer(hop, vectors, means)
        return vectors


def session_means(graph: SessionGraph, nodes: Tensor) -> Tensor:
    """Return float[B, D], the mean over the positions of each state; 0 for one without history."""
    counts = graph.counts.to(nodes.dtype)
    lengths = segment_sum(counts, graph.node_states, graph.n_states).clamp(min=1)
    sums = segment_sum(counts[:, None] * nodes, graph.node_states, graph.n_states)
    return sums / lengths[:, None]


class Relations(NamedTuple):
    """The pairs of nodes of the local attention."""

    nodes: Tensor
    """int64[L], the node that attends, sorted."""
    attended: Tensor
    """int64[L], the node that it attends to."""
    kinds: Tensor
    """int64[L]: 0 the node itself, 1 a node that only follows it, 2 one that only precedes it, 3
    one that does both."""


def relations(graph: SessionGraph) -> Relations:
    """Return what each node of session graphs attends to."""
    between = graph.sources != graph.receivers
    sources, receivers = graph.sources[between], graph.receivers[between]
    n_nodes = graph.n_nodes
    is_mutual = torch.isin(receivers * n_nodes + sources, sources * n_nodes + receivers)
    itself = torch.arange(n_nodes)
    nodes = torch.cat([itself, sources, receivers[~is_mutual]])
    attended = torch.cat([itself, receivers, sources[~is_mutual]])
    kinds = torch.cat(
        [torch.zeros_like(itself), 1 + 2 * is_mutual, torch.full_like(sources[~is_mutual], 2)]
    )
    nodes, order = nodes.sort(stable=True)
    return Relations(nodes, attended[order], kinds[order])


class LocalAttention(nn.Module):
    """The attention of a node over its session graph, with a vector for each relation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.relation = nn.Parameter(torch.empty(4, dim))

    def forward(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[N, D], the local vectors of float[N, D] nodes."""
        plan = graph.plan
        pairs = plan.relations if isinstance(plan, Neighbourhoods) else relations(graph)
        attended = functional.embedding(pairs.attended, nodes)
        queries = of_segments(nodes, pairs.nodes) * functional.embedding(pairs.kinds, self.relation)
        logits = functional.leaky_relu((queries * attended).sum(dim=1), _SLOPE)
        weights = segment_softmax(logits, pairs.nodes, graph.n_nodes)
        return segment_sum(weights[:, None] * attended, pairs.nodes, graph.n_nodes)


class Frontier(NamedTuple):
    """The distinct pairs of a state and an item that the roots of a hop and their neighbours are.

    Neighbours of several items of a session coincide often; each is looked up and mapped once.
    """

    states: Tensor
    """int64[F], sorted."""
    items: Tensor
    """int64[F]."""
    roots: Tensor
    """int64[M], the pair of each root."""
    neighbours: Tensor
    """int64[M, K], the pairs of the neighbours of each root."""
    weights: Tensor
    """float32[M, K], see `NeighbourTable`."""


class Neighbourhoods(NamedTuple):
    """What the nodes of session graphs attend to."""

    relations: Relations
    hops: tuple[Frontier, ...]
    """The frontier of each hop, the first one around the nodes."""

    def to(self, device: torch.device) -> "Neighbourhoods":
        """Return the same pairs on a device."""
        pairs = Relations(*(to_device(part, device) for part in self.relations))
        hops = (Frontier(*(to_device(part, device) for part in hop)) for hop in self.hops)
        return Neighbourhoods(pairs, tuple(hops))


def frontier(states: Tensor, items: Tensor, table: NeighbourTable) -> Frontier:
    """Return the roots and their neighbours in the global graph, on the host.

    Args:
        states: int64[M], state of each root.
        items: int64[M], item of each root.
        table: the global graph.
    """
    n_items = len(table.items)
    first = states * n_items
    keys = torch.cat([(first + items)[:, None], first[:, None] + table.items[items]], dim=1)
    pairs, index = torch.unique(keys, return_inverse=True)
    return Frontier(
        states=pairs // n_items,
        items=pairs % n_items,
        roots=index[:, 0],
        neighbours=index[:, 1:],
        weights=table.weights[items],
    )


class GlobalAttention(nn.Module):
    """One step in the global graph: from the vectors of a frontier to those of its roots.

    Args:
        dim: of the vectors.
        dropout: rate for the inputs of the last map.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim, bias=False)
        self.weight_key = nn.Parameter(torch.empty(dim))
        self.query = nn.Parameter(torch.empty(dim))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, hop: Frontier, vectors: Tensor, means: Tensor) -> Tensor:
        """Return float[M, D], the vectors of the roots.

        Args:
            hop: F pairs, M roots with K neighbours.
            vectors: float[F, D].
            means: float[B, D], the context of each state.
        """
        weights = self.attention(hop, vectors, means).flatten()
        n_roots, n_neighbours = hop.neighbours.shape
        receivers = torch.arange(n_roots, device=vectors.device).repeat_interleave(n_neighbours)
        gathered = neighbour_sum(vectors, weights, hop.neighbours.flatten(), receivers, n_roots)
        both = torch.cat([functional.embedding(hop.roots, vectors), gathered], dim=1)
        vectors_of_roots: Tensor = self.output(self.dropout(both)).relu()
        return vectors_of_roots

    def attention(self, hop: Frontier, vectors: Tensor, means: Tensor) -> Tensor:
        """Return float[M, K], the attention over neighbours; 0 where there is none."""
        keys = self.key(vectors * of_segments(means, hop.states))
        weights = hop.weights.to(vectors.dtype)
        hidden = functional.embedding(hop.neighbours, keys) + weights[..., None] * self.weight_key
        logits = functional.leaky_relu(hidden, _SLOPE) @ self.query
        exists = hop.weights > 0
        logits = logits.masked_fill(~exists, torch.finfo(logits.dtype).min)
        return logits.softmax(dim=1) * exists
