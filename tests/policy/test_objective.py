import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recoach.policy.objective import (
    Clip,
    clipped_surrogate,
    exact_surrogate,
    group_advantages,
    log_weight,
    objective,
    sampled_kl,
)

LOSS_TYPES = ["grpo", "dr_grpo", "log", "pass_at_k", "power"]
CLIP = Clip(0.1, 0.1)
GROUPS = st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=8)


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", math.pi / 3),
        ("dr_grpo", 0.25),
        ("log", math.log(0.25)),
        ("pass_at_k", 37 / 64),
        ("power", 1.0),
    ],
)
def test_objectives_at_a_probability_of_a_quarter(loss_type, expected):
    log_p = torch.tensor(0.25, dtype=torch.float64).log()
    assert objective(log_p, loss_type, k=3).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", 1 / math.sqrt(3)),
        ("dr_grpo", 0.25),
        ("log", 1),
        ("pass_at_k", 27 / 64),
        ("power", 0.5),
    ],
)
def test_weights_at_a_probability_of_a_quarter(loss_type, expected):
    log_p = torch.tensor(0.25, dtype=torch.float64).log()
    assert log_weight(log_p, loss_type, k=3).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_weight_is_the_derivative_of_the_objective_by_log_p(loss_type):
    log_p = torch.linspace(1e-3, 0.99, 40, dtype=torch.float64).log().requires_grad_()
    objective(log_p, loss_type, k=4).sum().backward()
    assert torch.allclose(log_p.grad, log_weight(log_p.detach(), loss_type, k=4), rtol=1e-4)


def test_the_power_leads_from_log_to_dr_grpo():
    log_p = torch.linspace(1e-3, 0.99, 9, dtype=torch.float64).log()
    linear, nearly_log = (log_weight(log_p, "power", power=q) for q in (1.0, 1e-9))
    assert torch.allclose(linear, log_weight(log_p, "dr_grpo"))
    assert torch.allclose(nearly_log, log_weight(log_p, "log"))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_certain_item_has_a_finite_weight(loss_type):
    assert torch.isfinite(log_weight(torch.zeros(1), loss_type)).all()
    assert torch.isfinite(objective(torch.full((1,), 1e-7), loss_type)).all()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_on_policy_the_exact_surrogate_climbs_its_objective(loss_type):
    logits = doubles(3, 7).requires_grad_()
    log_p = logits.log_softmax(dim=1)[:, 2]
    weight = log_weight(log_p.detach(), loss_type, k=4, eps=0.0)
    surrogate = exact_surrogate(log_p, log_p.detach(), weight, CLIP)
    (found,) = torch.autograd.grad(surrogate.value.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(objective(log_p, loss_type, k=4).sum(), logits)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert not surrogate.clipped_low.any()
    assert not surrogate.clipped_high.any()


def test_the_exact_surrogate_is_the_sum_over_the_catalogue_of_the_clipped_one():
    old, new = doubles(5, 6, seed=1).log_softmax(1), doubles(5, 6, seed=2).log_softmax(1)
    p = old[:, 0].exp()
    # Hits and misses of the rewarded item 0, each bucket with one ratio and one advantage.
    hit, miss = (1 - p) / (p * (1 - p)).sqrt(), -p / (p * (1 - p)).sqrt()
    weight = log_weight(old[:, 0], "grpo", eps=0.0)
    buckets = torch.stack([new[:, 0] - old[:, 0], ((1 - new[:, 0].exp()) / (1 - p)).log()], dim=1)
    each = clipped_surrogate(buckets, torch.stack([hit, miss], dim=1), CLIP).value
    expected = p * each[:, 0] + (1 - p) * each[:, 1]
    found = exact_surrogate(new[:, 0], old[:, 0], weight, CLIP)
    assert torch.allclose(found.value, expected)
    assert found.clipped_high.any()
    assert not found.clipped_high.all()


def test_beyond_the_clip_the_exact_surrogate_pulls_no_further():
    old = torch.tensor([0.2, 0.2], dtype=torch.float64).log()
    new = torch.tensor([0.4, 0.21], dtype=torch.float64).log().requires_grad_()
    surrogate = exact_surrogate(new, old, torch.ones(2, dtype=torch.float64), CLIP)
    surrogate.value.sum().backward()
    assert new.grad[0] == 0
    assert new.grad[1] > 0
    assert surrogate.clipped_high.tolist() == [True, False]
    assert surrogate.clipped_low.tolist() == [True, False]


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.8, 0.95, 1.05, 1.2])
def test_clipping_acts_only_if_the_ratio_moved_in_the_direction_of_the_advantage(advantage, ratio):
    log_ratio = torch.tensor(ratio, dtype=torch.float64).log().requires_grad_()
    found = clipped_surrogate(log_ratio, torch.tensor(advantage, dtype=torch.float64), CLIP)
    found.value.backward()
    high = advantage > 0 and ratio == 1.2
    low = advantage < 0 and ratio == 0.8
    assert (bool(found.clipped_high), bool(found.clipped_low)) == (high, low)
    bound = {True: 1.1, False: ratio}[high] if not low else 0.9
    assert found.value.item() == pytest.approx(bound * advantage)
    slope = 0 if high or low else ratio * advantage
    assert log_ratio.grad.item() == pytest.approx(slope)


def test_the_clip_may_be_wider_upwards():
    ratios = torch.tensor([0.85, 1.15, 1.4]).log()
    found = clipped_surrogate(ratios, torch.tensor([-1.0, 1.0, 1.0]), Clip(0.1, 0.3))
    assert found.value.tolist() == pytest.approx([-0.9, 1.15, 1.3])


def test_at_ratio_one_the_gradient_is_the_advantage_times_that_of_log_p():
    logits, advantages = doubles(4, 9).requires_grad_(), doubles(4, 9, seed=3)
    log_p = logits.log_softmax(dim=1)
    found = clipped_surrogate(log_p - log_p.detach(), advantages, CLIP).value.sum()
    (gradient,) = torch.autograd.grad(found, logits, retain_graph=True)
    (expected,) = torch.autograd.grad((advantages * log_p).sum(), logits)
    assert torch.allclose(gradient, expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.floats(-5, 5), st.floats(0.5, 4))
def test_only_the_shape_of_a_group_matters(rewards, shift, factor):
    group = torch.tensor([rewards], dtype=torch.float64)
    if group.std() < 0.05:
        return
    expected = group_advantages(group, eps=0.0)
    assert torch.allclose(group_advantages(group * factor + shift, eps=0.0), expected, atol=1e-9)


def test_without_scaling_advantages_are_centred_rewards():
    group = torch.tensor([[1.0, 2.0, 6.0]])
    assert group_advantages(group, "none").tolist() == [[-2, -1, 3]]
    assert group_advantages(group * 2 + 1, "none").tolist() == [[-4, -2, 6]]


def test_scaled_advantages_equal_values_computed_by_hand():
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), eps=0.0)
    expected = [math.sqrt(3)] + [-1 / math.sqrt(3)] * 3
    assert found[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.6309, 0.1])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("size", [3, 7, 4096])
def test_a_flat_group_teaches_exactly_nothing(value, scale, size):
    flat = torch.full((2, size), value, dtype=torch.float32)
    assert group_advantages(flat, scale=scale).abs().max() == 0


def test_a_flat_group_beside_another_leaves_it_alone():
    both = group_advantages(torch.tensor([[0.6309] * 3, [0.0, 0.0, 1.0]]))
    alone = group_advantages(torch.tensor([[0.0, 0.0, 1.0]]))
    assert both[0].tolist() == [0, 0, 0]
    assert both[1].tolist() == alone[0].tolist()


def exact_kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_average_to_the_exact_kl(estimator):
    log_p, log_q = doubles(1, 5).log_softmax(1), doubles(1, 5, seed=9).log_softmax(1)
    expected = exact_kl(log_p, log_q).item()
    # Their expectation needs no draw: weigh each item by its probability.
    mean = (log_p.exp() * sampled_kl(log_p, log_q, estimator)).sum().item()
    assert mean == pytest.approx(expected, rel=1e-9)
    drawn = torch.multinomial(log_p.exp(), 200_000, replacement=True, generator=_generator())
    sampled = sampled_kl(log_p.gather(1, drawn), log_q.gather(1, drawn), estimator).mean().item()
    assert sampled == pytest.approx(expected, rel=0.03)


def test_k2_is_the_exact_kl_to_second_order():
    log_p = doubles(1, 5).log_softmax(1)
    log_q = (log_p + 0.02 * doubles(1, 5, seed=4)).log_softmax(1)
    mean = (log_p.exp() * sampled_kl(log_p, log_q, "k2")).sum().item()
    assert mean == pytest.approx(exact_kl(log_p, log_q).item(), rel=0.05)


def test_k2_has_the_gradient_of_the_kl_and_k3_that_of_its_reverse():
    logits, other = doubles(1, 5).requires_grad_(), doubles(1, 5, seed=4).log_softmax(1)
    log_p = logits.log_softmax(1)

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    drawn = log_p.detach().exp()
    by_k = {k: gradient((drawn * sampled_kl(log_p, other, k)).sum()) for k in ("k1", "k2", "k3")}
    assert by_k["k1"].abs().max() < 1e-12
    assert torch.allclose(by_k["k2"], gradient(exact_kl(log_p, other).sum()))
    assert torch.allclose(by_k["k3"], gradient(exact_kl(other, log_p).sum()))


def test_k3_stays_finite_where_the_policies_have_parted():
    log_p = torch.tensor([-200.0], requires_grad=True)
    value = sampled_kl(log_p, torch.tensor([-0.1]), "k3")
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(log_p.grad).all()


def _generator():
    return torch.Generator().manual_seed(0)
