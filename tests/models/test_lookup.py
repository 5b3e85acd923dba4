"""Rows of a table and the table itself: values, gradients and the memory of the gradient."""

import pytest
import torch
from torch.nn import functional

from recoach.models.lookup import table_and_rows

INDEX = torch.tensor([3, 0, 3])


@pytest.fixture
def table():
    return torch.arange(8, dtype=torch.float64).view(4, 2).requires_grad_()


def gradient(table, loss):
    table.grad = None
    loss.backward()
    return table.grad.clone()


def expected(table):
    """Return the gradient of the losses below by the usual embedding."""
    rows = functional.embedding(INDEX, table)
    return gradient(table, (rows.square().sum(dim=1) * torch.arange(3)).sum() + table.pow(3).sum())


def test_values_are_the_table_and_its_rows(table):
    same, rows = table_and_rows(table, INDEX)
    assert torch.equal(same, table)
    assert rows.tolist() == [[6, 7], [0, 1], [6, 7]]


@pytest.mark.parametrize("is_leaf", [True, False])
def test_gradients_of_rows_and_table_add_up(table, is_leaf):
    wanted = expected(table)
    same, rows = table_and_rows(table if is_leaf else table * 1, INDEX)
    found = gradient(table, same.pow(3).sum() + (rows.square().sum(dim=1) * torch.arange(3)).sum())
    assert found.layout == torch.strided
    assert torch.allclose(found, wanted)


def test_a_table_that_is_not_used_gets_a_dense_gradient(table):
    _, rows = table_and_rows(table, INDEX)
    found = gradient(table, rows.sum())
    assert found.layout == torch.strided
    assert found.tolist() == [[1, 1], [0, 0], [0, 0], [2, 2]]


def test_the_table_alone_has_its_own_gradient(table):
    same, _ = table_and_rows(table, INDEX)
    assert gradient(table, same.sum()).tolist() == [[1, 1]] * 4


def test_no_rows_are_read(table):
    same, rows = table_and_rows(table, INDEX[:0])
    assert gradient(table, rows.sum() + same.sum()).tolist() == [[1, 1]] * 4


def test_a_gradient_that_another_tensor_shares_is_not_changed(table):
    other = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    same, rows = table_and_rows(table, INDEX)
    ((same + other).sum() + rows.sum()).backward()  # both summands get one tensor as gradient
    assert other.grad.tolist() == [[1, 1]] * 4
    assert table.grad.tolist() == [[2, 2], [1, 1], [1, 1], [3, 3]]


def test_the_gradient_of_the_table_is_added_to_in_place(table):
    places = []
    same, rows = table_and_rows(table, INDEX)
    same.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    (same.pow(3).sum() + rows.sum()).backward()
    assert table.grad.data_ptr() == places[0]
