"""Approximate nearest-neighbour search with faiss, for catalogues too large to score in full."""

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recoach.data.interactions import FloatArray, LongArray
from recoach.data.queries import Seen
from recoach.errors import ConfigError
from recoach.evaluation.ranking import TopItems
from recoach.models.checkpoint import write_atomically

EXACT_UP_TO = 1_000_000
"""Largest catalogue that is scored in full for every list."""
_LISTS_PER_SQRT_ITEMS, _N_PROBE = 4, 256


class Index(Protocol):
    """The part of the faiss index interface used here."""

    ntotal: int

    def search(self, vectors: FloatArray, k: int) -> tuple[FloatArray, LongArray]:
        """Return scores float32[B, k] and items int64[B, k], best first; item -1 fills up a row."""


def has_faiss() -> bool:
    """Return whether faiss (the `ann` extra) is installed."""
    return find_spec("faiss") is not None


def build_index(items: FloatArray, *, exact_up_to: int = EXACT_UP_TO) -> Index:
    """Return an inner-product index: flat (exact) for small catalogues, inverted lists for large.

    Args:
        items: float32[I, D].
        exact_up_to: largest number of items for which the index is flat.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = _faiss()
    count, dim = items.shape
    if count <= exact_up_to:
        flat: Index = faiss.IndexFlatIP(dim)
        flat.add(items)  # type: ignore[attr-defined]
        return flat
    n_lists = int(_LISTS_PER_SQRT_ITEMS * count**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.niter = 64, 10
    index.train(items)
    index.nprobe = min(_N_PROBE, n_lists)
    index.add(items)
    inverted: Index = index
    return inverted


def write_index(index: Index, path: Path) -> None:
    """Write an index for `faiss.read_index`, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    write_atomically(path, _faiss().serialize_index(index).tobytes())


def search_index(index: Index, users: Tensor, k: int, seen: Seen | None = None) -> TopItems:
    """Return the k best items that the index finds for each state, without the seen ones.

    The index is asked for k items plus the largest number of seen items of a state, so that k are
    left after filtering.

    Args:
        index: of the item vectors; its row numbers are item indices.
        users: float[B, D] state vectors.
        k: maximum length of a list; cut to the number of items.
        seen: items to exclude.
    """
    k = min(k, index.ntotal)
    max_seen = 0 if seen is None or not len(seen.states) else int(torch.bincount(seen.states).max())
    arrays = index.search(
        np.ascontiguousarray(users.float().cpu().numpy()), min(k + max_seen, index.ntotal)
    )
    scores, items = (torch.from_numpy(array) for array in arrays)
    excluded = items < 0
    if seen is not None:
        seen_keys = seen.states.cpu() * index.ntotal + seen.items.cpu()
        keys = items + torch.arange(len(users))[:, None] * index.ntotal
        excluded |= torch.isin(keys, seen_keys)
    top_scores, position = scores.masked_fill(excluded, -torch.inf).topk(k, dim=1)
    top = items.gather(1, position).masked_fill(top_scores == -torch.inf, -1)
    return TopItems(top, top_scores)


def _faiss() -> ModuleType:
    try:
        import faiss  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "A faiss index needs faiss. Install it with pip install 'recoach[ann]'."
        ) from error
    return faiss
