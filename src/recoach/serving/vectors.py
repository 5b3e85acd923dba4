"""A model's vectors as Parquet, for any index or feature store: their products are the scores."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from recoach.data.batch import histories, user_queries
from recoach.data.split import Dataset
from recoach.models.base import Recommender, judging

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
    """
    directory.mkdir(parents=True, exist_ok=True)
    past, parts = histories(dataset, "future"), []
    everybody = np.arange(dataset.n_users)
    with judging(model):
        for start in range(0, dataset.n_users, _AT_ONCE):
            users = everybody[start : start + _AT_ONCE]
            queries = user_queries(
                past, users, model.history_length, dataset.n_items, mask_seen=False
            )
            vectors = model.embed(queries.to(model.device))
            parts.append(vectors.users.float().cpu())
    tables = {
        "users": pl.DataFrame({"user_id": dataset.user_ids, "vector": torch.cat(parts).numpy()}),
        "items": pl.DataFrame(
            {"item_id": dataset.item_ids, "vector": vectors.items.float().cpu().numpy()}
        ),
    }
    for name, table in tables.items():
        part = directory / f".{name}.parquet.part"
        table.write_parquet(part)
        part.replace(directory / f"{name}.parquet")
    return directory / "users.parquet", directory / "items.parquet"
