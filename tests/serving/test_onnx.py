"""The history encoder exported as ONNX."""

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
from toy_logs import cycle

ort = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")

DATASET = leave_last_out(cycle(24, 12, length=7))
ENCODERS = {
    "sasrec, original": {"layers": 1, "architecture": "original"},
    "sasrec, hstu": {"layers": 1, "architecture": "hstu"},
    "sasrec, ligr": {"layers": 1, "architecture": "ligr"},
    "sasrec, positions from the end": {"layers": 2, "position": "from_end"},
    "gru4rec": {},
}


def build(name, **settings):
    return build_model(name, DATASET, dim=8, max_length=20, **settings)


@pytest.mark.parametrize("case", ENCODERS)
def test_onnx_and_pytorch_give_the_same_scores_for_a_history(case, tmp_path):
    model = build(case.split(",")[0], **ENCODERS[case]).train()
    file, difference = export_onnx(model, DATASET, tmp_path)
    assert difference < 1e-5
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    items = pl.read_parquet(export_vectors(model, DATASET, tmp_path)[1])
    item_index = {item_id: index for index, item_id in enumerate(items["item_id"])}
    indices = {
        "one item": [2],
        "four items": [7, 1, 0, 4],
        "maximum length": [n % 12 for n in range(20)],
    }
    past = {user: [DATASET.item_ids[item] for item in row] for user, row in indices.items()}
    history = np.full((3, 20), DATASET.n_items)
    for row, item_ids in enumerate(past.values()):
        history[row, : len(item_ids)] = [item_index[item_id] for item_id in item_ids]
    inputs = {"history": history, "length": np.array([1, 4, 20])}
    (vectors,) = ort.InferenceSession(file).run(None, inputs)
    scores = vectors @ items["vector"].to_numpy().T
    frame = recommend(model, DATASET, past, k=12, exclude_seen=False)
    for row, user in enumerate(past):
        expected = frame.filter(pl.col("user_id") == user)
        exported = [scores[row, item_index[item_id]] for item_id in expected["item_id"]]
        assert np.allclose(exported, expected["score"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (build_model("lightgcn", DATASET, dim=8), "reads no history"),
        (build("gsau", scorer="fuse_emb"), "depend on the user"),
        (build("srgnn"), "shapes depend on the items of a history"),
    ],
    ids=["LightGCN", "GSAU", "SR-GNN"],
)
def test_a_model_that_onnx_cannot_represent_is_rejected(model, reason, tmp_path, capsys):
    with pytest.raises(ConfigError, match=reason) as caught:
        export_onnx(model, DATASET, tmp_path)
    assert "recoach export vectors" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_no_file_is_written_if_onnx_and_pytorch_disagree(tmp_path, monkeypatch):
    other = build("sasrec", seed=5)
    export_program = onnx._export_program
    monkeypatch.setattr(
        onnx,
        "_export_program",
        lambda _, *rest: export_program(onnx._Encoder(other).eval(), *rest),
    )
    with pytest.raises(ModelError, match="onnxruntime and PyTorch differ"):
        export_onnx(build("sasrec"), DATASET, tmp_path)
    assert list(tmp_path.iterdir()) == []
