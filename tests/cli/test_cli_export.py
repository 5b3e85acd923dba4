"""`recoach export`: exported models give the rankings of `recoach recommend`."""

import sys

import numpy as np
import polars as pl
import pytest

from recoach.cli import export, serve
from recoach.data.prepared import load_dataset
from recoach.experiments.run_folder import RunFolder
from recoach.models.base import Recommender
from recoach.models.neighbours.popularity import PopularityConfig


def tables(folder):
    users, items = (pl.read_parquet(folder / f"{name}.parquet") for name in ("users", "items"))
    return (users["user_id"].to_list(), users["vector"].to_numpy()), (
        items["item_id"].to_list(),
        items["vector"].to_numpy(),
    )


def recommended(recoach, run, path, *more):
    args = ("--users", "u3", "--k", 5, "--no-exclude-seen", "--output", path)
    assert recoach("recommend", run, *args, *more).code == 0
    return pl.read_csv(path)["item_id"].to_list()


@pytest.mark.parametrize("stage", ["tuned", "base"])
def test_exported_vectors_give_the_ranking_of_the_model(recoach, finished, tmp_path, stage):
    chosen = ["--stage", stage]
    result = recoach("export", "vectors", finished, "--output", tmp_path / "v", *chosen)
    assert result.code == 0
    assert f"Exported the {stage} model" in result.out
    (users, user_vectors), (items, item_vectors) = tables(tmp_path / "v")
    best = np.argsort(-item_vectors @ user_vectors[users.index("u3")])[:5]
    assert [items[n] for n in best] == recommended(recoach, finished, tmp_path / "l.csv", *chosen)


def test_a_faiss_index_returns_the_recommendations_of_the_model(recoach, finished, tmp_path):
    faiss = pytest.importorskip("faiss", reason="the ann extra is not installed")
    assert recoach("export", "faiss", finished, "--output", tmp_path / "f").code == 0
    (users, user_vectors), (items, _) = tables(tmp_path / "f")
    index = faiss.read_index(str(tmp_path / "f" / "items.faiss"))
    _, best = index.search(user_vectors[[users.index("u3")]], 5)
    assert [items[n] for n in best[0]] == recommended(recoach, finished, tmp_path / "l.csv")


def test_the_query_encoder_is_written_and_checked(recoach, finished, tmp_path):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    result = recoach("export", "onnx", finished, "--output", tmp_path / "o")
    assert result.code == 0
    assert "differ by at most" in result.out
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["items.parquet", "query.onnx", "users.parquet"]


def test_an_export_without_valid_paths_is_refused(recoach, finished, tmp_path):
    result = recoach("export", "vectors", tmp_path, "--output", tmp_path / "v")
    assert (result.code, "is not a run folder" in result.err) == (2, True)
    (tmp_path / "file").write_text("")
    result = recoach("export", "vectors", finished, "--output", tmp_path / "file")
    assert (result.code, "Cannot write" in result.err) == (2, True)


def test_a_missing_extra_is_named(recoach, finished, tmp_path, monkeypatch):
    for module, what, extra in (("faiss", "faiss", "ann"), ("onnxruntime", "onnx", "onnx")):
        monkeypatch.setitem(sys.modules, module, None)
        result = recoach("export", what, finished, "--output", tmp_path / "x")
        assert result.code == 2
        assert f"pip install 'recoach[{extra}]'" in result.err
    assert not (tmp_path / "x").exists()


def test_a_large_catalogue_is_served_from_an_index(finished, monkeypatch):
    pytest.importorskip("faiss", reason="the ann extra is not installed")
    folder = RunFolder(finished)
    snapshot = serve.read_snapshot(folder)
    assert snapshot.faiss_indexes == {}
    monkeypatch.setattr(serve, "EXACT_UP_TO", 39)
    indexed_snapshot = serve.read_snapshot(folder)
    assert set(indexed_snapshot.faiss_indexes) == set(indexed_snapshot.models)
    query = snapshot.build_query(user="u3", history=None, k=5, exclude_seen=True, candidates=None)
    for stage in indexed_snapshot.faiss_indexes:
        assert indexed_snapshot.recommend(stage, [query])[0].items.tolist() == (
            snapshot.recommend(stage, [query])[0].items.tolist()
        )
    monkeypatch.setattr(serve, "has_faiss", lambda: False)
    assert serve.read_snapshot(folder).faiss_indexes == {}


class _Scorer(Recommender):
    """A model without vectors."""

    def score(self, queries, items=None):
        raise NotImplementedError

    def parameter_groups(self):
        return {}


@pytest.mark.parametrize("command", ["vectors", "faiss", "onnx"])
def test_exports_reject_a_model_without_vectors(recoach, finished, tmp_path, monkeypatch, command):
    dataset = load_dataset(RunFolder(finished).dataset)
    scorer = _Scorer(PopularityConfig(), dataset.train, dataset.n_items)
    monkeypatch.setattr(export, "open_model", lambda *_: ("base", scorer, dataset))
    result = recoach("export", command, finished, "--output", tmp_path / "x")
    assert result.code == 2
    message = "needs a vector for each state and each item, and _Scorer scores"
    assert message in " ".join(result.err.split())
    assert not (tmp_path / "x").exists()
