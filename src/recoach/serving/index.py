"""Approximate search, for catalogues too large to look through for every list."""

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recoach.data.batches import Seen
from recoach.data.interactions import FloatArray, LongArray
from recoach.errors import ConfigError
from recoach.evaluation.ranking import TopItems
from recoach.models.checkpoint import write_atomically

EXACT_UP_TO = 1_000_000
"""Items that are all looked at for every list."""
_LISTS_PER_ROOT, _PROBED = 4, 256


class Index(Protocol):
    """What a faiss index can do."""

    ntotal: int

    def search(self, vectors: FloatArray, k: int) -> tuple[FloatArray, LongArray]:
        """Return scores and items, float32[B, k] and int64[B, k], best first; -1 for none."""


def has_faiss() -> bool:
    """Return whether the extra is installed."""
    return find_spec("faiss") is not None


def build_index(items: FloatArray, *, exact_up_to: int = EXACT_UP_TO) -> Index:
    """Return an index by inner product: of all items where they are few, inverted lists beyond.

    Args:
        items: float32[I, D].
        exact_up_to: items up to which every search looks at all of them.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = _faiss()
    count, dim = items.shape
    if count <= exact_up_to:
        flat: Index = faiss.IndexFlatIP(dim)
        flat.add(items)  # type: ignore[attr-defined]
        return flat
    lists = int(_LISTS_PER_ROOT * count**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.niter = 64, 10
    index.train(items)
    index.nprobe = min(_PROBED, lists)
    index.add(items)
    inverted: Index = index
    return inverted


def write_index(index: Index, path: Path) -> None:
    """Write an index whole, for `faiss.read_index`; RunError where it cannot be written."""
    write_atomically(path, _faiss().serialize_index(index).tobytes())


def nearest(index: Index, users: Tensor, k: int, seen: Seen | None = None) -> TopItems:
    """Return the k best items of each state that the index finds among those it may be shown.

    The index is asked for as many more as have to be left out.

    Args:
        index: of the items' vectors, by their numbers.
        users: float[B, D] state vectors.
        k: list length; cut to the number of items.
        seen: items to leave out.
    """
    k = min(k, index.ntotal)
    most = 0 if seen is None or not len(seen.states) else int(torch.bincount(seen.states).max())
    found = index.search(
        np.ascontiguousarray(users.float().cpu().numpy()), min(k + most, index.ntotal)
    )
    scores, items = (torch.from_numpy(part) for part in found)
    none = items < 0
    if seen is not None:
        keys = seen.states.cpu() * index.ntotal + seen.items.cpu()
        none |= torch.isin(items + torch.arange(len(users))[:, None] * index.ntotal, keys)
    best, place = scores.masked_fill(none, -torch.inf).topk(k, dim=1)
    return TopItems(items.gather(1, place).masked_fill(best == -torch.inf, -1), best)


def _faiss() -> ModuleType:
    try:
        import faiss  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "an index needs faiss; install it with pip install 'recoach[ann]'."
        ) from error
    return faiss
