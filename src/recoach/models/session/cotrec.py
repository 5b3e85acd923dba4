"""COTREC (Xia et al. 2021, "Self-Supervised Graph Co-Training for Session-based Recommendation").

Item view: A holds the transitions between items in train with self weights, rows divided by their
sums. X_{k+1} = A X_k W_k without bias and activation; an item's vector is the mean of X_0 and the
X_k of unit length. The attention over positions of GCE-GNN makes the session vector. The score is
`scale` times the cosine of session and item; the loss is cross-entropy.

Session view (training only): the states of a batch are nodes that are joined where they share items
(`cotrec_views`). `con` adds L_con: each view proposes items that the other contrasts with its last
item. `diff` adds L_diff: the policy of each view must withstand the item perturbations that hurt
the other view most.

The official code trains something else than the paper describes, and its defects are not imitated:
the vectors of the session view are detached, so that its weights are never trained; in the version
of publication neither are the W_k; positives are found by a product over the wrong axis, and nearly
all rows are contrasted with the items of other rows; L_diff keeps the target's term only. Its
published figures are those of the item view with two noisy terms, which is why `con` and `diff` are
off by default.

Where paper and code disagree: the rows of A are divided by their sums (paper; `transitions =
"columns"` for the code); an item that no item follows has an empty row and keeps X_0 / (layers + 1)
(code; the paper gives it a self weight too); 2 layers (code; paper: 3).

Departures from both: terms are means over the batch, so that the code's weight of L_con of 0.01 for
sums over 100 states corresponds to `con = 1`, and 0.005 of L_diff to `diff = 0.5`; the perturbation
is the gradient at zero, not at the perturbation of the last step; both views score by scaled
cosines with the item vectors of the item view, and contrast unit vectors; states of one history are
not joined in the session view, because the longer one holds the target of the shorter one; the
query of the attention starts without negative weights, because with random signs half of the seeds
start with states opposite to their items, and some of them stay there.
"""

import itertools

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import Draws, Embeddings, TrainingBatch
from recoach.models.graph.propagation import PropagationCache
from recoach.models.losses import cross_entropy
from recoach.models.session.base import SessionConfig, SessionModel
from recoach.models.session.cotrec_views import (
    DistinctItems,
    SessionView,
    adversary,
    contrast,
    distinct_items,
    divergence,
    draw_proposals,
    propose,
    unit_rows_of,
)
from recoach.models.session.graph import SessionGraph
from recoach.models.session.readout import PositionAttention, Positions
from recoach.models.session.transition_graph import Normalisation, transition_graph
from recoach.models.unit_rows import unit_rows


class COTRECConfig(SessionConfig):
    """Settings of COTREC; the defaults are the item view alone."""

    normalise: bool = True
    """Score by the cosine of state and item."""
    scale: float = Field(default=10.0, gt=0)
    """Factor of the cosine, with `normalise`."""
    layers: int = Field(default=2, ge=0, le=100)
    """Layers of the graph of transitions, and of the session view."""
    item_maps: bool = True
    """Multiply by a trained D × D matrix in each layer of the graph of transitions."""
    transitions: Normalisation = "rows"
    """Divide the rows of the graph of transitions by their sums (paper), or the columns (code)."""
    positions: Positions = "reversed"
    """How the readout numbers positions: 0 is the last item, the oldest item, or not at all."""
    con: float = Field(default=0.0, ge=0)
    """Weight of the contrastive term L_con between the views."""
    diff: float = Field(default=0.0, ge=0)
    """Weight of the divergence term L_diff against adversarial perturbations of the items."""
    eps: float = Field(default=0.2, ge=0)
    """Length of each item's perturbation in L_diff."""


class COTREC(SessionModel):
    """Item vectors propagated over the graph of transitions, read by attention over positions."""

    takes_weights = False  # its contrastive terms have no next item
    config: COTRECConfig

    def __init__(self, config: COTRECConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.graph = transition_graph(train, n_items, config.transitions)
        n_maps = config.layers if config.item_maps else 0
        self.maps = nn.ModuleList(
            nn.Linear(config.dim, config.dim, bias=False) for _ in range(n_maps)
        )
        self.readout = PositionAttention(config.dim, config.max_length, config.positions)
        self.regularises = config.con > 0 or config.diff > 0
        self.session_view = SessionView(config.dim, config.layers) if self.regularises else None
        self.init_weights()
        with torch.no_grad():
            self.readout.query.weight.abs_()
        self._cache = PropagationCache()

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Return the item vectors that enter the readout and those that are scored.

        Without gradients the result is cached until the weights change.

        Returns:
            float[I, D] and float[I, D]; the second are of unit length with `normalise`.
        """
        tables = [self.items.weight, *self.maps.parameters()]
        return self._cache.get(tables, self._propagate, cacheable=True)

    def plan_of(self, graph: SessionGraph) -> DistinctItems | None:
        """Return the distinct items of the batch, by which the session view joins states."""
        return None if self.session_view is None else distinct_items(graph)

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return what `propose` draws for each view."""
        if not self.config.con:
            return ()
        n_states = len(batch.part("states", "COTREC").targets)
        draws = (draw_proposals(n_states, self.n_items, generator) for _ in range(2))
        return tuple(itertools.chain.from_iterable(draws))

    def encode(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return the states, see `SessionModel`."""
        states: Tensor = self.readout(graph, nodes)
        return states

    def embed(self, queries: Queries) -> Embeddings:
        """Return the state of each history and the item vectors, of the item view."""
        graph = self.graph_of(queries)
        vectors, items = self.propagate()
        nodes = functional.embedding(graph.node_items, vectors)
        return Embeddings(self.states(graph, nodes), items)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return cross-entropy of the item view + con L_con + diff L_diff."""
        queries, _, targets, _ = batch.part("states", "COTREC")
        graph = self.graph_of(queries)
        vectors, items = self.propagate()
        users = self.states(graph, functional.embedding(graph.node_items, vectors))
        loss = cross_entropy(users, items, targets, workspace=self.workspace)
        if self.session_view is None or not graph.n_nodes:
            return loss
        session_users = self.session_view(self.items.weight, graph, queries.rows)
        if self.config.normalise:
            session_users = self.config.scale * unit_rows(session_users)
        views = (users, session_users)
        if self.config.con:
            draws = self.draws_of(batch, generator)
            loss = loss + self.config.con * self._contrast(graph, views, items, draws)
        if self.config.diff:
            loss = loss + self.config.diff * self._divergence(views, items, targets)
        return loss

    def _propagate(self) -> tuple[Tensor, Tensor]:
        layer = total = self.items.weight
        for number in range(self.config.layers):
            layer = self.graph(self.maps[number](layer) if self.config.item_maps else layer)
            total = total + unit_rows(layer)
        vectors = total / (self.config.layers + 1)
        return vectors, unit_rows(vectors) if self.config.normalise else vectors

    def _contrast(
        self,
        graph: SessionGraph,
        views: tuple[Tensor, Tensor],
        items: Tensor,
        draws: Draws,
    ) -> Tensor:
        """Return L_con: each view contrasts the items that the other one proposes."""
        both = zip(views[::-1], (draws[:2], draws[2:]), strict=True)
        proposals = [propose(other, items, *own) for other, own in both]
        last_items = graph.node_items[graph.last_nodes]
        units, (last, *places) = unit_rows_of(items, last_items, *proposals[0], *proposals[1])
        total = sum(
            contrast(unit_rows(view), units[last], units, (positives, negatives))
            for view, positives, negatives in zip(views, places[::2], places[1::2], strict=True)
        )
        return distributed.mean_contribution(total * ~graph.is_empty)

    def _divergence(self, views: tuple[Tensor, Tensor], items: Tensor, targets: Tensor) -> Tensor:
        """Return L_diff: the divergence of each view under the perturbation of the other one."""
        eps, workspace = self.config.eps, self.workspace
        perturbations = [adversary(view, items, targets, eps, workspace) for view in views]
        pairs = zip(views, reversed(perturbations), strict=True)
        return torch.stack([divergence(view, items, other) for view, other in pairs]).sum()
