"""Every re-ranker against a slow one, and what holds for all of them."""

import math

import numpy as np
import pytest
import torch

from recoach.rerank.base import greedy_order
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import KNOBS, RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import RERANKERS, build_reranker
from recoach.rerank.similarity import KERNEL_WEIGHT, _LogDeterminant

K = 4
GIVEN = {"cost": {"column": "price"}, "exposure_floor": {"new_days": 2.0}}


@pytest.fixture(scope="module")
def features(dataset, model):
    return ItemFeatures(dataset, model)


def build(features, by, knob):
    return build_reranker(RerankConfig(by=by, knob=knob, **GIVEN.get(by, {})), features)


def states(candidates):
    """Return (items, scores, profile) of each state as plain values."""
    for row, scores, profile in zip(*candidates, strict=True):
        n = int((row >= 0).sum())
        yield row[:n].tolist(), scores[:n].double().numpy(), profile.double().numpy()


def scaled(scores):
    return (scores - scores.min()) / max(scores.max() - scores.min(), 1e-12)


def slow_greedy(candidates, value):
    """Return the lists that greedily maximise value(list of places, scores, items, profile)."""
    lists = []
    for items, scores, profile in states(candidates):
        chosen = []
        for _ in range(min(K, len(items))):
            left = [place for place in range(len(items)) if place not in chosen]
            gains = [value([*chosen, place], scores, items, profile) for place in left]
            chosen.append(left[int(np.argmax(np.round(gains, 6)))])
        lists.append([items[place] for place in chosen])
    return lists


def lists_of(top):
    return [[item for item in row if item >= 0] for row in top.items.tolist()]


@pytest.mark.parametrize("knob", [0.1, 0.5, 0.9, 1.0])
def test_mmr_is_its_formula(features, candidates, knob):
    vectors = features.vectors.double().numpy()

    def value(places, scores, items, _):
        *chosen, last = places
        nearest = max((vectors[items[last]] @ vectors[items[j]] for j in chosen), default=0.0)
        return (1 - knob) * scaled(scores)[last] - knob * nearest

    expected = slow_greedy(candidates, value)
    assert lists_of(build(features, "mmr", knob)(candidates, K)) == expected


@pytest.mark.parametrize("knob", [0.05, 0.5, 0.9, 1.0])
def test_dpp_is_greedy_over_exact_determinants(features, candidates, knob):
    vectors = features.vectors.double().numpy()

    def value(places, scores, items, _):
        chosen = vectors[[items[place] for place in places]]
        kernel = KERNEL_WEIGHT * chosen @ chosen.T
        np.fill_diagonal(kernel, 1.0)
        relevance = scaled(scores)[places].sum()
        return (1 - knob) * relevance + knob * np.log(np.linalg.det(kernel))

    assert lists_of(build(features, "dpp", knob)(candidates, K)) == slow_greedy(candidates, value)


def test_dpp_is_greedy_over_exact_determinants_of_many_items(features):
    """The factor grows by a row for each item: the rows of later items depend on all before."""
    generator = torch.Generator().manual_seed(5)
    units = torch.nn.functional.normalize(torch.randn(1, 30, 6, generator=generator), dim=2)
    criterion = _LogDeterminant(torch.zeros(1, 30), units, 1.0)
    order = greedy_order(criterion, torch.ones(1, 30, dtype=torch.bool), 12)[0].tolist()
    kernel = KERNEL_WEIGHT * (units[0] @ units[0].T).double().numpy()
    np.fill_diagonal(kernel, 1.0)
    expected = []
    for _ in range(12):
        left = [item for item in range(30) if item not in expected]
        pairs = [[*expected, item] for item in left]
        determinants = [np.linalg.det(kernel[np.ix_(pair, pair)]) for pair in pairs]
        expected.append(left[int(np.argmax(np.round(np.log(determinants), 6)))])
    assert order == expected


@pytest.mark.parametrize("by", RERANKERS)
def test_positions_without_an_item_are_marked(features, candidates, by):
    reranker = build(features, by, KNOBS[by].values[3])
    positions = reranker.select(candidates, K)
    assert (positions < 0).tolist() == (candidates.items[:, :K] < 0).tolist()


@pytest.mark.parametrize("knob", [0.1, 0.5, 0.9, 1.0])
def test_xquad_is_its_formula(features, candidates, knob):
    categories = features.categories.double().numpy()

    def value(places, scores, items, profile):
        relevance = scaled(scores)
        covers = [relevance[place] * categories[items[place]] for place in places]
        left = np.prod([1 - cover for cover in covers[:-1]], axis=0) if covers[:-1] else 1.0
        return (1 - knob) * relevance[places[-1]] + knob * (profile * covers[-1] * left).sum()

    assert lists_of(build(features, "xquad", knob)(candidates, K)) == slow_greedy(candidates, value)


@pytest.mark.parametrize("knob", [0.1, 0.5, 0.9, 1.0])
def test_calibration_is_its_formula(features, candidates, knob):
    categories = features.categories.double().numpy()

    def value(places, scores, items, p):
        rows = categories[[items[place] for place in places]]
        sums = (rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)).sum(axis=0)
        q = 0.99 * sums / max(sums.sum(), 1e-12) + 0.01 * p
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        return (1 - knob) * scaled(scores)[places].sum() - knob * kl

    expected = slow_greedy(candidates, value)
    assert lists_of(build(features, "calibration", knob)(candidates, K)) == expected


@pytest.mark.parametrize("knob", [0.2, 1.5])
@pytest.mark.parametrize("by", ["popularity", "cost", "value"])
def test_offsets_are_their_formula(dataset, features, candidates, by, knob):
    counts = np.bincount(dataset.train.values, minlength=12)
    prices = np.array([6.0, *range(1, 12)])  # the first is missing: the mean of the others
    values = dataset.train.columns["value"].to_numpy()
    sums = np.bincount(dataset.train.values, weights=values, minlength=12)
    means = np.maximum(sums / counts / (sums / counts).mean(), 1e-6)
    added = {"popularity": -np.log(counts + 1), "cost": -prices, "value": np.log(means)}[by]
    expected = [
        [items[place] for place in np.argsort(-(scores + knob * added[items]), kind="stable")[:K]]
        for items, scores, _ in states(candidates)
    ]
    assert lists_of(build(features, by, knob)(candidates, K)) == expected


@pytest.mark.parametrize("by", RERANKERS)
def test_the_neutral_knob_keeps_the_lists_of_the_model(features, candidates, by):
    reranker = build(features, by, KNOBS[by].neutral)
    reranker.fit(candidates, K)
    top = reranker(candidates, K)
    assert top.items.tolist() == candidates.items[:, :K].tolist()
    assert torch.equal(top.scores, candidates.scores[:, :K])


@pytest.mark.parametrize("by", RERANKERS)
def test_lists_hold_distinct_candidates_with_their_scores(features, candidates, by):
    knob = KNOBS[by].values[-1]
    reranker = build(features, by, knob)
    reranker.fit(candidates, K)
    top = reranker(candidates, K)
    for row, scores, items, all_scores in zip(*top, *candidates[:2], strict=True):
        score_of = dict(zip(items.tolist(), all_scores.tolist(), strict=True))
        n_items = min(K, int((items >= 0).sum()))
        chosen = row[row >= 0].tolist()
        assert len(set(chosen)) == len(chosen) == n_items
        assert scores.tolist() == [score_of[item] for item in row.tolist()]


@pytest.mark.parametrize("by", RERANKERS)
def test_a_state_has_the_same_list_alone_and_in_a_batch(features, candidates, by, monkeypatch):
    reranker = build(features, by, KNOBS[by].values[3])
    reranker.fit(candidates, K)
    together = reranker(candidates, K).items
    monkeypatch.setattr("recoach.rerank.base._CELLS", 1)
    assert torch.equal(reranker(candidates, K).items, together)


@pytest.mark.parametrize("by", ["calibration", "dpp", "mmr", "xquad"])
def test_scores_of_another_scale_give_the_same_lists(features, candidates, by):
    other = candidates._replace(scores=candidates.scores * 7 - 3)
    reranker = build(features, by, 0.4)
    assert torch.equal(reranker(other, K).items, reranker(candidates, K).items)


def test_lists_are_not_longer_than_the_candidates(features, candidates):
    assert build(features, "mmr", 0.3)(candidates, 50).items.shape == (5, 7)
    no_states = Candidates(candidates.items[:0], candidates.scores[:0])
    assert build(features, "mmr", 0.3)(no_states, K).items.shape == (0, K)


def test_the_unit_of_an_offset_brings_costs_to_the_spread_of_scores(features, candidates):
    base = build(features, "cost", 1.0)
    wide = candidates._replace(scores=candidates.scores * 10)
    assert base.unit(wide, K) == pytest.approx(10 * base.unit(candidates, K))
    prices = np.array([6.0, *range(1, 12)])
    rows = [(scores.std(), prices[items].std()) for items, scores, _ in states(candidates) if items]
    numerator, denominator = np.sum(rows, axis=0)
    assert base.unit(candidates, K) == pytest.approx(numerator / denominator, rel=1e-5)
