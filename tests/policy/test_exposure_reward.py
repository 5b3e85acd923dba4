"""The reward `exposure`: the gradient of a concave function of the served exposure."""

import math
from dataclasses import replace

import polars as pl
import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.policy.exposure_reward import ExposureReward
from recoach.policy.reward_funcs import by_name, future, novelty, scope_of
from recoach.policy.rewards import CombinedReward
from toy_logs import cycle

ITEMS = 6
DATASET = leave_last_out(cycle(24, ITEMS, length=5))
TABLE = pl.DataFrame(
    {
        "item_id": DATASET.item_ids,
        "maker": ["a", "a", "a", "b", "c", None],
        "shop": ["one"] * ITEMS,
    }
)
DATASET = replace(DATASET, item_table=TABLE)
ALL = torch.arange(ITEMS)
FIRST = math.log2(3)
"""Weight of the first rank relative to the second."""


def of(column="maker"):
    return ExposureReward(DATASET, column)


def rewards_of(reward):
    return reward(prompts=ALL[:0], completions=ALL).double()


def entropy_of(exposure, n_groups):
    smoothed = 0.99 * exposure / exposure.sum() + 0.01 / n_groups
    return -(smoothed * smoothed.log()).sum() / (0.99 * math.log(100 * n_groups))


@pytest.mark.parametrize("lists", [[[0, 3], [4, 1]], [[0, 1]], [[5, 0], [3, 4]]])
def test_the_reward_is_the_gradient_of_the_entropy(lists):
    reward = of()
    value = reward.measure(torch.tensor(lists))
    exposure = reward.shares.clone().requires_grad_()
    entropy = entropy_of(exposure, 3)
    (gradient,) = torch.autograd.grad(entropy, exposure)
    assert value == pytest.approx(entropy.item())
    assert reward.shares.sum().item() == pytest.approx(1)
    expected = torch.cat([gradient[torch.tensor([0, 0, 0, 1, 2])], torch.zeros(1)])
    assert torch.allclose(rewards_of(reward), expected, atol=1e-6)


def test_groups_with_less_exposure_are_rewarded_more_and_within_bounds():
    reward = of()
    reward.measure(torch.tensor([[0, 1], [0, 3]]))
    a, _, _, b, c, none = rewards_of(reward).tolist()
    assert -1 < a < 0 < b < c < 1
    assert none == 0
    assert (reward.shares * reward.group_rewards()).sum().item() == pytest.approx(0, abs=1e-12)


def test_nothing_is_rewarded_before_the_first_measurement_or_where_shares_are_equal():
    reward = of()
    assert rewards_of(reward).tolist() == [0] * ITEMS
    assert reward.measure(torch.tensor([[0], [3], [4]])) == pytest.approx(reward.highest)
    assert rewards_of(reward).tolist() == pytest.approx([0] * ITEMS)
    reward.measure(torch.tensor([[0]]))
    assert rewards_of(reward)[0] < 0
    reward.reset()
    assert rewards_of(reward).tolist() == [0] * ITEMS


def test_shares_are_weighted_by_rank_and_averaged_over_evaluations():
    reward = of()
    reward.measure(torch.tensor([[0, 3]]))
    first = torch.tensor([FIRST, 1, 0]) / (FIRST + 1)
    assert torch.allclose(reward.shares.float(), first)
    reward.measure(torch.tensor([[4, -1]]))
    assert torch.allclose(reward.shares.float(), (first + torch.tensor([0.0, 0, 1])) / 2)


def test_lists_without_an_item_of_a_group_are_left_out():
    reward = of()
    reward.measure(torch.tensor([[0, 3]]))
    before = reward.shares.clone()
    assert reward.measure(torch.tensor([[5, -1]])) == 0
    assert torch.equal(reward.shares, before)


def test_without_a_column_every_item_is_a_group():
    reward = by_name("exposure", DATASET, 0.8)
    reward.measure(torch.tensor([[0], [0], [1]]))
    found = rewards_of(reward)
    assert found[0] < found[1] < found[2] == found[5]
    by_maker = by_name("exposure", DATASET, 0.8, exposure_column="maker")
    assert by_maker.column == "maker"


@pytest.mark.parametrize(("column", "message"), [("brand", "no column"), ("shop", "has 1;")])
def test_a_column_that_divides_nothing_is_refused(column, message):
    with pytest.raises(ConfigError, match=message):
        of(column)


def test_combined_rewards_of_items_follow_the_exposure():
    reward, other = of(), novelty(DATASET)
    assert scope_of(reward) == "served"
    combined = CombinedReward([future(), reward, other], [1.0, 3.0, 0.5], n_items=ITEMS)
    assert combined.names == ["future", "novelty", "exposure"]
    static = 0.5 * other(prompts=ALL, completions=ALL)
    assert torch.allclose(combined.item_rewards, static)
    reward.measure(torch.tensor([[0, 1], [0, 3]]))
    assert torch.allclose(combined.item_rewards, static + 3 * rewards_of(reward).float())
    alone = CombinedReward([reward], [2.0], n_items=ITEMS)
    assert torch.allclose(alone.item_rewards, 2 * rewards_of(reward).float())
