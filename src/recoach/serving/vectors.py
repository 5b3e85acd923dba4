"""A model's vectors as Parquet, for any index or feature store: their products are the scores."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recoach.data.batches import histories, user_queries
from recoach.data.interactions import FloatArray
from recoach.data.split import Dataset, RaggedArray
from recoach.models.base import Embeddings, Recommender, eval_mode
from recoach.models.checkpoint import write_atomically

_AT_ONCE = 1024


@torch.no_grad()
def export_vectors(model: Recommender, dataset: Dataset, directory: Path) -> tuple[Path, Path]:
    """Write users.parquet and items.parquet, each an id and a vector of float32.

    A user's vector is that of his state after all that is known of him; the product of a user's and
    an item's vector is the score by which items are ranked. Seen items are not left out.

    Args:
        model: any recommender.
        dataset: gives ids and histories.
        directory: made where it is not there.

    Returns:
        The two files.

    Raises:
        RunError: they cannot be written.
    """
    past, everybody = histories(dataset, "future"), np.arange(dataset.n_users)
    parts = [
        _embedded(model, past, everybody[start : start + _AT_ONCE]).users.float().cpu()
        for start in range(0, dataset.n_users, _AT_ONCE)
    ]
    users = pl.DataFrame({"user_id": dataset.user_ids, "vector": torch.cat(parts).numpy()})
    items = {"item_id": dataset.item_ids, "vector": item_vectors(model, dataset)}
    for name, table in (("users", users), ("items", pl.DataFrame(items))):
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        write_atomically(directory / f"{name}.parquet", buffer.getvalue())
    return directory / "users.parquet", directory / "items.parquet"


@torch.no_grad()
def item_vectors(model: Recommender, dataset: Dataset) -> FloatArray:
    """Return float32[I, D], the vectors of the items in the order of the dataset."""
    items = _embedded(model, histories(dataset, "future"), np.arange(1)).items
    vectors: FloatArray = np.ascontiguousarray(items.float().cpu().numpy())
    return vectors


def _embedded(model: Recommender, past: RaggedArray, users: np.ndarray) -> Embeddings:
    length = model.history_length
    queries = user_queries(past, users, length, model.n_items, mask_seen=False)
    with eval_mode(model):
        return model.embed(queries.to(model.device))
