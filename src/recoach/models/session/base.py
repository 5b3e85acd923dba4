"""The base class of models that read a history as a graph."""

from abc import abstractmethod
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from recoach.config import StrictConfig
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Prepared, Queries
from recoach.models.base import DotProductRecommender, Embeddings, GroupName, TrainingBatch
from recoach.models.lookup import table_and_rows
from recoach.models.losses import cross_entropy
from recoach.models.session.graph import SessionGraph, session_graph
from recoach.models.unit_rows import unit_rows


class SessionConfig(StrictConfig):
    """Settings of every session-graph model."""

    dim: int = Field(default=100, gt=0)
    """Dimension of the embeddings and of the states."""
    max_length: int = Field(default=50, gt=0)
    """Number of last items of a history that the model reads."""
    normalise: bool = False
    """Score by the cosine of state and item (NISER, Gupta et al. 2019): item vectors, also those
    that enter the graph, and states are divided by their norms."""
    scale: float = Field(default=16.0, gt=0)
    """Factor of the cosine, with `normalise`."""


class SessionModel(DotProductRecommender):
    """A model whose state vector is computed from the graph of a history; loss: cross-entropy.

    A subclass creates its layers, calls `init_weights` and implements `encode`.
    """

    needs = ("states",)
    takes_weights = True
    knows_users = False
    config: SessionConfig

    def __init__(self, config: SessionConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items, config.dim)

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the model reads."""
        return self.config.max_length

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with the graphs of their histories."""
        graph = session_graph(queries, self.n_items)
        return replace(queries, prepared=graph._replace(plan=self.plan_of(graph)))

    def plan_of(self, graph: SessionGraph) -> Prepared | None:
        """Return what the model computes from graphs on the host; nothing by default."""
        del graph
        return None

    def graph_of(self, queries: Queries) -> SessionGraph:
        """Return the graphs of states, on the device of the model."""
        if isinstance(queries.prepared, SessionGraph):
            return queries.prepared
        prepared = self.prepare_queries(queries.on_host).prepared
        if not isinstance(prepared, SessionGraph):
            raise TypeError("prepare_queries returned no graph")
        return prepared.to(queries.rows.device)

    @abstractmethod
    def encode(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[B, D], the vectors of the states.

        Args:
            graph: B states with N nodes in all, N > 0.
            nodes: float[N, D], the item vector of each node.
        """

    def item_vectors(self) -> Tensor:
        """Return float[I, D], the item vectors that enter the graph and are scored."""
        table = self.items.weight
        return unit_rows(table) if self.config.normalise else table

    def embed(self, queries: Queries) -> Embeddings:
        """Return the state of each history and the item vectors."""
        graph = self.graph_of(queries)
        items, nodes = table_and_rows(self.item_vectors(), graph.node_items)
        return Embeddings(self.states(graph, nodes), items)

    def states(self, graph: SessionGraph, nodes: Tensor) -> Tensor:
        """Return float[B, D], the states that are scored; zero for an empty history.

        Args:
            graph: B states with N nodes in all.
            nodes: float[N, D], the item vector of each node.
        """
        if not graph.n_nodes:
            return nodes.new_zeros(graph.n_states, nodes.shape[1])
        states = self.encode(graph, nodes)
        if self.config.normalise:
            states = self.config.scale * unit_rows(states)
        return states.masked_fill(graph.is_empty[:, None], 0.0)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy of the next items over the catalogue."""
        del generator  # nothing is drawn
        queries, _, targets, weights = batch.part("states", type(self).__name__)
        users, items = self.embed(queries)
        return cross_entropy(users, items, targets, workspace=self.workspace, weights=weights)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item table, the position table if there is one, and the other weights."""
        groups: dict[GroupName, list[Tensor]] = {"item": [], "position": [], "encoder": []}
        for name, parameter in self.named_parameters():
            if name == "items.weight":
                groups["item"].append(parameter)
            elif name.endswith(".position"):
                groups["position"].append(parameter)
            else:
                groups["encoder"].append(parameter)
        return {group: tensors for group, tensors in groups.items() if tensors}

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights, also biases, from U(-1/sqrt(D), 1/sqrt(D)), as the official codes."""
        bound = self.config.dim**-0.5
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound)
