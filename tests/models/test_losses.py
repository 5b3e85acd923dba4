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


def test_cross_entropy_equals_that_of_torch():
    targets = torch.tensor([4, 0, 2, 2, 1])
    expected = functional.cross_entropy(LEFT @ RIGHT.T, targets)
    assert cross_entropy(LEFT, RIGHT, targets).item() == pytest.approx(expected.item())


def test_binary_cross_entropy_by_hand():
    loss = binary_cross_entropy(torch.tensor([1.0, -2.0]), torch.tensor([[0.5, 0.0], [1.0, 3.0]]))
    first = softplus(-1) + softplus(0.5) + softplus(0)
    second = softplus(2) + softplus(1) + softplus(3)
    assert loss.item() == pytest.approx((first + second) / 2)


def test_sampled_cross_entropy_by_hand():
    loss = sampled_cross_entropy(torch.tensor([1.0]), torch.tensor([[0.5, 0.0]]))
    expected = -math.log(math.e / (math.e + math.exp(0.5) + 1))
    assert loss.item() == pytest.approx(expected)


def test_bpr_by_hand():
    loss = bpr(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((softplus(-1) + softplus(3)) / 2)


def test_alignment_is_the_mean_squared_distance_of_unit_vectors_by_hand():
    expected = sum((unit(a) - unit(b)).square().sum() for a, b in zip(LEFT, RIGHT, strict=True)) / 5
    assert alignment(LEFT, RIGHT).item() == pytest.approx(expected.item())
    assert alignment(LEFT, 3 * LEFT).item() == pytest.approx(0, abs=1e-12)


def test_uniformity_is_over_all_unordered_pairs_by_hand():
    kernels = [
        math.exp(-2 * (unit(LEFT[a]) - unit(LEFT[b])).square().sum().item())
        for a in range(5)
        for b in range(a)
    ]
    assert uniformity(LEFT).item() == pytest.approx(math.log(sum(kernels) / len(kernels)))


@pytest.mark.parametrize(
    ("rows", "dtype", "tolerance"), [(5, torch.float64, 1e-12), (1500, torch.float32, 2e-2)]
)
def test_the_gradient_of_uniformity_equals_autograd_of_the_formula(rows, dtype, tolerance):
    vectors = torch.randn(rows, 64, dtype=dtype, generator=torch.Generator().manual_seed(3))
    ours, reference = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    (3 * uniformity(ours)).backward()
    distances = torch.pdist(functional.normalize(reference, dim=1))
    (3 * (-2 * distances.square()).exp().mean().log()).backward()
    error = (ours.grad - reference.grad).norm() / reference.grad.norm()
    assert error < tolerance


def test_uniformity_of_identical_vectors_is_zero_with_a_finite_gradient():
    vectors = LEFT[:1].repeat(4, 1).requires_grad_()
    loss = uniformity(vectors)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_uniformity_of_fewer_than_two_vectors_is_zero(rows):
    vectors = LEFT[:rows].clone().requires_grad_()
    for loss in (uniformity(vectors), cross_uniformity(vectors, vectors, 1)):
        loss.backward()
        assert loss.item() == 0
    assert (vectors.grad == 0).all()


@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_cross_uniformity_pairs_each_row_with_the_one_shift_before_it(shift):
    kernels = [
        math.exp(-2 * (unit(LEFT[row]) - unit(RIGHT[row - shift])).square().sum().item())
        for row in range(5)
    ]
    loss = cross_uniformity(LEFT, RIGHT, shift).item()
    assert loss == pytest.approx(math.log(sum(kernels) / 5))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_shift_pairs_no_row_with_itself(size):
    for shift in range(1, size):
        assert (torch.arange(size).roll(shift) != torch.arange(size)).all()
