"""Propagation over the user-item graph, whose adjacency matrix is normalised in one of three ways.

A layer is two sparse products, one per direction (items to users and users to items), computed as
weighted sums of rows (`recoach.models.sparse_product`). The backward pass is the same propagation
with the transposed matrix, applied to the gradient.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.models.sparse_product import NeighbourSum

Normalisation = Literal["symmetric", "row", "mean"]
"""D^-1/2 A D^-1/2 (LightGCN, RecBole's NGCF), D^-1 (A + I) with degrees of A + I (the authors' code
of NGCF), or D^-1 A, the mean over the neighbours (GraphSAGE)."""


class EdgeWeights(NamedTuple):
    """The non-zero entries of a matrix of the size of the adjacency matrix, for both directions."""

    to_users: Tensor
    """float[E], in the order of `Graph.users_from_items`."""
    to_items: Tensor
    """float[E], in the order of `Graph.items_from_users`."""


LinearMap = Callable[[Tensor, Tensor, EdgeWeights], tuple[Tensor, Tensor]]
"""(float[U, D] users, float[I, D] items, weights) -> float[U, D] and float[I, D]."""


class Graph(nn.Module):
    """The normalised bipartite graph of the training interactions, without parameters.

    The adjacency matrix is binary (a repeated pair is one edge). With `symmetric` 1e-7 is added to
    degrees, as in RecBole.

    Args:
        train: the training histories.
        n_items: size of the catalogue.
        normalisation: see `Normalisation`.
    """

    def __init__(
        self, train: RaggedArray, n_items: int, normalisation: Normalisation = "symmetric"
    ) -> None:
        super().__init__()
        matrix = _adjacency(train, n_items)
        self.n_items = n_items
        self.users_from_items = NeighbourSum(matrix)
        self.items_from_users = NeighbourSum(matrix.T.tocsr())
        edges = matrix.copy()
        edges.data = np.arange(matrix.nnz)
        order = edges.T.tocsr().data
        rows = np.repeat(np.arange(len(train)), np.diff(matrix.indptr))
        to_users, to_items, self_loops = _normalised(matrix, rows, normalisation)
        buffers = {
            "keys": rows * n_items + matrix.indices,
            "order": order.astype(np.int64),
            "to_users": to_users.astype(np.float32),
            "to_items": to_items[order].astype(np.float32),
            "to_users_transposed": to_items.astype(np.float32),
            "to_items_transposed": to_users[order].astype(np.float32),
            "self_loops": self_loops.astype(np.float32),
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.keys: Tensor
        """int64[E] `user * n_items + item` of each edge, sorted: the order of users_from_items."""
        self.order: Tensor
        """int64[E] index into `keys` of each edge in the order of items_from_users."""
        self.to_users: Tensor
        """float[E] edge weights in the order of users_from_items."""
        self.to_items: Tensor
        """float[E] edge weights in the order of items_from_users."""
        self.to_users_transposed: Tensor
        self.to_items_transposed: Tensor
        """The same of the transposed matrix."""
        self.self_loops: Tensor
        """float[U + I, 1] diagonal of the matrix, of users and then items; [0, 1] if it is zero."""

    def __deepcopy__(self, memo: dict[int, object]) -> "Graph":
        """Return the graph itself, which is constant and can be shared by copies of a model."""
        return self

    def forward(
        self,
        users: Tensor,
        items: Tensor,
        layers: int,
        hidden: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean of the layers 0..`layers` of user and item embeddings (LightGCN).

        Args:
            users: float[U, D].
            items: float[I, D].
            layers: number of propagation layers.
            hidden: (int64[H] users, int64[H] items) of edges to leave out; the other edges keep
                their weights, and pairs that are not edges are ignored. Edges hidden on one rank
                are left out on all ranks.

        Returns:
            float[U, D] and float[I, D].
        """

        def mean_of_layers(
            users: Tensor, items: Tensor, weights: EdgeWeights
        ) -> tuple[Tensor, Tensor]:
            return self.mean_of_layers(users, items, layers, weights)

        return self._apply_map(mean_of_layers, users, items, self.edge_weights(hidden))

    def neighbour_sums(
        self, users: Tensor, items: Tensor, weights: tuple[EdgeWeights, EdgeWeights]
    ) -> tuple[Tensor, Tensor]:
        """Return the product of the normalised matrix with the vectors of users and items.

        Args:
            users: float[U, D].
            items: float[I, D].
            weights: see `edge_weights`.

        Returns:
            float[U, D] and float[I, D].
        """
        return self._apply_map(self._product, users, items, weights)

    def rows_of_sums(
        self, users: Tensor, items: Tensor, rows: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return some rows of `neighbour_sums`, no edge hidden.

        Args:
            users: float[U, D].
            items: float[I, D].
            rows: int64[n] users and int64[m] items.

        Returns:
            float[n, D] and float[m, D].
        """
        user_sums = self.users_from_items.of_rows(rows[0], items, self.to_users)
        item_sums = self.items_from_users.of_rows(rows[1], users, self.to_items)
        if len(self.self_loops):
            loops = self.self_loops.to(users.dtype)
            user_sums = user_sums + users[rows[0]] * loops[rows[0]]
            item_sums = item_sums + items[rows[1]] * loops[len(users) + rows[1]]
        return user_sums, item_sums

    def edge_weights(
        self, hidden: tuple[Tensor, Tensor] | None = None
    ) -> tuple[EdgeWeights, EdgeWeights]:
        """Return the weights of the matrix and of its transpose, 0 for hidden edges (`forward`)."""
        if hidden is None:
            matrix = EdgeWeights(self.to_users, self.to_items)
            return matrix, EdgeWeights(self.to_users_transposed, self.to_items_transposed)
        hidden_keys = distributed.all_gather(hidden[0] * self.n_items + hidden[1])
        index = torch.searchsorted(self.keys, hidden_keys).clamp(max=len(self.keys) - 1)
        n_edges = len(self.keys)
        # A pair that is no edge hides the one after the last.
        index = index.where(self.keys[index] == hidden_keys, n_edges)
        is_shown = self.to_users.new_ones(n_edges + 1).index_fill_(0, index, 0)[:n_edges]
        to_users, transposed = self.to_users * is_shown, self.to_users_transposed * is_shown
        return (
            EdgeWeights(to_users, transposed[self.order]),
            EdgeWeights(transposed, to_users[self.order]),
        )

    def mean_of_layers(
        self, users: Tensor, items: Tensor, layers: int, weights: EdgeWeights
    ) -> tuple[Tensor, Tensor]:
        """Return the result of `forward` without autograd, see there.

        Args:
            users: float[U, D].
            items: float[I, D].
            layers: number of propagation layers.
            weights: those of the matrix, or of its transpose.
        """
        user_layer, item_layer = users, items
        user_sum, item_sum = users.clone(), items.clone()
        for _ in range(layers):
            user_layer, item_layer = self._product(user_layer, item_layer, weights)
            user_sum += user_layer
            item_sum += item_layer
        return user_sum.div_(layers + 1), item_sum.div_(layers + 1)

    def _product(self, users: Tensor, items: Tensor, weights: EdgeWeights) -> tuple[Tensor, Tensor]:
        """Return `neighbour_sums` without autograd, for weights of the matrix or its transpose."""
        new_users = self.users_from_items(items, weights.to_users)
        new_items = self.items_from_users(users, weights.to_items)
        if len(self.self_loops):
            loops = self.self_loops.to(users.dtype)
            new_users.addcmul_(users, loops[: len(users)])
            new_items.addcmul_(items, loops[len(users) :])
        return new_users, new_items

    @staticmethod
    def _apply_map(
        linear: LinearMap, users: Tensor, items: Tensor, weights: tuple[EdgeWeights, EdgeWeights]
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _Propagation.apply(  # type: ignore[no-untyped-call]
            users, items, linear, *weights
        )
        return result


class PropagationCache:
    """Cache of the propagated vectors of users and items, valid until their embeddings change."""

    def __init__(self) -> None:
        self._cached: tuple[list[tuple[int, int]], tuple[Tensor, Tensor]] | None = None

    def get(
        self,
        tables: list[Tensor],
        propagate: Callable[[], tuple[Tensor, Tensor]],
        *,
        cacheable: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the cached result of `propagate`, or call it.

        Args:
            tables: the embeddings that are propagated; a change of them invalidates the cache.
            propagate: always called where gradients are enabled.
            cacheable: whether the result may be cached: not if edges are hidden.
        """
        if torch.is_grad_enabled():
            # An optimizer step may follow, and fused optimizers do not raise tensor versions.
            self._cached = None
        if torch.is_grad_enabled() or not cacheable:
            return propagate()
        versions = [(id(table), table._version) for table in tables]
        if self._cached is None or self._cached[0] != versions:
            self._cached = (versions, propagate())
        return self._cached[1]


class _Propagation(torch.autograd.Function):
    """A linear map of the node vectors, whose transpose is the same map with other weights."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        users: Tensor,
        items: Tensor,
        linear: LinearMap,
        weights: EdgeWeights,
        transposed: EdgeWeights,
    ) -> tuple[Tensor, Tensor]:
        ctx.linear, ctx.transposed = linear, transposed  # type: ignore[attr-defined]
        return linear(users, items, weights)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, users: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        linear, transposed = ctx.linear, ctx.transposed  # type: ignore[attr-defined]
        return (*linear(users.contiguous(), items.contiguous(), transposed), None, None, None)


def _adjacency(train: RaggedArray, n_items: int) -> sparse.csr_matrix:
    """Return float64[U, I], the users × items block of the binary adjacency matrix A."""
    users = np.repeat(np.arange(len(train)), train.lengths)
    ones = np.ones(len(train.values))
    matrix = sparse.csr_matrix((ones, (users, train.values)), shape=(len(train), n_items))
    matrix.data[:] = 1.0
    matrix.sort_indices()
    return matrix


def _normalised(
    matrix: sparse.csr_matrix, rows: np.ndarray, normalisation: Normalisation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the entries of the normalised matrix, each float64.

    Args:
        matrix: float64[U, I], see `_adjacency`.
        rows: int64[E], the row of each of its entries.
        normalisation: how A is normalised.

    Returns:
        [E] entries in the rows of users, [E] entries in the rows of items, both in the order of
        `matrix`, and [U + I, 1] its diagonal, or [0, 1] if that is zero.
    """
    user_degrees, item_degrees = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
    if normalisation == "symmetric":
        user_scales, item_scales = ((d + 1e-7) ** -0.5 for d in (user_degrees, item_degrees))
        values = user_scales[rows] * item_scales[matrix.indices]
        return values, values, np.empty((0, 1))
    extra = 1 if normalisation == "row" else 0
    user_degrees, item_degrees = user_degrees + extra, item_degrees + extra
    both = np.concatenate([user_degrees, item_degrees])[:, None]
    diagonal = 1 / both if extra else np.empty((0, 1))
    return 1 / user_degrees[rows], 1 / item_degrees[matrix.indices], diagonal
