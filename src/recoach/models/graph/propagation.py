"""LightGCN's propagation over the user-item graph (He et al. 2020, Eq. 7 and 8).

A layer is two sparse products, one for each half of the bipartite matrix, done as weighted sums
of rows (`embedding_bag`): many times faster than torch's CSR product, on CPU and GPU alike. The
mean of the powers of a symmetric matrix is symmetric, so the gradient is the propagation of the
gradient, and nothing is transposed in a step.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.split import RaggedArray


class Graph(nn.Module):
    """The normalised bipartite graph of the training interactions; it has no weights.

    The adjacency is binary (a repeated pair is one edge) and 1e-7 is added to degrees, as in
    RecBole.
    """

    def __init__(self, train: RaggedArray, n_items: int) -> None:
        super().__init__()
        matrix = _normalised_adjacency(train, n_items)
        self.n_items = n_items
        self.users_from_items, self.items_from_users = _Half(matrix), _Half(matrix.T.tocsr())
        edges = matrix.copy()
        edges.data = np.arange(matrix.nnz)
        rows = np.repeat(np.arange(len(train)), np.diff(matrix.indptr))
        places = {"keys": rows * n_items + matrix.indices, "order": edges.T.tocsr().data}
        for name, values in places.items():
            tensor = torch.from_numpy(values.astype(np.int64))
            self.register_buffer(name, tensor, persistent=False)
        self.keys: Tensor
        """int64[E] user * n_items + item of the edges, rising."""
        self.order: Tensor
        """int64[E] which of those edges stands at each place of the items' half."""

    def __deepcopy__(self, memo: dict[int, object]) -> "Graph":
        """Return the graph itself: it never changes."""
        return self

    def forward(
        self,
        users: Tensor,
        items: Tensor,
        layers: int,
        hidden: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean of the layers 0..`layers` of both tables.

        Args:
            users: float[U, D].
            items: float[I, D].
            layers: number of propagation steps.
            hidden: (int64[H] users, int64[H] items) of edges nothing passes along; the others
                keep their weights. Pairs that are no edges are passed over. What one process
                hides is hidden from all.
        """
        both: tuple[Tensor, Tensor] = _Propagation.apply(  # type: ignore[no-untyped-call]
            users, items, self, layers, self._weights(hidden)
        )
        return both

    def mean_of_layers(
        self, users: Tensor, items: Tensor, layers: int, weights: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, without a gradient, with these weights of the halves."""
        user_layer, item_layer = users, items
        user_sum, item_sum = users.clone(), items.clone()
        for _ in range(layers):
            user_layer, item_layer = (
                self.users_from_items(item_layer, weights[0]),
                self.items_from_users(user_layer, weights[1]),
            )
            user_sum += user_layer
            item_sum += item_layer
        return user_sum.div_(layers + 1), item_sum.div_(layers + 1)

    def _weights(self, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        weights = self.users_from_items.weights
        if hidden is None:
            return weights, self.items_from_users.weights
        wanted = distributed.all_gather(hidden[0] * self.n_items + hidden[1])
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        weights = weights.clone()
        weights[place[self.keys[place] == wanted]] = 0
        return weights, weights[self.order]


class Kept:
    """The propagated vectors of users and items, as long as their tables stay as they are."""

    def __init__(self) -> None:
        self._kept: tuple[list[tuple[int, int]], tuple[Tensor, Tensor]] | None = None

    def get(
        self, tables: list[Tensor], propagate: Callable[[], tuple[Tensor, Tensor]], *, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """Return what `propagate` makes of these tables.

        Args:
            tables: what is propagated; nothing is kept beyond a change of them.
            propagate: called with gradients, after them, and where nothing is kept.
            whole: whether it is along all edges; along a part of them nothing is kept.
        """
        if torch.is_grad_enabled():
            self._kept = None  # a step follows, and a fused optimiser leaves no mark on versions
        if torch.is_grad_enabled() or not whole:
            return propagate()
        versions = [(id(table), table._version) for table in tables]
        if self._kept is None or self._kept[0] != versions:
            self._kept = (versions, propagate())
        return self._kept[1]


def fold_in(users: Tensor, known: Tensor, items: Tensor, history: Tensor, ends: Tensor) -> Tensor:
    """Give users the graph has never met the mean of the items they have taken.

    Args:
        users: int64[B] user of each state, -1 where unknown.
        known: float[U, D] vectors of the known users.
        items: float[I, D] vectors of the items.
        history: int64[B, T] items of each state's row, padded with I.
        ends: int64[B] number of items each state has seen.

    Returns:
        float[B, D]; zero for an unknown user without history.
    """
    vectors = known[users.clamp(min=0)]
    if bool((users >= 0).all()):
        return vectors
    taken = torch.arange(history.shape[1], device=history.device) < ends[:, None]
    rows = items[history.clamp(max=len(items) - 1)] * taken[..., None]
    mean = rows.sum(dim=1) / taken.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where((users >= 0)[:, None], vectors, mean)


class _Half(nn.Module):
    """The rows of one side as weighted sums of the other's."""

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        super().__init__()
        parts = {
            "starts": matrix.indptr[:-1].astype(np.int64),
            "neighbours": matrix.indices.astype(np.int64),
            "weights": matrix.data.astype(np.float32),
        }
        for name, values in parts.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.starts: Tensor
        self.neighbours: Tensor
        self.weights: Tensor

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        return functional.embedding_bag(
            self.neighbours,
            vectors,
            self.starts,
            mode="sum",
            per_sample_weights=weights.to(vectors.dtype),
        )


class _Propagation(torch.autograd.Function):
    """The mean of the layers; being symmetric it is its own backward."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        users: Tensor,
        items: Tensor,
        graph: Graph,
        layers: int,
        weights: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.layers, ctx.weights = graph, layers, weights  # type: ignore[attr-defined]
        return graph.mean_of_layers(users, items, layers, weights)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, users: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        graph, layers, weights = ctx.graph, ctx.layers, ctx.weights  # type: ignore[attr-defined]
        both = graph.mean_of_layers(users.contiguous(), items.contiguous(), layers, weights)
        return (*both, None, None, None)


def _normalised_adjacency(train: RaggedArray, n_items: int) -> sparse.csr_matrix:
    """Return the users × items half of D^-1/2 A D^-1/2."""
    users = np.repeat(np.arange(len(train)), train.lengths)
    ones = np.ones(len(train.values))
    matrix = sparse.csr_matrix((ones, (users, train.values)), shape=(len(train), n_items))
    matrix.data[:] = 1.0
    scales = [
        sparse.diags((np.asarray(matrix.sum(axis=axis)).ravel() + 1e-7) ** -0.5) for axis in (1, 0)
    ]
    normalised = (scales[0] @ matrix @ scales[1]).tocsr()
    normalised.sort_indices()
    return normalised
