"""The product of a constant sparse matrix with vectors, computed as weighted sums of rows.

`embedding_bag` sums rows in a fixed order and is many times faster than torch's CSR product, on CPU
and GPU. The gradient is the product with the transposed matrix, which is kept beside the matrix.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional


class NeighbourSum(nn.Module):
    """The product of a sparse matrix with vectors: each row sums those of its neighbours.

    It holds the places of the non-zero entries, whose values are given in each call. It has no
    gradient of its own: `SparseProduct` and the propagation of graph models add one.
    """

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        super().__init__()
        buffers = {
            "starts": matrix.indptr[:-1].astype(np.int64),
            "neighbours": matrix.indices.astype(np.int64),
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.starts: Tensor
        self.neighbours: Tensor

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Return float[R, D], the product with float[C, D] vectors.

        Args:
            vectors: float[C, D].
            weights: float[E], the entries in the order of the matrix.
        """
        return functional.embedding_bag(
            self.neighbours,
            vectors,
            self.starts,
            mode="sum",
            per_sample_weights=weights.to(vectors.dtype),
        )

    def of_rows(self, rows: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        """Return float[n, D], some rows of the product; it has a gradient for the vectors.

        Args:
            rows: int64[n].
            vectors: float[C, D].
            weights: float[E], the entries in the order of the matrix.
        """
        starts = self.starts[rows]
        stops = torch.cat([self.starts, self.starts.new_tensor([len(self.neighbours)])])[rows + 1]
        counts = stops - starts
        offsets = counts.cumsum(0) - counts
        within = torch.repeat_interleave(starts - offsets, counts)
        entries = within + torch.arange(len(within), device=rows.device)
        return functional.embedding_bag(
            self.neighbours[entries],
            vectors,
            offsets,
            mode="sum",
            per_sample_weights=weights[entries].to(vectors.dtype),
        )


class SparseProduct(nn.Module):
    """A constant sparse matrix that multiplies vectors; it need not be symmetric or square.

    Args:
        matrix: float[R, C]; entries of the same place are summed.
    """

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        super().__init__()
        matrix = matrix.tocsr()
        transposed = matrix.T.tocsr()
        self.row_sums, self.column_sums = NeighbourSum(matrix), NeighbourSum(transposed)
        for name, values in {"weights": matrix.data, "transposed_weights": transposed.data}.items():
            tensor = torch.from_numpy(values.astype(np.float32))
            self.register_buffer(name, tensor, persistent=False)
        self.weights: Tensor
        self.transposed_weights: Tensor

    def __deepcopy__(self, memo: dict[int, object]) -> "SparseProduct":
        """Return the matrix itself, which is constant and can be shared by copies of a model."""
        return self

    def forward(self, vectors: Tensor) -> Tensor:
        """Return float[R, D], the product of the matrix with float[C, D] vectors."""
        result: Tensor = _Product.apply(vectors, self)  # type: ignore[no-untyped-call]
        return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, vectors: Tensor, matrix: SparseProduct
    ) -> Tensor:
        ctx.matrix = matrix  # type: ignore[attr-defined]
        result: Tensor = matrix.row_sums(vectors, matrix.weights)
        return result

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None]:
        matrix: SparseProduct = ctx.matrix  # type: ignore[attr-defined]
        return matrix.column_sums(upstream.contiguous(), matrix.transposed_weights), None
