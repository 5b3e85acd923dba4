"""Reward functions: what each pays, and how several become one."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.policy.reward_funcs import (
    by_name,
    future,
    item_reward,
    log_reward,
    next_item,
    novelty,
    rated,
    serendipity,
)
from recoach.policy.rewards import CombinedReward, LoggedItems, call_reward
from toy_logs import log_with_ratings

AHEAD = torch.tensor([1, 2, 0, 4])
RATING = torch.tensor([5.0, 1.0, torch.nan, torch.nan])
LOGGED = LoggedItems(
    torch.tensor([0, 0, 0, 1]), torch.tensor([3, 5, 6, 1]), AHEAD, {"rating": RATING}
)
USERS = torch.tensor([7, 9])


def test_the_worst_rating_pays_nothing_the_best_all_and_an_unknown_one_the_mean():
    pay = rated(torch.tensor([1.0, 2.0, 5.0, torch.nan]), discount=0.5)
    found = pay(prompts=USERS, completions=LOGGED.items, ahead=AHEAD, rating=RATING)
    mean = (8 / 3 - 1) / 4
    assert found.tolist() == pytest.approx([1.0, 0.0, 0.0, 0.125 * mean])


def test_ratings_that_are_all_alike_grade_nothing():
    pay = rated(torch.tensor([4.0, 4.0]), discount=0.5)
    found = pay(prompts=USERS, completions=LOGGED.items, ahead=AHEAD, rating=RATING)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.0, 0.125])


def test_novelty_pays_for_what_few_have_taken():
    dataset = leave_last_out(log_with_ratings())
    pay = novelty(dataset)
    worth = pay(prompts=USERS, completions=torch.arange(dataset.n_items))
    counts = np.bincount(dataset.train.values, minlength=dataset.n_items)
    assert worth[counts <= 1].tolist() == [1.0] * int((counts <= 1).sum())
    assert worth[counts > 1].tolist() == pytest.approx([1 - np.log(2) / np.log(6)] * 2)


def test_serendipity_leaves_out_what_is_popular():
    dataset = leave_last_out(log_with_ratings())
    counts = np.bincount(dataset.train.values, minlength=dataset.n_items)
    pay = serendipity(dataset, 0.5, k=2)
    ahead = torch.full((dataset.n_items,), 3)
    worth = pay(prompts=ahead, completions=torch.arange(dataset.n_items), ahead=ahead)
    assert worth[counts > 1].tolist() == [0.0, 0.0]
    assert worth[counts <= 1].tolist() == [0.25] * (dataset.n_items - 2)
    not_taken = pay(prompts=ahead, completions=torch.arange(dataset.n_items), ahead=0 * ahead)
    assert not_taken.tolist() == [0.0] * dataset.n_items
    everything = serendipity(dataset, 0.5, k=100)
    assert everything(prompts=ahead, completions=ahead, ahead=ahead).tolist() == [0.0] * len(ahead)


def test_several_rewards_are_weighed_and_what_earns_nothing_is_left_out():
    found = CombinedReward([next_item, future(0.5)], [2.0, 1.0]).logged_rewards(LOGGED, USERS)
    assert found.items.tolist() == [3, 5, 1]
    assert found.values.tolist() == pytest.approx([3.0, 0.5, 0.125])
    assert found.parts.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.5, 0.125]]


def test_rewards_normalised_first_do_not_depend_on_their_units():
    def scaled(factor):
        @log_reward
        def pay(prompts, completions, ahead, **_):
            return factor * (ahead > 0)

        @item_reward
        def price(prompts, completions, **_):
            return factor * completions.float() + factor

        return CombinedReward([pay, price, future(0.5)], [1, 3, 1], "normalize_then_sum", n_items=9)

    small, large = scaled(0.1), scaled(1000.0)
    values = [rewarder.logged_rewards(LOGGED, USERS).values for rewarder in (small, large)]
    assert torch.allclose(*values)
    assert values[0][0] == pytest.approx(1 + 1 / np.mean([1, 0.5, 0.125]))
    assert torch.allclose(small.item_rewards, large.item_rewards, atol=1e-4)
    assert small.item_rewards.std(correction=0).item() == pytest.approx(3, rel=1e-4)


def test_a_function_is_given_the_user_and_the_columns_and_may_pay_none():
    asked = {}

    @log_reward
    def own(prompts, completions, **columns):
        asked.update(columns, prompts=prompts)
        return [None, 2.0, float("nan"), 1]

    found = CombinedReward([own]).logged_rewards(LOGGED, USERS)
    assert found.items.tolist() == [5, 1]
    assert found.values.tolist() == [2.0, 1.0]
    assert asked["prompts"].tolist() == [7, 7, 7, 9]
    assert torch.equal(asked["ahead"], AHEAD)
    assert set(asked) == {"prompts", "ahead", "rating"}


def test_a_function_that_answers_too_little_is_named():
    def short(prompts, completions, **_):
        return [1.0]

    with pytest.raises(
        ConfigError, match=r"short was called with .* \(3,\) and returned shape \(1,\)"
    ):
        call_reward(short, {"prompts": USERS, "completions": torch.arange(3)})


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="2 numbers for 1 reward functions"):
        CombinedReward([next_item], [1.0, 2.0])


def test_ready_made_rewards_need_their_data_and_their_names():
    dataset = leave_last_out(log_with_ratings())
    pay = by_name("rated", dataset, 0.5)
    assert pay(prompts=USERS, completions=LOGGED.items, ahead=AHEAD, rating=RATING)[0] == 1
    without = leave_last_out(replace(log_with_ratings(), columns={}))
    with pytest.raises(ConfigError, match="needs ratings"):
        by_name("rated", without, 0.5)
    with pytest.raises(ConfigError, match="no ready-made reward 'futur'; there are next, return"):
        by_name("futur", dataset, 0.5)


def test_ratings_follow_their_interactions_into_training():
    log = log_with_ratings()
    dataset = leave_last_out(log)
    frame = log.frame()
    for user in range(2):
        row = dataset.train.row(user)
        start = dataset.train.offsets[user]
        for place, item in enumerate(row):
            mine = frame.filter(
                (pl.col("user_id") == f"u{user}")
                & (pl.col("item_id") == dataset.item_ids[int(item)])
            )
            assert dataset.ratings[start + place] == mine["rating"][0]
