"""The query encoder as a file that needs no PyTorch."""

import numpy as np
import polars as pl
import pytest

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, ModelError
from recoach.models.registry import build_model
from recoach.serving import onnx
from recoach.serving.onnx import export_onnx
from recoach.serving.recommend import recommend
from recoach.serving.vectors import export_vectors
from recoach.simulation.shop import cycle

ort = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")

DATASET = leave_last_out(cycle(24, 12, length=7))
READERS = {
    "sasrec, original": {"layers": 1, "architecture": "original"},
    "sasrec, places from the end": {"layers": 2, "position": "from_end"},
    "gru4rec": {},
}


def built(name, **settings):
    return build_model(name, DATASET, dim=8, max_length=20, **settings)


@pytest.mark.parametrize("case", READERS)
def test_a_history_is_answered_without_pytorch_as_with_it(case, tmp_path):
    model = built(case.split(",")[0], **READERS[case]).train()
    file, difference = export_onnx(model, DATASET, tmp_path)
    assert difference < 1e-5
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    items = pl.read_parquet(export_vectors(model, DATASET, tmp_path)[1])
    place = {item: number for number, item in enumerate(items["item_id"])}
    past = {
        "one": ["2"],
        "more": ["7", "1", "0", "4"],
        "none longer": [str(n % 12) for n in range(20)],
    }
    past = {user: [DATASET.item_ids[int(item)] for item in taken] for user, taken in past.items()}
    history = np.full((3, 20), DATASET.n_items)
    for row, taken in enumerate(past.values()):
        history[row, : len(taken)] = [place[item] for item in taken]
    asked = {"history": history, "length": np.array([1, 4, 20])}
    (vectors,) = ort.InferenceSession(file).run(None, asked)
    scores = vectors @ items["vector"].to_numpy().T
    told = recommend(model, DATASET, past, k=12, exclude_seen=False)
    for row, user in enumerate(past):
        mine = told.filter(pl.col("user_id") == user)
        found = [scores[row, place[item]] for item in mine["item_id"]]
        assert np.allclose(found, mine["score"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (build_model("lightgcn", DATASET, dim=8), "reads no history"),
        (built("gsau", scorer="fuse_emb"), "depend on who asks"),
    ],
    ids=["LightGCN", "GSAU"],
)
def test_a_model_that_knows_its_users_is_refused(model, why, tmp_path):
    with pytest.raises(ConfigError, match=why) as told:
        export_onnx(model, DATASET, tmp_path)
    assert "recoach export vectors" in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_disagrees_is_not_left_behind(tmp_path, monkeypatch):
    other = built("sasrec", seed=5)
    write = onnx._exported
    monkeypatch.setattr(
        onnx, "_exported", lambda _, *rest: write(onnx._Encoder(other).eval(), *rest)
    )
    with pytest.raises(ModelError, match="onnxruntime and PyTorch differ"):
        export_onnx(built("sasrec"), DATASET, tmp_path)
    assert list(tmp_path.iterdir()) == []
