"""The exact trust region of a softmax over a catalogue."""

import numpy as np
import pytest
import torch

from recoach.policy.trust_region import (
    RewardedItems,
    batch_inverse_eta,
    state_inverse_eta,
    tilted_policy,
)


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def one_item(p, reward=1.0):
    log_p = torch.tensor([p], dtype=torch.float64).log()
    return RewardedItems(torch.tensor([0]), log_p, torch.tensor([reward]), 1)


def many(n_states=40, n_items=9, n_rewarded=4):
    """Return rewarded items, and the old policies and the rewards as dense matrices."""
    log_p = (
        2 * torch.randn(n_states, n_items, generator=numbers(), dtype=torch.float64)
    ).log_softmax(1)
    rewards = torch.zeros_like(log_p)
    rewards[:, :n_rewarded] = torch.randn(n_states, n_rewarded, generator=numbers(1)).double()
    states = torch.arange(n_states).repeat_interleave(n_rewarded)
    pairs = (log_p[:, :n_rewarded].flatten(), rewards[:, :n_rewarded].flatten().float())
    return RewardedItems(states, *pairs, n_states), log_p, rewards.float().double()


def dense(tilted, items, log_p):
    """Return float[S, I], the new policy."""
    new = log_p.exp() * tilted.old_weight[:, None]
    n_rewarded = len(items.states) // items.n_states
    new[:, :n_rewarded] += tilted.weights.view(items.n_states, n_rewarded)
    return new


def kl(p, q):
    return torch.xlogy(p, p / q).sum(dim=1)


@pytest.mark.parametrize(
    ("p", "max_kl", "alpha", "new_p"),
    [
        (1e-4, 1e-3, 2.102, 0.00082),
        (1e-4, 1e-2, 3.632, 0.00376),
        (1e-3, 1e-3, 1.001, 0.00272),
        (1e-3, 1e-2, 2.107, 0.00816),
        (1e-2, 1e-2, 1.012, 0.02704),
        (0.1, 1e-2, 0.422, 0.14495),
    ],
)
def test_one_rewarded_item_moves_as_far_as_the_radius_allows(p, max_kl, alpha, new_p):
    items = one_item(p)
    inverse_eta, binds = state_inverse_eta(items, max_kl)
    tilted = tilted_policy(items, inverse_eta)
    assert binds.item()
    assert inverse_eta.item() == pytest.approx(alpha, abs=6e-4)
    assert (p * tilted.old_weight + tilted.weights).item() == pytest.approx(new_p, abs=6e-6)
    assert tilted.kl.item() == pytest.approx(max_kl, rel=1e-5)


def test_the_tilted_policy_is_the_old_one_times_the_exponential_of_the_reward():
    items, log_p, rewards = many()
    inverse_eta = torch.rand(40, generator=numbers(2), dtype=torch.float64) * 3
    expected = (log_p + rewards * inverse_eta[:, None]).softmax(dim=1)
    tilted = tilted_policy(items, inverse_eta)
    new = dense(tilted, items, log_p)
    assert torch.allclose(new, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(tilted.kl, kl(expected, log_p.exp()), rtol=1e-8, atol=1e-12)
    above = tilted_policy(items, inverse_eta + 1e-6).kl
    assert torch.allclose(tilted.kl_slope, (above - tilted.kl) / 1e-6, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("max_kl", [1e-5, 0.01, 0.3])
def test_every_state_gets_the_policy_of_highest_expected_reward_within_its_radius(max_kl):
    items, log_p, rewards = many()
    inverse_eta, binds = state_inverse_eta(items, max_kl)
    new = dense(tilted_policy(items, inverse_eta), items, log_p)
    reached = kl(new, log_p.exp())
    assert torch.allclose(reached[binds], reached.new_tensor(max_kl), rtol=1e-5)
    assert bool((reached[~binds] <= max_kl).all())
    best = (new * rewards).sum(dim=1)
    # No other policy within the radius has a higher expected reward.
    for seed in range(20):
        noise = torch.randn(log_p.shape, generator=numbers(seed), dtype=torch.float64)
        direction = 0.3 * noise + rewards * inverse_eta[:, None].clamp(max=20)
        for size in (0.5, 0.9, 1.0, 1.1):
            other = (log_p + size * direction).softmax(dim=1)
            inside = kl(other, log_p.exp()) <= max_kl
            assert bool(((other * rewards).sum(dim=1) <= best + 1e-6)[inside].all())


def test_a_radius_that_is_out_of_reach_puts_everything_on_the_best_items():
    items = RewardedItems(
        torch.tensor([0, 0, 1]),
        torch.tensor([0.6, 0.39, 0.2]).log(),
        torch.tensor([1.0, 0.5, -1.0]),
        2,
    )
    inverse_eta, binds = state_inverse_eta(items, 1.0)
    tilted = tilted_policy(items, inverse_eta)
    assert binds.tolist() == [False, False]
    # Without the disliked item the others keep their proportions.
    assert tilted.old_weight.tolist() == pytest.approx([0.0, 1 / 0.8])
    assert tilted.weights.tolist() == pytest.approx([1.0, 0.0, -0.2 / 0.8])
    assert tilted.kl.tolist() == pytest.approx([-np.log(0.6), -np.log(0.8)], rel=1e-5)


def test_a_small_radius_is_no_step_and_a_state_without_rewards_stays():
    items = RewardedItems(torch.tensor([0]), torch.tensor([0.1]).log(), torch.tensor([1.0]), 2)
    for max_kl, change in ((1e-8, 5e-5), (1e-4, 5e-3)):
        inverse_eta, binds = state_inverse_eta(items, max_kl)
        tilted = tilted_policy(items, inverse_eta)
        assert binds.tolist() == [True, False]
        assert 0 < tilted.weights.item() < change
        assert tilted.old_weight.tolist() == pytest.approx([1.0, 1.0], abs=change)
        assert tilted.old_weight[1].item() == 1.0
    nothing = tilted_policy(items, torch.zeros(2, dtype=torch.float64))
    assert nothing.weights.tolist() == [0.0]
    assert nothing.kl.tolist() == [0.0, 0.0]


def test_one_eta_for_a_batch_is_where_the_dual_is_least():
    items, log_p, rewards = many()
    max_kl = 0.05
    inverse_eta, binds = batch_inverse_eta(items, max_kl)
    assert binds.item()
    tilted = tilted_policy(items, inverse_eta.expand(40))
    assert tilted.kl.mean().item() == pytest.approx(max_kl, rel=1e-5)

    def dual(eta):
        log_z = (log_p + rewards / eta).logsumexp(dim=1)
        return eta * max_kl + eta * log_z.mean()

    eta = 1 / inverse_eta
    assert dual(eta) < min(dual(eta * 0.95), dual(eta * 1.05))


def test_the_radius_of_a_batch_moves_the_odds_of_every_rewarded_item_alike():
    p = torch.tensor([1e-4, 1e-2, 0.3], dtype=torch.float64)
    items = RewardedItems(torch.arange(3), p.log(), torch.ones(3), 3)
    of_batch = tilted_policy(items, batch_inverse_eta(items, 0.01)[0].expand(3))
    of_states = tilted_policy(items, state_inverse_eta(items, 0.01)[0])
    factors = []
    for tilted in (of_batch, of_states):
        new = p * tilted.old_weight + tilted.weights
        factors.append(new / (1 - new) * (1 - p) / p)
    assert factors[0].tolist() == pytest.approx([factors[0][0].item()] * 3)
    assert factors[1][0] > 5 * factors[1][1] > 10 * factors[1][2] / 2


def test_the_quadratic_model_fails_at_the_probabilities_of_a_recommender():
    # The numbers that the documentation gives.
    p = 1e-4
    for max_kl, factor in ((1e-4, 1.70), (1e-3, 8.17), (1e-2, 494)):
        alpha = (2 * max_kl / (p * (1 - p))) ** 0.5
        new_p = p * np.exp(alpha) / (1 - p + p * np.exp(alpha))
        found = p * np.log(p / new_p) + (1 - p) * np.log((1 - p) / (1 - new_p))
        assert found / max_kl == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("log_p", [-1e-9, -90.0, -2000.0])
def test_extreme_probabilities_give_finite_policies(log_p):
    items = RewardedItems(torch.tensor([0]), torch.tensor([log_p]), torch.tensor([1.0]), 1)
    for inverse_eta in (state_inverse_eta(items, 0.01)[0], batch_inverse_eta(items, 0.01)[0]):
        tilted = tilted_policy(items, inverse_eta.reshape(1))
        assert all(bool(part.isfinite().all()) for part in tilted)
        assert tilted.kl.item() <= 0.0100001
