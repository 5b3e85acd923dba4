"""Serving of a model whose scores are not dot products."""

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from recoach.data.queries import histories, user_queries
from recoach.errors import ConfigError
from recoach.models.base import Recommender
from recoach.serving.explanations import compare_models
from recoach.serving.onnx import export_onnx
from recoach.serving.recommend import recommend
from recoach.serving.snapshot import ModelSnapshot
from recoach.serving.vectors import export_vectors, item_vectors


class MLPConfig(BaseModel):
    """No settings."""


class MLPRecommender(Recommender):
    """Scores a pair by a network of the mean history vector and the item vector."""

    scores_at_once = 60

    def __init__(self, dataset):
        super().__init__(MLPConfig(), dataset.train, dataset.n_items)
        torch.manual_seed(0)
        self.items = torch.nn.Embedding(dataset.n_items + 1, 4, padding_idx=dataset.n_items)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
        )
        self.n_scored = []

    @property
    def history_length(self):
        return 20

    def score(self, queries, items=None):
        items = torch.arange(self.n_items) if items is None else items
        self.n_scored.append((len(queries), len(items)))
        means = self.items(queries.history).sum(dim=1) / queries.lengths[:, None]
        states = means[queries.rows][:, None].expand(-1, len(items), -1)
        items = self.items(items).expand(len(queries), -1, -1)
        return self.network(torch.cat([states, items], dim=2)).squeeze(2)

    def parameter_groups(self):
        return {"item": [self.items.weight], "encoder": list(self.network.parameters())}


@pytest.fixture
def model(dataset):
    return MLPRecommender(dataset)


def naive_ranking(model, dataset, user):
    """Return all unseen items of a user, best first, from one call of `score`."""
    past = histories(dataset, "all")
    queries = user_queries(past, np.array([user]), 20, model.n_items, mask_seen=False)
    with torch.no_grad():
        scores = model.score(queries)[0]
    order = scores.argsort(descending=True).tolist()
    return [dataset.item_ids[item] for item in order if item not in past.row(user)]


def build_query(snapshot, user, k=4, candidates=None):
    return snapshot.build_query(
        user=user, history=None, k=k, exclude_seen=True, candidates=candidates
    )


def test_lists_are_ranked_by_score(model, dataset):
    frame = recommend(model, dataset, k=6)
    lists = frame.group_by("user_id", maintain_order=True).agg("item_id")
    for user, items in enumerate(lists["item_id"].to_list()):
        assert items == naive_ranking(model, dataset, user)[:6]


def test_users_are_scored_in_blocks(model, dataset):
    recommend(model, dataset, k=6)
    n_pairs = [n_states * n_items for n_states, n_items in model.n_scored]
    assert max(n_pairs) <= model.scores_at_once
    assert sum(n_pairs) == dataset.n_users * dataset.n_items


def test_seen_items_can_be_included(model, dataset):
    frame = recommend(model, dataset, ["u1"], k=50, exclude_seen=False)
    assert sorted(frame["item_id"]) == sorted(dataset.item_ids)
    assert frame["score"].is_sorted(descending=True)


def test_only_candidates_are_scored(model, dataset):
    candidates = ["i3", "i11", "i7", "i0", "i19"]
    frame = recommend(model, dataset, ["u4"], k=20, candidates=candidates)
    assert model.n_scored == [(1, 5)]
    ranking = naive_ranking(model, dataset, dataset.user_ids.to_list().index("u4"))
    assert frame["item_id"].to_list() == [item for item in ranking if item in candidates]


def test_a_snapshot_gives_the_lists_of_recommend(model, dataset):
    snapshot = ModelSnapshot(dataset, {"base": model}, dataset.item_ids.to_list(), "one")
    queries = [build_query(snapshot, user) for user in ("u3", "u8", "u3")]
    for query, result in zip(queries, snapshot.recommend("base", queries), strict=True):
        user = dataset.user_ids[query.user]
        expected = recommend(model, dataset, [user], k=4)["item_id"].to_list()
        assert [snapshot.item_ids[item] for item in result.items] == expected


def test_a_comparison_has_ranks_and_no_similar_items(model, dataset, build):
    models = {"base": build("sasrec", dataset), "tuned": model}
    snapshot = ModelSnapshot(dataset, models, dataset.item_ids.to_list(), "one")
    base, tuned = compare_models(snapshot, build_query(snapshot, "u3")).sides
    ranking = naive_ranking(model, dataset, snapshot.user_index["u3"])
    assert [item.other_rank for item in base.items] == [
        ranking.index(item.item_id) + 1 for item in base.items
    ]
    assert all(item.because for item in base.items)
    assert [item.because for item in tuned.items] == [""] * 4


def test_exports_of_vectors_need_dot_products(model, dataset, tmp_path):
    reason = "needs a vector for each state and each item, and MLPRecommender scores"
    with pytest.raises(ConfigError, match=f"The export of vectors {reason}"):
        export_vectors(model, dataset, tmp_path)
    with pytest.raises(ConfigError, match=f"A faiss index {reason}"):
        item_vectors(model, dataset)
    assert list(tmp_path.iterdir()) == []


def test_the_onnx_export_needs_dot_products(model, dataset, tmp_path):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    with pytest.raises(ConfigError, match="The ONNX export needs a vector"):
        export_onnx(model, dataset, tmp_path)
    assert list(tmp_path.iterdir()) == []
