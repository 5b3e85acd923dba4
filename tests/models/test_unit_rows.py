import torch
from torch.nn import functional

from recoach.models.unit_rows import unit_rows


def test_rows_have_unit_length_and_zero_rows_stay_zero():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    assert torch.allclose(unit_rows(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))


def test_the_gradient_is_that_of_normalize_and_zero_for_zero_rows():
    vectors = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, (vectors,))
    upstream = torch.randn(5, 3, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(function(vectors), vectors, upstream)[0]
        for function in (unit_rows, functional.normalize)
    ]
    assert torch.allclose(*gradients)
    zeros = torch.zeros(2, 3, requires_grad=True)
    unit_rows(zeros).sum().backward()
    assert not zeros.grad.any()
