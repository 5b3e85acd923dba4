"""TRPO: the projection of the exact trust region onto the model."""

import pytest
import torch
from estimating import VectorModel, algorithm_loss, make_algorithm, make_batch, minimise, vectors

from recoach.models.base import Embeddings
from recoach.policy.trust_region import (
    RewardedItems,
    batch_inverse_eta,
    state_inverse_eta,
    tilted_policy,
)

REWARDS = [(0, 1, 1.0), (0, 3, 0.4), (1, 3, -1.0)]
STATES = 3


def table(log_p):
    """Return vectors whose products are a table of logits."""
    return Embeddings(torch.eye(len(log_p), dtype=log_p.dtype), log_p.T.contiguous())


def trpo(given, **settings):
    return make_algorithm("trpo", VectorModel(given), **{"temperature": 1.0} | settings)


def set_old(algorithm, given):
    algorithm.old.load_state_dict(VectorModel(given).state_dict())


def targets(log_p, radius="state", max_kl=0.01):
    """Return float[S, I], the best policies within the radius."""
    states, items, values = (torch.tensor(column) for column in zip(*REWARDS, strict=True))
    rewarded = RewardedItems(states, log_p[states, items], values, len(log_p))
    solve = state_inverse_eta if radius == "state" else batch_inverse_eta
    tilted = tilted_policy(rewarded, solve(rewarded, max_kl)[0].expand(len(log_p)))
    new = log_p.exp() * tilted.old_weight[:, None]
    return new.index_put((states, items), tilted.weights, accumulate=True), tilted


@pytest.mark.parametrize("radius", ["state", "batch"])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_gradient_in_the_logits_is_the_policy_minus_the_best_one(radius, steps):
    new, old = vectors(STATES), vectors(STATES, seed=5)
    algorithm = trpo(new, radius=radius, old_model_sync_steps=steps, max_kl=0.02)
    log_p, log_old = ((v.users @ v.items.T).log_softmax(dim=1) for v in (new, old))
    if steps == 1:
        log_old = log_p.detach()
    else:
        set_old(algorithm, old)
    best, tilted = targets(log_old.detach(), radius, 0.02)
    expected = torch.autograd.grad(-(best * log_p).sum() / STATES, new)
    batch = make_batch(REWARDS, n_states=STATES)
    _, loss, logs = algorithm_loss(algorithm, batch)
    found = torch.autograd.grad(loss, algorithm.model.given)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))
    assert logs["trust_region/target_kl"] == pytest.approx(tilted.kl.mean().item())
    if steps > 1:
        kl = (log_p.exp() * (log_p - log_old)).sum(dim=1).mean().item()
        assert logs["trust_region/kl"] == pytest.approx(kl)
        assert loss.item() == pytest.approx(-(best * log_p).sum().item() / STATES)


def policy_of(algorithm):
    users, items = algorithm.model.given
    return (users @ items.T).softmax(dim=1).detach()


@pytest.mark.parametrize("radius", ["state", "batch"])
def test_the_model_reaches_the_best_policy_within_the_radius(radius):
    log_old = torch.randn(STATES, 6, generator=torch.Generator().manual_seed(1)).double()
    log_old = log_old.log_softmax(dim=1)
    best, _ = targets(log_old, radius, 0.05)
    algorithm = trpo(table(log_old), radius=radius, old_model_sync_steps=10**6, max_kl=0.05)
    batch = make_batch(REWARDS, n_states=STATES)
    logs = minimise(algorithm, batch, 150, 0.1)
    found = policy_of(algorithm)
    assert torch.allclose(found, best, atol=1e-3)
    assert torch.allclose(found[2], log_old[2].exp(), atol=1e-3)  # it has no reward
    assert logs["trust_region/kl"] == pytest.approx(logs["trust_region/target_kl"], abs=1e-3)
    assert logs["trust_region/binding"] == 1.0  # of the states with rewards


def test_repeated_trust_regions_end_at_the_item_of_the_highest_reward():
    rewards = [(0, item, reward) for item, reward in enumerate([0.2, 1.0, 0.9, -0.5])]
    log_old = torch.tensor([[0.5, 0.05, 0.25, 0.2]]).double().log()
    algorithm = trpo(table(log_old), old_model_sync_steps=10, max_kl=0.3)
    minimise(algorithm, make_batch(rewards), 150, 0.5)
    assert policy_of(algorithm)[0, 1] > 0.999


def test_a_vanishing_radius_and_no_rewards_are_no_step():
    new = vectors(STATES)
    tiny = trpo(new, max_kl=1e-12, radius="batch")
    _, loss, _ = algorithm_loss(tiny, make_batch(REWARDS, n_states=STATES))
    step = torch.autograd.grad(loss, tiny.model.given)
    free = trpo(new, max_kl=0.1, radius="batch")
    _, loss, _ = algorithm_loss(free, make_batch(REWARDS, n_states=STATES))
    usual = torch.autograd.grad(loss, free.model.given)
    for small, large in zip(step, usual, strict=True):
        assert small.abs().max() < 1e-5 * large.abs().max()
    none = trpo(new)
    _, loss, logs = algorithm_loss(none, make_batch([(0, 1, 0.0)], n_states=STATES))
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(loss, none.model.given))
    assert logs["trust_region/binding"] == 0


def test_the_old_policy_follows_every_so_many_steps():
    algorithm = trpo(vectors(STATES), old_model_sync_steps=3)
    with torch.no_grad():
        algorithm.model.items += 1.0
    algorithm.after_step(2)
    assert not torch.equal(algorithm.old.items, algorithm.model.items)
    algorithm.after_step(3)
    assert torch.equal(algorithm.old.items, algorithm.model.items)
    assert trpo(vectors(STATES), old_model_sync_steps=1).old is None
