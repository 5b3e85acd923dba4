"""Contrastive state augmentations beside a Q head: each term by its formula."""

import pytest
import torch
from estimating import algorithm_loss, numbers
from test_supervised_q import (
    ITEMS,
    STATES,
    batch_of,
    frequencies,
    learner,
    policy_of_table,
    q_by_iteration,
    set_q,
    trained,
)
from torch.nn import functional

from recoach.training.algorithms.base import Statistics

SHIFTS = (0.25, -0.5)


def with_shifts(monkeypatch, algorithm):
    """Make the two copies of a state its vector plus a number each."""
    shifts = iter(SHIFTS * 10)
    monkeypatch.setattr(algorithm, "_augmented", lambda users, _: users + next(shifts))


def test_the_copies_and_the_contrast_are_those_of_the_formulas(monkeypatch):
    algorithm, batch = learner("csa", contrast_coef=0.7), batch_of()
    q = torch.arange(12.0).view(STATES, ITEMS) / 10
    algorithm.after_step(1)
    set_q(algorithm, q)
    with torch.no_grad():
        prepared = algorithm.prepare(batch, numbers())
    with_shifts(monkeypatch, algorithm)
    users, items = algorithm.model.given
    users = users[batch.queries.state_users]
    statistics = Statistics()
    loss = algorithm.auxiliary_loss((users, items), batch, prepared, numbers(), statistics)

    actions = batch.transitions.actions
    rows = torch.arange(len(actions))
    copies = torch.stack([algorithm.head(users + s, items[actions][:, None])[:, 0] for s in SHIFTS])
    errors = (copies - prepared.targets[:, 0]).square() / 2
    order = torch.randperm(len(rows), generator=numbers()).tolist()
    other = torch.empty(len(rows), dtype=torch.int64)
    for place, state in enumerate(order):
        other[state] = order[(place + 1) % len(order)]
    own = q[batch.queries.state_users]
    near = (own[rows, actions] - copies.mean(dim=0)).square()
    far = (own[other, actions] - copies.mean(dim=0)).square()
    contrast = -functional.logsigmoid(far - near)
    expected = errors.sum(dim=0).mean() + 0.7 * contrast.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert statistics.means()["contrast_loss"].item() == pytest.approx(
        contrast.mean().item(), rel=1e-5
    )


def test_without_the_contrast_the_copies_are_left(monkeypatch):
    algorithm, batch = learner("csa", contrast_coef=0.0), batch_of()
    with_shifts(monkeypatch, algorithm)
    _, loss, logs = algorithm_loss(algorithm, batch)
    _, plain, _ = algorithm_loss(learner("sqn"), batch)
    # At first Q is the same everywhere, so the copies have the differences of the state itself.
    assert (loss - plain).item() == pytest.approx(2 * logs["td_loss"], rel=1e-5)
    assert "contrast_loss" not in logs


@pytest.mark.parametrize(
    ("augmentation", "low", "high"), [("noise", -0.03, 0.03), ("uniform", 0.001, 0.005)]
)
def test_noise_is_new_in_each_copy_and_as_large_as_it_says(augmentation, low, high):
    algorithm = learner("csa", augmentation=augmentation)
    generator, states = numbers(), torch.zeros(500, 8)
    first, second = (algorithm._augmented(states, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert low <= first.min() < first.max() <= high
    deviation = 0.003 if augmentation == "noise" else 0.004 / 12**0.5
    assert first.std().item() == pytest.approx(deviation, rel=0.1)


def test_at_most_one_dimension_of_a_tenth_of_the_states_is_0():
    algorithm = learner("csa", augmentation="dim_dropout")
    found = algorithm._augmented(torch.ones(2000, 8), numbers())
    zeros = (found == 0).sum(dim=1)
    assert set(zeros.tolist()) == {0, 1}
    assert zeros.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (found == 0).any(dim=0).all()


def test_the_policy_is_that_of_cross_entropy():
    algorithm = learner("csa", tau=0.5)
    algorithm.model.users.requires_grad_(False)
    algorithm.head.requires_grad_(False)
    algorithm.after_step(1)
    set_q(algorithm, q_by_iteration("max"))
    trained(algorithm, batch_of())
    assert torch.allclose(policy_of_table(algorithm), frequencies(), atol=1e-3)
