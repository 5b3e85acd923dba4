"""Dual ascent: limits that can be met are met by the served lists, others are reported."""

import itertools

import numpy as np
import pytest
import torch

from recoach.errors import ConfigError
from recoach.evaluation.exposure import group_exposure
from recoach.rerank.candidates import Candidates
from recoach.rerank.config import RerankConfig
from recoach.rerank.exposure import TOLERANCE, Limits, exposure_shares, fit_offsets
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import build_reranker

K = 3


@pytest.fixture(scope="module")
def many():
    """Return 400 states that rank 12 items, with a taste for the items of low number."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, 12, generator=generator) - 0.25 * torch.arange(12)
    top = scores.sort(dim=1, descending=True)
    return Candidates(top.indices[:, :10], top.values[:, :10])


def served(candidates, fitted, groups):
    adjusted = candidates.scores + fitted.offsets[groups[candidates.items]]
    return candidates.items.gather(1, adjusted.topk(K, dim=1).indices)


def test_shares_are_those_of_the_metric(candidates):
    groups = torch.tensor([0, 1, 2, -1] * 3)
    items = candidates.items[:4]
    full = np.nan_to_num(group_exposure(items.numpy(), groups.numpy(), 3))
    lengths = np.array([3.0 if row[-1] < 0 else 7.0 for row in items.tolist()])
    totals = [np.sum(1 / np.log2(np.arange(int(n)) + 2)) for n in lengths]
    expected = (full * np.array(totals)[:, None]).sum(axis=0) / np.sum(totals)
    assert exposure_shares(items, groups, 3).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("cap", [0.2, 0.15, 0.11])
def test_no_item_has_more_than_the_cap(many, cap):
    groups = torch.arange(12)
    before = exposure_shares(many.items[:, :K], groups, 12)
    assert before.max() > cap
    fitted = fit_offsets(many, groups, Limits(torch.zeros(12), torch.full((12,), cap)), K)
    shares = exposure_shares(served(many, fitted, groups), groups, 12)
    assert fitted.is_feasible
    assert shares.max() <= cap * (1 + TOLERANCE) + 1e-6
    assert (fitted.offsets <= 0).all()
    assert fitted.offsets[before < cap * 0.5].abs().max() < fitted.offsets.abs().max()


@pytest.mark.parametrize("floor", [0.2, 0.5])
def test_a_protected_group_has_at_least_the_floor_and_not_much_more(many, floor):
    groups = torch.where(torch.arange(12) >= 8, 0, -1)
    assert exposure_shares(many.items[:, :K], groups, 1) < floor
    fitted = fit_offsets(many, groups, Limits(torch.tensor([floor]), torch.ones(1)), K)
    offsets = torch.cat([fitted.offsets, torch.zeros(1)])
    adjusted = many.scores + offsets[torch.where(groups >= 0, 0, 1)[many.items]]
    items = many.items.gather(1, adjusted.topk(K, dim=1).indices)
    share = float(exposure_shares(items, groups, 1))
    assert floor * (1 - TOLERANCE) <= share < floor * 1.1


def test_of_the_steps_that_keep_the_limits_the_most_accurate_one_counts():
    """The first step moves two of three states, where one is enough."""
    items, scores = torch.tensor([[0, 1]] * 3), torch.tensor([[0.0, -0.1], [0.0, -2], [0.0, -9]])
    candidates, groups = Candidates(items, scores), torch.tensor([-1, 0])
    fitted = fit_offsets(candidates, groups, Limits(torch.tensor([0.33]), torch.ones(1)), 1)
    assert fitted.is_feasible
    assert 0.1 < float(fitted.offsets) < 2


def test_the_loss_is_that_of_the_best_offset_of_a_grid(many):
    """With one group the best offset can be found by trying all."""
    groups = torch.where(torch.arange(12) >= 8, 0, 1)
    limits = Limits(torch.tensor([0.4, 0.0]), torch.ones(2))
    fitted = fit_offsets(many, groups, limits, K)

    def outcome(offset):
        adjusted = many.scores + torch.tensor([offset, 0.0])[groups[many.items]]
        places = adjusted.topk(K, dim=1).indices
        share = exposure_shares(many.items.gather(1, places), groups, 2)[0]
        return float(share), float(many.scores.gather(1, places).mean())

    best = max(score for share, score in map(outcome, np.linspace(0, 5, 101)) if share >= 0.4)
    assert outcome(float(fitted.offsets[0] - fitted.offsets[1]))[1] >= best - 0.02


def test_a_limit_that_candidates_cannot_meet_is_reported(many):
    groups = torch.arange(12)
    fitted = fit_offsets(many, groups, Limits(torch.zeros(12), torch.full((12,), 0.02)), K)
    assert not fitted.is_feasible
    assert fitted.violation > TOLERANCE


def test_caps_hold_for_providers_and_leave_items_without_one_alone(dataset, model, candidates):
    config = RerankConfig(by="exposure_cap", knob=0.4, column="provider")
    reranker = build_reranker(config, ItemFeatures(dataset, model))
    assert list(reranker.groups.names) == ["x", "y", "z"]
    assert reranker.groups.numbers.tolist() == [0, 0, 1, -1, *[2] * 8]
    reranker.fit(candidates, K)
    assert reranker.offsets()[3] == 0
    assert reranker.offsets()[4] == reranker.fitted.offsets[2] < 0
    assert reranker.unit(candidates, K) == pytest.approx(
        float(exposure_shares(candidates.items[:, :K], reranker.groups.numbers, 3).max())
    )


def test_floors_protect_a_member_or_new_items(dataset, model):
    features = ItemFeatures(dataset, model)
    member = RerankConfig(by="exposure_floor", knob=0.2, column="provider", member="x")
    numbers = build_reranker(member, features).groups.numbers
    assert numbers.tolist() == [0, 0, *[-1] * 10]
    times, values = dataset.train.columns["timestamp"].to_numpy(), dataset.train.values
    first = [times[values == item].min() for item in range(12)]
    for days in (1.5, 3.0):
        new = build_reranker(RerankConfig(by="exposure_floor", knob=0.2, new_days=days), features)
        is_new = [(times.max() - time) <= days * 86_400_000 for time in first]
        assert (new.groups.numbers == 0).tolist() == is_new
    with pytest.raises(ConfigError, match="has no value 'w'"):
        build_reranker(
            RerankConfig(by="exposure_floor", knob=0.2, column="provider", member="w"), features
        )


def test_groups_partition_the_items(dataset, model):
    groups = ItemFeatures(dataset, model).groups(None)
    assert groups.numbers.tolist() == list(range(12))
    assert len(set(itertools.chain(groups.names))) == 12
