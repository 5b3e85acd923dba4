"""The normalised matrices of the user-item graph, against dense ones computed by hand."""

import copy

import pytest
import torch

from graph_log import N_ITEMS, N_USERS, ROWS, dense_matrix, ragged
from recoach.models.graph.propagation import Graph

NORMALISATIONS = ("symmetric", "row", "mean")


def random_tables(dim=3):
    generator = torch.Generator().manual_seed(4)
    return tuple(
        torch.randn(n, dim, dtype=torch.float64, generator=generator, requires_grad=True)
        for n in (N_USERS, N_ITEMS)
    )


def test_the_matrices_of_a_small_graph_are_those_computed_by_hand():
    # User 0 has items 0 and 1, user 1 has item 1.
    weights = {}
    for kind in NORMALISATIONS:
        graph = Graph(ragged([[0, 1, 1], [1]]), 2, kind)
        columns = graph.neighbour_sums(torch.eye(4)[:2], torch.eye(4)[2:], graph.edge_weights())
        weights[kind] = torch.cat(columns)
    half = 2**-0.5
    assert torch.allclose(
        weights["symmetric"],
        torch.tensor([[0, 0, half, 0.5], [0, 0, 0, half], [half, 0, 0, 0], [0.5, half, 0, 0]]),
    )
    third = 1 / 3
    assert torch.allclose(
        weights["row"],
        torch.tensor(
            [[third, 0, third, third], [0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0], [third, third, 0, third]]
        ),
    )
    assert torch.equal(
        weights["mean"],
        torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0, 1], [1, 0, 0, 0], [0.5, 0.5, 0, 0]]),
    )


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_sums_and_their_gradient_equal_those_of_the_dense_product(kind):
    graph, (users, items) = Graph(ragged(ROWS), N_ITEMS, kind), random_tables()
    matrix = dense_matrix(kind)
    sums = torch.cat(graph.neighbour_sums(users, items, graph.edge_weights()))
    assert torch.allclose(sums, matrix @ torch.cat([users, items]), atol=1e-6)
    upstream = torch.randn(len(sums), 3, dtype=torch.float64)
    gradients = torch.autograd.grad((sums * upstream).sum(), (users, items))
    assert torch.allclose(torch.cat(gradients), matrix.T @ upstream, atol=1e-6)


@pytest.mark.parametrize("kind", ["row", "mean"])
def test_the_mean_of_layers_and_its_gradient_are_those_of_a_matrix_that_is_not_symmetric(kind):
    graph, (users, items) = Graph(ragged(ROWS), N_ITEMS, kind), random_tables()
    powers = sum(torch.linalg.matrix_power(dense_matrix(kind), power) for power in range(3)) / 3
    mean = torch.cat(graph(users, items, 2))
    assert torch.allclose(mean, powers @ torch.cat([users, items]), atol=1e-6)
    upstream = torch.randn(len(mean), 3, dtype=torch.float64)
    gradients = torch.autograd.grad((mean * upstream).sum(), (users, items))
    assert torch.allclose(torch.cat(gradients), powers.T @ upstream, atol=1e-6)


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_hidden_edges_have_no_weight_and_no_gradient_and_the_others_keep_theirs(kind):
    graph, (users, items) = Graph(ragged(ROWS), N_ITEMS, kind), random_tables()
    # User 0 has item 1, and user 2 has not item 5.
    weights = graph.edge_weights((torch.tensor([0, 2]), torch.tensor([1, 5])))
    matrix = dense_matrix(kind)
    matrix[0, N_USERS + 1] = matrix[N_USERS + 1, 0] = 0
    sums = torch.cat(graph.neighbour_sums(users, items, weights))
    assert torch.allclose(sums, matrix @ torch.cat([users, items]), atol=1e-6)
    upstream = torch.randn(len(sums), 3, dtype=torch.float64)
    gradients = torch.autograd.grad((sums * upstream).sum(), (users, items))
    assert torch.allclose(torch.cat(gradients), matrix.T @ upstream, atol=1e-6)


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_some_rows_of_the_sums_have_the_values_and_gradients_of_all(kind):
    graph, tables = Graph(ragged(ROWS), N_ITEMS, kind), random_tables()
    rows = (torch.tensor([0, 3, 4]), torch.tensor([5, 1]))
    all_sums = graph.neighbour_sums(*tables, graph.edge_weights())
    expected = [sums[some] for sums, some in zip(all_sums, rows, strict=True)]
    some_sums = graph.rows_of_sums(*tables, rows)
    upstream = torch.randn(5, 3, dtype=torch.float64)
    assert torch.allclose(torch.cat(some_sums), torch.cat(expected), atol=1e-7)
    gradients = [
        torch.autograd.grad((torch.cat(list(sums)) * upstream).sum(), tables)
        for sums in (some_sums, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_copies_share_the_graph():
    graph = Graph(ragged(ROWS), N_ITEMS, "row")
    assert copy.deepcopy(graph) is graph
    assert not graph.state_dict()
