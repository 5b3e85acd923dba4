import math

import pytest
import torch
from torch.nn import functional

from recoach.models.losses import (
    alignment,
    binary_cross_entropy,
    bpr,
    cross_entropy,
    cross_uniformity,
    sampled_cross_entropy,
    uniformity,
)

LEFT = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
RIGHT = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def softplus(x):
    return math.log1p(math.exp(x))


def unit(row):
    return row / row.norm()


def test_cross_entropy_is_the_mean_over_states():
    targets = torch.tensor([4, 0, 2, 2, 1])
    plain = functional.cross_entropy(LEFT @ RIGHT.T, targets)
    assert cross_entropy(LEFT, RIGHT, targets).item() == pytest.approx(plain.item())


def test_binary_cross_entropy_by_hand():
    found = binary_cross_entropy(torch.tensor([1.0, -2.0]), torch.tensor([[0.5, 0.0], [1.0, 3.0]]))
    first = softplus(-1) + softplus(0.5) + softplus(0)
    second = softplus(2) + softplus(1) + softplus(3)
    assert found.item() == pytest.approx((first + second) / 2)


def test_sampled_cross_entropy_by_hand():
    found = sampled_cross_entropy(torch.tensor([1.0]), torch.tensor([[0.5, 0.0]]))
    expected = -math.log(math.e / (math.e + math.exp(0.5) + 1))
    assert found.item() == pytest.approx(expected)


def test_bpr_by_hand():
    found = bpr(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx((softplus(-1) + softplus(3)) / 2)


def test_alignment_is_the_mean_squared_distance_of_unit_vectors():
    expected = sum((unit(a) - unit(b)).square().sum() for a, b in zip(LEFT, RIGHT, strict=True)) / 5
    assert alignment(LEFT, RIGHT).item() == pytest.approx(expected.item())
    assert alignment(LEFT, 3 * LEFT).item() == pytest.approx(0, abs=1e-12)


def test_uniformity_is_over_all_unordered_pairs():
    kernels = [
        math.exp(-2 * (unit(LEFT[a]) - unit(LEFT[b])).square().sum().item())
        for a in range(5)
        for b in range(a)
    ]
    assert uniformity(LEFT).item() == pytest.approx(math.log(sum(kernels) / len(kernels)))


@pytest.mark.parametrize(
    ("rows", "dtype", "close"), [(5, torch.float64, 1e-12), (1500, torch.float32, 2e-2)]
)
def test_uniformity_pushes_as_the_plain_formula_does(rows, dtype, close):
    vectors = torch.randn(rows, 64, dtype=dtype, generator=torch.Generator().manual_seed(3))
    ours, plain = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    (3 * uniformity(ours)).backward()
    distances = torch.pdist(functional.normalize(plain, dim=1))
    (3 * (-2 * distances.square()).exp().mean().log()).backward()
    error = (ours.grad - plain.grad).norm() / plain.grad.norm()
    assert error < close


def test_identical_vectors_are_as_crowded_as_can_be():
    crowd = LEFT[:1].repeat(4, 1).requires_grad_()
    found = uniformity(crowd)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(crowd.grad).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_vectors_have_no_pair_to_spread(rows):
    few = LEFT[:rows].clone().requires_grad_()
    for loss in (uniformity(few), cross_uniformity(few, few, 1)):
        loss.backward()
        assert loss.item() == 0
    assert (few.grad == 0).all()


@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_cross_uniformity_pairs_each_row_with_the_one_shift_before_it(shift):
    kernels = [
        math.exp(-2 * (unit(LEFT[row]) - unit(RIGHT[row - shift])).square().sum().item())
        for row in range(5)
    ]
    found = cross_uniformity(LEFT, RIGHT, shift).item()
    assert found == pytest.approx(math.log(sum(kernels) / 5))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_rotation_leaves_nobody_in_place(size):
    for shift in range(1, size):
        assert (torch.arange(size).roll(shift) != torch.arange(size)).all()
