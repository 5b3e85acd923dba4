"""Export of user and item vectors as Parquet, for vector indexes and feature stores."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.interactions import FloatArray
from recoach.data.queries import histories, user_queries
from recoach.models.base import (
    DotProductRecommender,
    Embeddings,
    Recommender,
    check_ids,
    dot_product,
    eval_mode,
)
from recoach.models.checkpoint import write_atomically

_BATCH_SIZE = 1024


@torch.no_grad()
def export_vectors(model: Recommender, dataset: Dataset, directory: Path) -> tuple[Path, Path]:
    """Write users.parquet and items.parquet, each with an ID and a float32 vector per row.

    A user's vector is that of the state after the whole history. The dot product of a user's and an
    item's vector is the score by which the model ranks. Seen items are not excluded.

    Args:
        model: a model whose scores are dot products.
        dataset: has the IDs and the histories.
        directory: created if it does not exist.

    Returns:
        The paths of the two files.

    Raises:
        ConfigError: the scores of the model are not dot products.
        RunError: a file cannot be written.
    """
    check_ids(model, dataset)
    model = dot_product(model, "The export of vectors")
    past = histories(dataset, "all", model.reads)
    user_vectors = [
        _embed(model, past, dataset.trained_users, slice(start, start + _BATCH_SIZE)).users
        for start in range(0, dataset.n_users, _BATCH_SIZE)
    ]
    types = dataset.id_types
    users = pl.DataFrame(
        {
            "user_id": types.users_of(dataset.user_ids),
            "vector": torch.cat(user_vectors).float().cpu().numpy(),
        }
    )
    item_ids = types.items_of(dataset.item_ids)
    items = pl.DataFrame({"item_id": item_ids, "vector": item_vectors(model, dataset)})
    for name, table in (("users", users), ("items", items)):
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        write_atomically(directory / f"{name}.parquet", buffer.getvalue())
    return directory / "users.parquet", directory / "items.parquet"


@torch.no_grad()
def item_vectors(model: Recommender, dataset: Dataset) -> FloatArray:
    """Return float32[I, D], the item vectors in the order of the dataset.

    Raises:
        ConfigError: the scores of the model are not dot products.
    """
    check_ids(model, dataset)
    model = dot_product(model, "A faiss index")
    items = _embed(
        model, histories(dataset, "all", model.reads), dataset.trained_users, slice(1)
    ).items
    vectors: FloatArray = np.ascontiguousarray(items.float().cpu().numpy())
    return vectors


def _embed(
    model: DotProductRecommender, past: RaggedArray, user_numbers: np.ndarray, rows: slice
) -> Embeddings:
    length, indices = model.history_length, np.arange(len(past))[rows]
    queries = user_queries(past, indices, length, model.n_items, mask_seen=False)
    queries = replace(queries, users=torch.from_numpy(user_numbers[rows]))
    with eval_mode(model):
        return model.embed(queries.to(model.device))
