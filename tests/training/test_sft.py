"""Supervised fine-tuning: the cross-entropy with soft targets, by its formula."""

import pytest
import torch
from estimating import (
    ITEMS,
    VectorModel,
    algorithm_loss,
    exact,
    make_algorithm,
    make_batch,
    minimise,
    step,
    vectors,
)

from recoach.data.queries import Seen
from recoach.errors import ConfigError
from recoach.models.base import Embeddings
from recoach.training.algorithms.sft import SFTConfig

REWARDS = [(0, 1, 1.0), (0, 4, 0.5), (1, 3, 2.0), (3, 0, 0.25), (3, 2, 0.25), (3, 5, 1.0)]
SEEN = Seen(torch.tensor([0, 1, 1, 3]), torch.tensor([0, 1, 2, 4]))


def sft(given, **settings):
    return make_algorithm("sft", VectorModel(given), **settings)


def dense_rewards(n_states):
    rewards = torch.zeros(n_states, ITEMS, dtype=torch.float64)
    for state, item, value in REWARDS:
        rewards[state, item] = value
    return rewards


def masked_logits(given):
    logits = given.users @ given.items.T / 0.7
    return logits.index_put((SEEN.states, SEEN.items), logits.new_tensor(-torch.inf))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_with_the_smoothed_targets(normalize, smoothing):
    given, batch = vectors(4), make_batch(REWARDS, 4, SEEN)
    rewards, log_p = dense_rewards(4), masked_logits(given).log_softmax(dim=1)
    sums = rewards.sum(dim=1, keepdim=True)
    shown = (log_p > -torch.inf).double()
    target = (1 - smoothing) * rewards / sums.clamp(min=1e-9)
    target = target + smoothing * shown / shown.sum(dim=1, keepdim=True)
    losses = -(target * log_p.masked_fill(shown == 0, 0)).sum(dim=1)
    weights = (sums > 0).double() if normalize else sums
    expected = (weights[:, 0] * losses).sum() / weights.sum()
    algorithm = sft(given, normalize_targets=normalize, label_smoothing=smoothing)
    _, loss, _ = algorithm_loss(algorithm, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, formula in zip(
        torch.autograd.grad(loss, algorithm.model.given),
        torch.autograd.grad(expected, given),
        strict=True,
    ):
        assert torch.allclose(found, formula, rtol=1e-5, atol=1e-7)


def test_without_normalised_targets_the_gradient_is_that_of_grpos_log_objective():
    given, batch = vectors(4), make_batch(REWARDS, 4, SEEN)
    estimator = exact(loss_type="log", normalize_weights=True)
    _, expected, _ = step(estimator, given, batch)
    algorithm = sft(given, normalize_targets=False)
    _, loss, _ = algorithm_loss(algorithm, batch)
    for found, formula in zip(
        torch.autograd.grad(loss, algorithm.model.given), expected, strict=True
    ):
        assert torch.allclose(found, formula, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [1, 3])
def test_with_negatives_the_loss_is_a_softmax_among_the_drawn_items(count, monkeypatch):
    given, batch = vectors(4), make_batch(REWARDS, 4, SEEN)
    # State 0 draws its masked item 0 and its reward 1, of which neither is a negative.
    drawn = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 1, 3]])[:, -count:]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: drawn)
    algorithm = sft(given, num_negatives=count, normalize_targets=False)
    _, loss, _ = algorithm_loss(algorithm, batch)
    logits, rewards = masked_logits(given), dense_rewards(4)
    expected = torch.zeros((), dtype=torch.float64)
    for state, item, value in REWARDS:
        negatives = [n for n in drawn[state] if logits[state, n] > -torch.inf]
        negatives = [n for n in negatives if not rewards[state, n]]
        group = torch.stack([logits[state, item], *(logits[state, n] for n in negatives)])
        expected = expected - value * group.log_softmax(dim=0)[0]
    expected = expected / rewards.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, formula in zip(
        torch.autograd.grad(loss, algorithm.model.given),
        torch.autograd.grad(expected, given),
        strict=True,
    ):
        assert torch.allclose(found, formula, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_fixed_point_is_the_target(smoothing):
    rewards = [(0, 1, 3.0), (0, 2, 1.0), (1, 1, 1.0)]
    table = Embeddings(torch.zeros(2, ITEMS).double(), torch.eye(ITEMS).double())
    algorithm = sft(table, label_smoothing=smoothing)
    minimise(algorithm, make_batch(rewards), 1500, 0.2, [algorithm.model.users])
    p = (algorithm.model.users / 0.7).softmax(dim=1)
    target = torch.zeros(2, ITEMS).double()
    target[0, 1], target[0, 2], target[1, 1] = 0.75, 0.25, 1.0
    target = (1 - smoothing) * target + smoothing / ITEMS
    assert torch.allclose(p, target, atol=1e-3)


def test_a_batch_without_rewards_has_no_loss():
    batch = make_batch(REWARDS, 4, SEEN)
    batch = batch._replace(rewards=batch.rewards.where(torch.zeros(len(REWARDS)).bool()))
    _, loss, _ = algorithm_loss(sft(vectors(4), label_smoothing=0.1), batch)
    assert loss.item() == 0


def test_smoothing_over_the_catalogue_is_refused_with_drawn_negatives():
    with pytest.raises(ConfigError, match="set num_negatives = 0"):
        SFTConfig(num_negatives=4, label_smoothing=0.1)
