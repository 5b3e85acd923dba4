"""Segments and session graphs on inputs computed by hand."""

import numpy as np
import pytest
import torch

from recoach.data.queries import Queries
from recoach.models.segments import (
    neighbour_sum,
    of_segments,
    segment_mean,
    segment_softmax,
    segment_sum,
)
from recoach.models.session.graph import session_graph
from session_inputs import session_queries

I = 10  # noqa: E741 - the size of the catalogue


def edges_of(graph) -> dict[tuple[int, int], int]:
    items = graph.node_items.tolist()
    triples = zip(graph.sources, graph.receivers, graph.edge_counts, strict=True)
    return {(items[a], items[b]): int(count) for a, b, count in triples}


def test_the_graph_of_a_history_with_a_repeated_item():
    graph = session_graph(session_queries([1, 2, 3, 2, 4]), I)
    assert graph.node_items.tolist() == [1, 2, 3, 4]
    assert graph.counts.tolist() == [1, 2, 1, 1]
    assert edges_of(graph) == {(1, 2): 1, (2, 3): 1, (3, 2): 1, (2, 4): 1}
    in_degrees = torch.bincount(graph.receivers, minlength=4)
    assert in_degrees.tolist() == [0, 2, 1, 1]
    assert graph.nodes.tolist() == [0, 1, 2, 1, 3]
    assert graph.places.tolist() == [0, 1, 2, 3, 4]
    assert graph.places_from_end.tolist() == [4, 3, 2, 1, 0]
    assert graph.last_nodes.tolist() == [3]


def test_several_histories_have_separate_graphs():
    graph = session_graph(session_queries([5, 5], [], [7], [7, 5, 7, 5, 7]), I)
    assert graph.node_items.tolist() == [5, 7, 5, 7]
    assert graph.node_states.tolist() == [0, 2, 3, 3]
    assert graph.counts.tolist() == [2, 1, 2, 3]
    found = zip(graph.sources.tolist(), graph.receivers.tolist(), strict=True)
    pairs = dict(zip(found, graph.edge_counts.tolist(), strict=True))
    assert pairs == {(0, 0): 1, (3, 2): 2, (2, 3): 2}  # 5 to itself; 7 to 5 and back, twice each
    assert graph.is_empty.tolist() == [False, True, False, False]
    assert graph.last_nodes.tolist() == [0, 0, 1, 3]  # the last position, not the last new item
    assert graph.states.tolist() == [0, 0, 2, 3, 3, 3, 3, 3]
    assert (graph.receivers.diff() >= 0).all()


def test_states_that_share_a_row_have_the_graphs_of_their_prefixes():
    row = [3, 1, 3, 2]
    shared = Queries(
        users=torch.tensor([4]),
        history=torch.tensor([row]),
        lengths=torch.tensor([4]),
        rows=torch.tensor([0, 0, 0]),
        ends=torch.tensor([1, 3, 4]),
    )
    separate = session_graph(session_queries(row[:1], row[:3], row), I)
    graph = session_graph(shared, I)
    for name in set(graph._fields) - {"plan"}:
        value = getattr(graph, name)
        expected = torch.tensor([4, 4, 4]) if name == "users" else getattr(separate, name)
        assert torch.equal(value, expected), name


def test_no_history_at_all():
    for queries in (session_queries([], []), session_queries([], [])):
        graph = session_graph(queries, I)
        assert (graph.n_states, graph.n_nodes, len(graph.sources)) == (2, 0, 0)


def test_the_padding_and_the_order_of_the_batch_do_not_matter():
    first = session_graph(session_queries([1, 2], [4, 3, 4]), I)
    second = session_graph(session_queries([4, 3, 4], [1, 2]), I)
    assert edges_of(first) == edges_of(second)
    assert sorted(first.node_items.tolist()) == sorted(second.node_items.tolist())


def test_segment_sum_mean_and_softmax():
    segments = torch.tensor([0, 0, 2])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert segment_sum(values, segments, 4).tolist() == [[4, 6], [0, 0], [5, 6], [0, 0]]
    assert segment_mean(values, segments, 4).tolist() == [[2, 3], [0, 0], [5, 6], [0, 0]]
    assert segment_sum(values[:, 0], segments, 3).tolist() == [4, 0, 5]
    weights = segment_softmax(torch.tensor([0.0, np.log(3), 1000.0]), segments, 4)
    assert weights.tolist() == pytest.approx([0.25, 0.75, 1.0])
    two_heads = segment_softmax(torch.tensor([[0.0, 1.0], [0.0, 1.0], [7.0, 8.0]]), segments, 3)
    assert two_heads.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]


def test_neighbour_sum():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    sources, receivers = torch.tensor([2, 0, 1]), torch.tensor([0, 3, 3])
    result = neighbour_sum(values, torch.tensor([2.0, 1.0, 10.0]), sources, receivers, 4)
    assert result.tolist() == [[10, 12], [0, 0], [0, 0], [31, 42]]
    none = torch.empty(0, dtype=torch.int64)
    assert neighbour_sum(values, torch.empty(0), none, none, 2).tolist() == [[0, 0], [0, 0]]


def test_the_gradients_are_those_of_the_definitions():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.rand(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([0, 0, 1, 3, 3])
    sources, receivers = torch.tensor([4, 0, 2, 2, 1, 0]), torch.tensor([0, 0, 1, 2, 2, 2])
    check = torch.autograd.gradcheck
    assert check(lambda x: segment_sum(x, segments, 5), (values,))
    assert check(lambda x: segment_mean(x, segments, 5), (values,))
    assert check(lambda x: of_segments(x, torch.tensor([0, 0, 2, 4])), (values,))
    assert check(lambda x: segment_softmax(x, segments, 5), (logits,))
    assert check(lambda x, w: neighbour_sum(x, w, sources, receivers, 4), (values, weights))
