"""Rewards of lists: their values, and what each rank adds to them."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.policy.list_rewards import calibration, diversity, list_reward
from toy_logs import log_with_ratings

USERS = torch.tensor([0, 0])


def reward(function, lists, users=USERS):
    """Return the reward of each list, the sum over its ranks."""
    gains = function(prompts=users, completions=torch.tensor(lists))
    assert gains.shape == (len(lists), len(lists[0]))
    return gains.sum(dim=1)


def test_a_list_of_one_kind_is_less_diverse_than_one_of_two():
    pay = diversity(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    assert reward(pay, [[0, 1], [0, 2]]).tolist() == pytest.approx([0.0, 1.0])


def test_opposites_are_more_diverse_than_strangers():
    pay = diversity(torch.tensor([[1.0, -1.0], [-2.0, 2.0], [0.5, 0.5]]))
    assert reward(pay, [[0, 1], [1, 2]]).tolist() == pytest.approx([2.0, 1.0])
    assert reward(pay, [[0, 1, 2]], USERS[:1]).tolist() == pytest.approx([4 / 3])
    assert reward(pay, [[2]], USERS[:1]).tolist() == [1.0]


def test_a_list_is_calibrated_to_the_taste_of_the_user_it_is_for():
    dataset = leave_last_out(log_with_ratings())
    assert [dataset.train.row(user).tolist() for user in (0, 1)] == [[5, 4, 3, 2], [3, 2]]
    pay = calibration(torch.tensor([0, 0, 1, 1, 0, 0]), dataset)
    found = reward(pay, [[2, 3], [2, 3], [1, 3], [1, 3]], torch.tensor([0, 1, 0, 1]))
    unlike = 0.5 * np.log(0.5 / 0.005) + 0.5 * np.log(0.5 / 0.995)
    assert found.tolist() == pytest.approx([-unlike, 0, 0, np.log(0.505)], abs=1e-6)


def test_a_list_like_the_history_is_the_best_calibrated():
    dataset = leave_last_out(log_with_ratings())
    kinds = torch.arange(dataset.n_items) % 2
    own = kinds[torch.from_numpy(dataset.train.row(0)).long()].float().mean()
    assert own == 0.5
    pay = calibration(kinds, dataset)
    found = reward(pay, [[0, 1], [0, 2], [1, 3]], torch.zeros(3, dtype=torch.int64))
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] == pytest.approx(found[2].item())
    assert found[1] < -1


def test_categories_may_be_shares_and_an_item_may_have_none():
    dataset = leave_last_out(log_with_ratings())
    kinds = torch.tensor([0, 0, 1, 1, 0, 0])
    shares = functional.one_hot(kinds).float()
    lists = [[2, 3], [1, 3]]
    assert torch.equal(
        reward(calibration(shares, dataset), lists), reward(calibration(kinds, dataset), lists)
    )
    shares[1] = 0.0  # a place of the list without a category
    half = 0.99 * 0.5 + 0.01 * 0.5
    expected = -(0.5 * np.log(0.5 / 0.005) + 0.5 * np.log(0.5 / half))
    found = reward(calibration(shares, dataset), [[1, 3]], USERS[:1])
    assert found.tolist() == pytest.approx([expected])


def test_open_places_of_a_list_hold_no_category():
    dataset = leave_last_out(log_with_ratings())
    pay = calibration(torch.tensor([0, 0, 1, 1, 0, 0]), dataset)  # history: a half of each
    gains = pay(prompts=USERS[:1], completions=torch.tensor([[2, 0]]))
    hundred = np.log(100)  # the divergence of an empty list
    assert gains.tolist()[0] == pytest.approx([-0.5 * hundred, 0.5 * hundred])


@pytest.mark.parametrize("kind", ["diversity", "calibration"])
def test_a_rank_adds_what_the_items_up_to_it_decide(kind):
    dataset = leave_last_out(log_with_ratings())
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(dataset.n_items, 4, generator=generator)
    function = (
        diversity(vectors)
        if kind == "diversity"
        else calibration(torch.arange(dataset.n_items) % 3, dataset)
    )
    lists = torch.tensor(list(itertools.permutations(range(dataset.n_items), 4)))
    gains = function(prompts=torch.zeros(len(lists), dtype=torch.int64), completions=lists)
    for rank in range(4):
        first = lists[:, : rank + 1]
        alike = (first[:, None] == first).all(dim=2)
        assert ((gains[:, None, rank] - gains[:, rank]).abs() < 1e-6)[alike].all()
    sums = gains.sum(dim=1)
    unordered = (lists.sort(dim=1).values[:, None] == lists.sort(dim=1).values).all(dim=2)
    assert ((sums[:, None] - sums).abs() < 1e-5)[unordered].all()
    assert sums.std() > 0.01


def test_a_named_reward_uses_the_categories_of_the_items_table_or_the_base_s_vectors():
    dataset = leave_last_out(log_with_ratings())
    base = build_model("bprmf", dataset, dim=3, seed=1)
    lists, users = torch.tensor([[0, 1], [0, 2]]), torch.tensor([0, 0])

    def gains(function):
        return function(prompts=users, completions=lists)

    vectors = base.items.weight.detach()[: dataset.n_items]
    named = list_reward("diversity", dataset, base)
    assert torch.allclose(gains(named), gains(diversity(vectors)), atol=1e-6)
    kinds = torch.tensor([0, 0, 1, 1, 0, 0])
    table = pl.DataFrame({"item_id": dataset.item_ids, "category": [f"c{k}" for k in kinds]})
    tabled = replace(dataset, item_table=table)
    assert reward(list_reward("diversity", tabled, base), [[0, 1], [0, 2]]).tolist() == [0.0, 1.0]
    named = list_reward("calibration", tabled, base)
    assert torch.allclose(gains(named), gains(calibration(kinds, dataset)))
