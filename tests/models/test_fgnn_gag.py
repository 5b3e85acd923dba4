"""The layers of FGNN and GAG by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from recoach.models.session.fgnn import Set2Set, WeightedGraphAttention
from recoach.models.session.gag import AttributedGraphLayer
from recoach.models.session.graph import session_graph, with_self_loops
from session_inputs import random_weights, session_model, session_queries, sessions

DIM = 3
HISTORY = [0, 1, 0, 1, 2]  # 0→1 twice, 1→0 once, 1→2 once


def graph_of(*histories: list[int]):
    return session_graph(session_queries(*histories), 10)


def test_self_loops_are_added_where_there_is_none():
    graph = graph_of([4, 4, 5], [6])
    edges = with_self_loops(graph, torch.tensor([7.0, 8.0]))
    found = set(zip(*(part.tolist() for part in edges), strict=True))
    assert found == {(0, 0, 7.0), (0, 1, 8.0), (1, 1, 1.0), (2, 2, 1.0)}
    assert (edges.receivers.diff() >= 0).all()


@pytest.mark.parametrize("heads", [1, 2])
def test_weighted_graph_attention_by_hand(heads):
    layer = WeightedGraphAttention(DIM, DIM, heads)
    random_weights(layer)
    graph = graph_of(HISTORY)
    edges = with_self_loops(graph, graph.edge_counts.float())
    nodes = torch.randn(3, DIM)
    into = {0: {0: 1, 1: 1}, 1: {0: 2, 1: 1}, 2: {1: 1, 2: 1}}  # receiver: {source: transitions}
    parts = []
    for head in range(heads):
        vectors = nodes @ layer.linear.weight[head * DIM : (head + 1) * DIM].T
        rows = []
        for receiver, sources in into.items():
            logits = torch.stack(
                [
                    vectors[receiver] @ layer.of_receiver[head]
                    + vectors[source] @ layer.of_source[head]
                    + count * layer.of_count[head]
                    for source, count in sources.items()
                ]
            )
            weights = functional.leaky_relu(logits, 0.2).softmax(dim=0)
            rows.append(weights @ vectors[list(sources)])
        parts.append(torch.stack(rows))
    assert torch.allclose(layer(edges, nodes), torch.cat(parts, dim=1), atol=1e-5)


def test_set2set_by_hand():
    readout = Set2Set(DIM, steps=2)
    random_weights(readout)
    graph = graph_of(HISTORY, [7, 8])
    nodes = torch.randn(5, DIM)
    for state, vectors in enumerate((nodes[:3], nodes[3:])):
        query, result = torch.zeros(1, DIM), torch.zeros(1, 2 * DIM)
        for _ in range(2):
            query = readout.cell(result, query)
            weights = (vectors @ query[0]).softmax(dim=0)
            result = torch.cat([query, (weights @ vectors)[None]], dim=1)
        assert torch.allclose(readout(graph, nodes)[state], result[0], atol=1e-6)


def test_the_first_query_of_set2set_is_the_same_for_all_sessions():
    readout = Set2Set(DIM, steps=1)
    random_weights(readout)
    first, second = readout(graph_of(HISTORY, [7, 8]), torch.randn(5, DIM))
    assert torch.equal(first[:DIM], second[:DIM])
    assert not torch.allclose(first[DIM:], second[DIM:])


def gag_messages(linear: nn.Linear, nodes, user, weights: dict[tuple[int, int], float]):
    """The normalised sum, with weights of (source, receiver), along or against the edges."""
    inputs = torch.cat([nodes, user.expand(len(nodes), -1)], dim=1) @ linear.weight.T
    sums = torch.zeros(len(nodes))
    for (source, _), weight in weights.items():
        sums[source] += weight
    return inputs, {
        (source, receiver): weight / (sums[source] * sums[receiver]).sqrt()
        for (source, receiver), weight in weights.items()
    }


def test_the_layer_of_gag_by_hand():
    layer = AttributedGraphLayer(DIM)
    random_weights(layer)
    graph = graph_of(HISTORY)
    nodes, user = torch.randn(3, DIM), torch.randn(1, DIM)
    loops = {(0, 0): 1.0, (1, 1): 1.0, (2, 2): 1.0}
    # One edge enters each node; two edges leave node 1.
    along = {(0, 1): 2.0, (1, 0): 1.0, (1, 2): 1.0} | loops
    against = {(0, 1): 2.0, (1, 0): 0.5, (1, 2): 0.5} | loops
    received, returned = torch.zeros(3, DIM), torch.zeros(3, DIM)
    inputs, weights = gag_messages(layer.forward_map, nodes, user, along)
    for (source, receiver), weight in weights.items():
        received[receiver] += weight * inputs[source]
    inputs, weights = gag_messages(layer.backward_map, nodes, user, against)
    for (source, receiver), weight in weights.items():
        returned[source] += weight * inputs[receiver]
    expected = layer.output(torch.cat([received + layer.bias, returned + layer.bias], dim=1))
    assert torch.allclose(layer(graph, nodes, user.expand(3, -1)), expected, atol=1e-5)


def gag(**settings):
    return session_model("gag", sessions([0], [1]), dim=DIM, max_length=4, **settings)


def test_the_state_of_gag_by_hand():
    model = gag()
    queries = session_queries([5, 6, 5])
    queries.users[0] = 1
    user = model.users.weight[1]
    graph = session_graph(queries, 10)
    nodes = torch.tanh(model.layer(graph, model.items.weight[[5, 6]], user.expand(2, -1)))
    last, weighted = nodes[0], torch.zeros(DIM)
    for vector, count in zip(nodes, (2, 1), strict=True):
        hidden = torch.sigmoid(model.attention(torch.cat([last, vector, user])))
        weighted += count * model.query(hidden) * vector
    expected = model.session(torch.cat([last, weighted])) + torch.tanh(model.user(user))
    assert torch.allclose(model.embed(queries).users[0], expected, atol=1e-5)


def test_an_unknown_user_equals_a_zero_vector_and_no_user_vectors():
    model, anonymous = gag(), gag(users=False)
    queries = session_queries([5, 6, 5])
    unknown = model.score(queries)
    queries.users[0] = 0
    assert not torch.allclose(model.score(queries), unknown)
    with torch.no_grad():
        model.users.weight.zero_()
    assert torch.allclose(model.score(queries), unknown)
    anonymous.load_state_dict(
        {name: value for name, value in model.state_dict().items() if name != "users.weight"}
    )
    assert torch.allclose(anonymous.score(queries), unknown)


def test_the_layer_of_gag_is_trained():
    model = gag().train()
    assert any(parameter is model.layer.output.weight for parameter in model.parameters())
    model.score(session_queries([5, 6, 5])).square().sum().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in model.layer.parameters())
