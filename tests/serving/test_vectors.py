"""Vectors on disk rank as the model does."""

import numpy as np
import polars as pl
import pytest

from recoach.data.split import leave_last_out
from recoach.models.registry import MODELS, build_model
from recoach.serving.recommend import recommend
from recoach.serving.vectors import export_vectors
from recoach.simulation.shop import cycle

DATASET = leave_last_out(cycle(24, 12, length=7))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"popularity"}))
def test_products_of_the_vectors_are_the_scores(name, tmp_path):
    model = build_model(name, DATASET, dim=8)
    users, items = (
        pl.read_parquet(path) for path in export_vectors(model, DATASET, tmp_path / "v")
    )
    assert users["user_id"].to_list() == DATASET.user_ids.to_list()
    assert items["item_id"].to_list() == DATASET.item_ids.to_list()
    assert users["vector"].dtype == pl.Array(pl.Float32, items["vector"].dtype.shape)
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    asked = recommend(model, DATASET, ["u0003"], k=12, exclude_seen=False)
    place = {item: number for number, item in enumerate(DATASET.item_ids)}
    mine = scores[users["user_id"].to_list().index("u0003")]
    found = [mine[place[item]] for item in asked["item_id"]]
    assert np.allclose(found, asked["score"].to_numpy(), atol=1e-5)
