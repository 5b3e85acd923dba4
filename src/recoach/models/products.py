"""The dtype of products of states and items, and the item vectors in it."""

import torch
from torch import Tensor

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


def aligned_cast(items: Tensor, product: torch.dtype) -> Tensor:
    """Return the item vectors in the dtype of products, followed by zero rows.

    Args:
        items: float[I, D].
        product: the dtype; rows are added for bfloat16 only.

    Returns:
        [R, D], R a multiple of `_ALIGNMENT`, or I rows without padding.
    """
    n_items = len(items)
    if product != torch.bfloat16 or n_items % _ALIGNMENT == 0:
        return items.to(product)
    n_rows = -(-n_items // _ALIGNMENT) * _ALIGNMENT
    padded = items.new_empty((n_rows, items.shape[1]), dtype=product)
    padded[:n_items] = items
    padded[n_items:] = 0
    return padded
