"""Features of items, candidates of states, and settings."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import recoach
from recoach.data.targets import targets_of
from recoach.errors import ConfigError
from recoach.evaluation.beyond_accuracy import RecommendationLists, metrics_per_list
from recoach.evaluation.evaluator import top_lists
from recoach.rerank.candidates import Candidates, candidates_of, state_histories
from recoach.rerank.config import KNOBS, RerankConfig
from recoach.rerank.features import N_CLUSTERS, ItemFeatures
from recoach.rerank.registry import RERANKERS, build_reranker


def test_categories_are_read_from_text_and_lists(dataset, model):
    features = ItemFeatures(dataset, model)
    assert features.has_categories
    assert features.categories.shape == (12, 4)
    assert features.categories[0].tolist() == [1, 1, 0, 0]
    assert features.categories[2].tolist() == [0, 0, 0, 0]
    assert features.shares[8].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert features.vectors[8].norm() == pytest.approx(1.0)
    table = dataset.item_table.with_columns(pl.col("genres").str.split("|").alias("lists"))
    other = ItemFeatures(replace(dataset, item_table=table), model, "lists")
    assert torch.equal(other.categories, features.categories)


def test_clusters_of_the_vectors_of_the_model_stand_for_categories(dataset, model):
    features = ItemFeatures(replace(dataset, item_table=None), model)
    assert not features.has_categories
    vectors = torch.nn.functional.normalize(model.items.weight.detach()[:12], dim=1)
    assert torch.allclose(features.vectors, vectors)
    assert (features.categories.sum(dim=1) == 1).all()
    assert (features.categories.sum(dim=0) > 0).all()


def test_clusters_hold_similar_items():
    generator = torch.Generator().manual_seed(1)
    centres = torch.nn.functional.normalize(torch.randn(N_CLUSTERS, 16, generator=generator), dim=1)
    of_item = torch.arange(400) % N_CLUSTERS
    items = centres[of_item] + 0.05 * torch.randn(400, 16, generator=generator)
    vectors = torch.nn.functional.normalize(items, dim=1)
    labels = recoach.rerank.features._clusters(vectors)
    same = labels[:, None] == labels[None, :]
    similarity = vectors @ vectors.T
    assert similarity[same].mean() > 0.6
    assert similarity[~same].mean() < 0.1


def test_profiles_are_the_distribution_that_calibration_is_measured_against(dataset, model):
    features = ItemFeatures(dataset, model)
    targets = targets_of(dataset, "test")
    rows = state_histories(targets)
    for state in (0, 7):
        user, end = targets.users[state], targets.ends[state]
        assert rows.row(state).tolist() == targets.past.row(user)[:end].tolist()
    profiles = features.profiles(rows)
    weights = features.shares[torch.from_numpy(rows.row(0)).long()].sum(dim=0)
    assert profiles[0].tolist() == pytest.approx((weights / weights.sum()).tolist())
    assert features.profiles(rows.take_rows(np.array([], dtype=np.int64))).shape == (0, 4)


def test_a_model_without_vectors_needs_categories(dataset):
    itemknn = recoach.build_model("itemknn", dataset)
    assert ItemFeatures(dataset, itemknn).vectors.shape == (12, 4)
    with pytest.raises(ConfigError, match="has no item vectors"):
        _ = ItemFeatures(replace(dataset, item_table=None), itemknn).vectors


def test_candidates_are_the_best_items_of_the_model(dataset, model):
    targets = targets_of(dataset, "test")
    candidates = candidates_of(model, dataset, targets, 5)
    assert candidates.items[:, :3].tolist() == top_lists(model, dataset, targets, 3).tolist()
    assert (candidates.scores.diff(dim=1) <= 0).all()
    everything = candidates_of(model, dataset, targets, 100)
    assert everything.items.shape == (30, 12)
    assert ((everything.items < 0) == torch.isneginf(everything.scores)).all()


@pytest.mark.parametrize(
    ("by", "metric", "sign"),
    [
        ("mmr", "category_diversity@5", 1),
        ("dpp", "category_diversity@5", 1),
        ("calibration", "miscalibration@5", -1),
        ("popularity", "novelty@5", 1),
    ],
)
def test_a_larger_knob_improves_the_metric_of_its_objective(dataset, model, by, metric, sign):
    features = ItemFeatures(dataset, model)
    targets = targets_of(dataset, "test")
    rows = state_histories(targets)
    candidates = candidates_of(model, dataset, targets, 12)
    candidates = candidates._replace(profiles=features.profiles(rows))
    means = []
    for knob in (0.0, 0.5, 1.0):
        top = build_reranker(RerankConfig(by=by, knob=knob), features)(candidates, 5)
        lists = RecommendationLists(
            top.items.numpy(),
            dataset.train,
            12,
            histories=rows,
            categories=features.category_matrix,
        )
        means.append(sign * np.nanmean(metrics_per_list(lists)[metric]))
    assert means[0] < means[1] <= means[2] + 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "mmr", "knob": 1.5}, "the knob of mmr is 0 to 1, not 1.5"),
        ({"by": "popularity", "knob": -1}, "the knob of popularity is at least 0"),
        ({"by": "exposure_cap", "knob": 0}, "the knob of exposure_cap is 0 to 1, not 0"),
        ({"by": "mmr", "knob": 0.5, "column": "price"}, "mmr reads no column"),
        ({"by": "cost", "knob": 0.5}, "cost needs column"),
        ({"by": "exposure_floor", "knob": 0.5}, "needs either column and member, or new_days"),
        ({"by": "exposure_floor", "knob": 0.5, "column": "provider"}, "needs either column and"),
        ({"by": "mmr", "knob": 0.5, "new_days": 3.0}, "only exposure_floor has member and new_"),
        ({"by": "mmr", "knob": 0.5, "dept": 3}, "Did you mean 'depth'"),
        ({"by": "mmr"}, "Field required"),
    ],
)
def test_settings_are_strict(settings, message):
    with pytest.raises(ConfigError, match=message):
        RerankConfig(**settings)


def test_columns_that_do_not_exist_or_hold_no_numbers_are_refused(dataset, model):
    features = ItemFeatures(dataset, model)
    with pytest.raises(ConfigError, match=r"no column 'cost'\. It has genres, provider"):
        build_reranker(RerankConfig(by="cost", knob=1.0, column="cost"), features).offsets()
    with pytest.raises(ConfigError, match="column 'provider' has no numbers"):
        features.values("provider")
    with pytest.raises(ConfigError, match="no column 'kind'"):
        ItemFeatures(dataset, model, "kind")
    without = replace(dataset, train=dataset.train.keep_columns([]), item_table=None)
    with pytest.raises(ConfigError, match="the log has no column `value`"):
        ItemFeatures(without, model).values(None)
    with pytest.raises(ConfigError, match="needs the times of events"):
        ItemFeatures(without, model).new_items(3)
    with pytest.raises(ConfigError, match="There is no items table"):
        ItemFeatures(without, model).groups("provider")


def test_every_reranker_has_a_knob_with_eight_values():
    assert set(KNOBS) == set(RERANKERS)
    for knob in KNOBS.values():
        assert len(set(knob.values)) == 8
        assert all(knob.low <= value <= knob.high for value in knob.values)
        assert knob.low <= knob.neutral <= knob.high


def test_relevance_is_scaled_over_the_candidates_of_a_state():
    items = torch.tensor([[3, 1, 2], [0, 1, -1], [5, 6, 7]])
    scores = torch.tensor([[4.0, 3.0, 2.0], [1.0, -1.0, -torch.inf], [2.0, 2.0, 2.0]])
    expected = [[1.0, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert Candidates(items, scores).relevance().tolist() == expected
