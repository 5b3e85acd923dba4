"""LightGCN's propagation over the user-item graph (He et al. 2020, Eq. 7 and 8)."""

import warnings

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recoach.data.split import Ragged


class Graph(nn.Module):
    """The normalised bipartite graph of the training interactions; it has no weights.

    The adjacency is binary (a repeated pair is one edge) and 1e-7 is added to degrees, as in
    RecBole.
    """

    def __init__(self, train: Ragged, n_items: int) -> None:
        super().__init__()
        self.n_users = len(train)
        adjacency = _normalised_adjacency(train, n_items)
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.adjacency: Tensor

    def __deepcopy__(self, memo: dict[int, object]) -> "Graph":
        """Return the graph itself: it never changes, and torch cannot copy CSR tensors."""
        return self

    def forward(self, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """Return the mean of the layers 0..`layers` of both tables.

        Args:
            users: float[U, D].
            items: float[I, D].
            layers: number of propagation steps.
        """
        layer = torch.cat([users, items])
        total = layer
        for _ in range(layers):
            layer = _SymmetricProduct.apply(  # type: ignore[no-untyped-call]
                self.adjacency, layer
            )
            total = total + layer
        mean = total / (layers + 1)
        return mean[: self.n_users], mean[self.n_users :]


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


def _normalised_adjacency(train: Ragged, n_items: int) -> Tensor:
    users = np.repeat(np.arange(len(train)), train.lengths)
    ones = np.ones(len(train.values), dtype=np.float32)
    shape = (len(train), n_items)
    half = sparse.csr_matrix((ones, (users, train.values)), shape=shape)
    half.data[:] = 1.0
    whole = sparse.bmat([[None, half], [half.T, None]], format="csr")
    degree = np.asarray(whole.sum(axis=1)).ravel() + 1e-7
    scale = sparse.diags(degree**-0.5)
    matrix = (scale @ whole @ scale).tocsr()
    with warnings.catch_warnings():  # torch calls its CSR tensors a beta; the product is all we use
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=False,
        )


class _SymmetricProduct(torch.autograd.Function):
    """Sparse times dense whose backward is the same product: the matrix is its own transpose."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, matrix: Tensor, vectors: Tensor
    ) -> Tensor:
        ctx.matrix = matrix  # type: ignore[attr-defined]
        return matrix @ vectors

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[None, Tensor]:
        return None, ctx.matrix @ upstream.contiguous()  # type: ignore[attr-defined]
