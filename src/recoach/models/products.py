"""The items of a policy in products with states: their dtype, and their vectors in it."""

import torch
from torch import Tensor

from recoach.data.queries import Seen

_SMALL = 1024
"""Items below which the conversion to bfloat16 costs what it saves."""
_ALIGNMENT = 64
"""Rows of logits in bfloat16 are padded to a multiple of this many items: a product whose rows are
not aligned takes up to three times as long on a CPU (512 × 43,097)."""


def product_dtype(vectors: Tensor) -> torch.dtype:
    """Return the dtype of products with these item vectors.

    bfloat16 for float32 vectors of a catalogue of some size, where it is faster; else their own.
    """
    if vectors.dtype != torch.float32 or len(vectors) < _SMALL:
        return vectors.dtype
    if vectors.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = vectors.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def padded_count(n_items: int, product: torch.dtype) -> int:
    """Return R, the number of items that the rows of logits are padded to; I but for bfloat16."""
    return n_items if product != torch.bfloat16 else -(-n_items // _ALIGNMENT) * _ALIGNMENT


def aligned_cast(items: Tensor, product: torch.dtype) -> Tensor:
    """Return the item vectors in the dtype of products, followed by zero rows.

    Args:
        items: float[I, D].
        product: the dtype; rows are added for bfloat16 only.

    Returns:
        [R, D], see `padded_count`.
    """
    n_items = len(items)
    n_rows = padded_count(n_items, product)
    if n_rows == n_items:
        return items.to(product)
    padded = items.new_empty((n_rows, items.shape[1]), dtype=product)
    padded[:n_items] = items
    padded[n_items:] = 0
    return padded


class Catalogue:
    """The items of a policy, and what turns products with them into logits.

    Args:
        items: float[I, D].
        product: the dtype of the products.
        temperature: divides the scores.
        bias: float[I] added to the logits.
        seen: masked (state, item) pairs.
        n_states: number of states of all blocks.

    Attributes:
        padded_cast: [R, D], the item vectors in the dtype of the products, followed by zero rows.
    """

    def __init__(
        self,
        items: Tensor,
        product: torch.dtype,
        temperature: float,
        bias: Tensor | None,
        seen: Seen | None,
        n_states: int,
    ) -> None:
        self.items, self.product, self.n_states = items, product, n_states
        self.temperature, self.bias, self.seen = temperature, bias, seen
        self.padded_cast = aligned_cast(items, product)
        self._tables_with_gaps: dict[Catalogue, Tensor] = {}

    @property
    def cast(self) -> Tensor:
        """[I, D], the item vectors in the dtype of the products."""
        return self.padded_cast[: len(self.items)]

    def table_with_gaps(self, other: "Catalogue") -> Tensor:
        """Return [R, 2 D], the item vectors and what is added to them to get those of another.

        In the dtype of the products, computed once for all blocks.
        """
        table = self._tables_with_gaps.get(other)
        if table is None:
            gaps = aligned_cast(other.items - self.items, self.product)
            table = torch.cat([self.padded_cast, gaps], dim=1)
            if not torch.compiler.is_compiling():  # a traced loss changes nothing else
                self._tables_with_gaps[other] = table
        return table
