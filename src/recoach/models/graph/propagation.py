"""LightGCN propagation over the user-item graph (He et al. 2020, Eq. 7 and 8).

A layer is two sparse products, one per direction (items to users and users to items), computed as
weighted sums of rows (`recoach.models.sparse_product`). The mean of the powers of a symmetric
matrix is symmetric: the backward pass is the same propagation, applied to the gradient.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recoach import distributed
from recoach.data.dataset import RaggedArray
from recoach.models.sparse_product import NeighbourSum


class Graph(nn.Module):
    """The normalised bipartite graph of the training interactions, without parameters.

    The adjacency matrix is binary (a repeated pair is one edge) and 1e-7 is added to degrees, as
    in RecBole.
    """

    def __init__(self, train: RaggedArray, n_items: int) -> None:
        super().__init__()
        matrix = _normalised_adjacency(train, n_items)
        self.n_items = n_items
        self.users_from_items = NeighbourSum(matrix)
        self.items_from_users = NeighbourSum(matrix.T.tocsr())
        edges = matrix.copy()
        edges.data = np.arange(matrix.nnz)
        rows = np.repeat(np.arange(len(train)), np.diff(matrix.indptr))
        order = edges.T.tocsr().data
        weights = matrix.data.astype(np.float32)
        buffers = {
            "keys": rows * n_items + matrix.indices,
            "order": order.astype(np.int64),
            "to_users": weights,
            "to_items": weights[order],
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
        """Return the mean of the layers 0..`layers` of user and item embeddings.

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
        result: tuple[Tensor, Tensor] = _Propagation.apply(  # type: ignore[no-untyped-call]
            users, items, self, layers, self._edge_weights(hidden)
        )
        return result

    def mean_of_layers(
        self, users: Tensor, items: Tensor, layers: int, weights: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the result of `forward` without autograd.

        Args:
            users: float[U, D].
            items: float[I, D].
            layers: number of propagation layers.
            weights: float[E] edge weights, in the orders of users_from_items and items_from_users.
        """
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

    def _edge_weights(self, hidden: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Return the edge weights of both directions, 0 for hidden edges."""
        weights = self.to_users
        if hidden is None:
            return weights, self.to_items
        hidden_keys = distributed.all_gather(hidden[0] * self.n_items + hidden[1])
        index = torch.searchsorted(self.keys, hidden_keys).clamp(max=len(self.keys) - 1)
        weights = weights.clone()
        weights[index[self.keys[index] == hidden_keys]] = 0
        return weights, weights[self.order]


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
    """The mean of the layers; a symmetric linear map, so that backward repeats forward."""

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
        gradients = graph.mean_of_layers(users.contiguous(), items.contiguous(), layers, weights)
        return (*gradients, None, None, None)


def _normalised_adjacency(train: RaggedArray, n_items: int) -> sparse.csr_matrix:
    """Return float64[U, I], the users × items block of D^-1/2 A D^-1/2."""
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
