"""Agreement with the values of other libraries in tests/oracles/expected.json (`make oracles`)."""

import json
from pathlib import Path

import numpy as np
import pytest

from recoach.data.dataset import RaggedArray
from recoach.evaluation.beyond_accuracy import (
    RecommendationLists,
    category_matrix,
    list_metrics,
    metrics_per_list,
)
from recoach.evaluation.metrics import METRICS, MISS, TargetRanks, metrics_per_user
from recoach.evaluation.significance import minimal_detectable_effect

EXPECTED = json.loads((Path(__file__).parents[1] / "oracles" / "expected.json").read_text())
NAMES = [f"{name}@{k}" for name in sorted(set(METRICS) - {"value"}) for k in EXPECTED["ks"]]


def rank_in(ranking, item):
    return ranking.index(item) + 1 if item in ranking else MISS


@pytest.fixture(scope="module")
def metrics():
    pairs = list(zip(EXPECTED["rankings"], EXPECTED["targets"], strict=True))
    counts = np.array([len(targets) for _, targets in pairs])
    ranks = np.array([rank_in(ranking, item) for ranking, row in pairs for item in row])
    targets = TargetRanks(ranks, np.repeat(np.arange(len(pairs)), counts), counts)
    return metrics_per_user(targets, EXPECTED["ks"])


@pytest.fixture(scope="module")
def lists():
    rows, n_items = EXPECTED["histories"], EXPECTED["n_items"]
    train = RaggedArray(
        np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
    )
    items = np.array(EXPECTED["rankings"])[:, : EXPECTED["list_length"]]
    categories = category_matrix([[str(number)] for number in EXPECTED["categories"]])
    return RecommendationLists(items, train, n_items, categories=categories)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("library", ["ir-measures", "rectools"])
def test_ranking_metrics_agree_for_each_state(library, name, metrics):
    values = EXPECTED[library][name]
    assert metrics[name].tolist() == pytest.approx(values)
    assert len(set(values)) > 1  # constants would agree by accident


@pytest.mark.parametrize("name", ["popularity", "novelty", "category_diversity"])
def test_metrics_of_lists_agree_with_rectools(name, lists):
    name = f"{name}@{EXPECTED['list_length']}"
    assert metrics_per_list(lists)[name].tolist() == pytest.approx(EXPECTED["rectools"][name])


def test_coverage_agrees_with_rectools(lists):
    name = f"coverage@{EXPECTED['list_length']}"
    assert list_metrics(lists)[name] == pytest.approx(EXPECTED["rectools"][name])


def test_the_detectable_effect_agrees_with_statsmodels():
    for clusters, effect in EXPECTED["statsmodels"].items():
        assert minimal_detectable_effect(1, int(clusters)) == pytest.approx(effect, rel=0.002)
