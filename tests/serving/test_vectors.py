"""Exported vectors give the scores of the model."""

import numpy as np
import polars as pl
import pytest

from recoach.data.split import leave_last_out
from recoach.models.base import DotProductRecommender
from recoach.models.registry import MODELS, build_model
from recoach.serving.recommend import recommend
from recoach.serving.vectors import export_vectors
from toy_logs import cycle

DATASET = leave_last_out(cycle(24, 12, length=7))


TRAINED = [
    name
    for name, entry in MODELS.items()
    if issubclass(entry.model, DotProductRecommender) and entry.model.needs
]


@pytest.mark.parametrize("name", TRAINED)
def test_dot_products_of_exported_vectors_equal_the_scores(name, tmp_path):
    model = build_model(name, DATASET, dim=8)
    users, items = (
        pl.read_parquet(path) for path in export_vectors(model, DATASET, tmp_path / "v")
    )
    assert users["user_id"].to_list() == DATASET.user_ids.to_list()
    assert items["item_id"].to_list() == DATASET.item_ids.to_list()
    assert users["vector"].dtype == pl.Array(pl.Float32, items["vector"].dtype.shape)
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    frame = recommend(model, DATASET, ["u0003"], k=12, exclude_seen=False)
    item_index = {item_id: index for index, item_id in enumerate(DATASET.item_ids)}
    user_scores = scores[users["user_id"].to_list().index("u0003")]
    exported = [user_scores[item_index[item_id]] for item_id in frame["item_id"]]
    assert np.allclose(exported, frame["score"].to_numpy(), atol=1e-5)
