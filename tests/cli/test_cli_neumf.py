"""The commands with a model whose scores are no dot products, end to end."""

import polars as pl
import pytest

from recoach.data.prepared import load_dataset
from recoach.evaluation.evaluator import evaluate
from recoach.models.checkpoint import load_model

TOML = """
[data]
path = "{log}"
split = "leave_last_out"

[model]
name = "neumf"
dim = 8
mlp_dim = 8
hidden_dims = [16, 8]

[pretrain]
epochs = 3
batch_size = 128
learning_rate = 0.01

[finetune]
max_steps = 6
eval_steps = 3
batch_size = 128
patience = 0
"""


@pytest.fixture(scope="module")
def run(recoach, log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("neumf")
    (folder / "neumf.toml").write_text(TOML.format(log=log))
    result = recoach("run", folder / "neumf.toml", "--output", folder / "run")
    assert result.code == 0, result
    return folder / "run"


def test_a_run_trains_tunes_evaluates_and_reports_neumf(run, run_files):
    models = run_files.results(run)["models"]
    assert set(models) == {"popularity", "base", "control", "tuned"}
    assert models["control"]["steps"] == models["tuned"]["steps"] == 6
    dataset = load_dataset(run / "dataset")
    for stage in ("base", "control", "tuned"):
        model = load_model(run / "checkpoints" / stage, dataset)
        means = evaluate(model, dataset, ks=(1, 5, 10, 50)).means()
        assert models[stage]["test"] == pytest.approx(means, abs=1e-6)
    assert "neumf" in (run / "report.html").read_text().lower()


def test_neumf_recommends_to_known_and_to_new_users(recoach, run, tmp_path):
    arguments = ("--users", "u3", "--k", 5, "--output", tmp_path / "known.csv")
    assert recoach("recommend", run, *arguments).code == 0
    assert pl.read_csv(tmp_path / "known.csv").height == 5
    new_users = tmp_path / "new.csv"
    new_users.write_text("user_id,item_id\nnew,i1\nnew,i2\nother,i30\n")
    arguments = ("--histories", new_users, "--k", 5, "--output", tmp_path / "new_lists.csv")
    result = recoach("recommend", run, *arguments)
    assert result.code == 0, result
    lists = pl.read_csv(tmp_path / "new_lists.csv").partition_by("user_id", as_dict=True)
    first, second = (frame["item_id"].to_list() for frame in lists.values())
    assert len(first) == len(second) == 5
    assert first != second


def test_the_evaluation_of_neumf_repeats(recoach, run, run_files):
    before = run_files.results(run)["models"]
    result = recoach("evaluate", run)
    assert result.code == 0, result
    models = run_files.results(run)["models"]
    assert all(models[name]["test"] == before[name]["test"] for name in before)


@pytest.mark.parametrize("what", ["vectors", "onnx", "faiss"])
def test_exports_of_vectors_refuse_neumf(recoach, run, tmp_path, what):
    if what == "faiss":
        pytest.importorskip("faiss", reason="the ann extra is not installed")
    if what == "onnx":
        pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    result = recoach("export", what, run, "--output", tmp_path / "x")
    assert result.code == 2
    message = "needs a vector for each state and each item, and NeuMF scores them in another way"
    assert message in " ".join(result.err.split())
    assert not (tmp_path / "x").exists()
