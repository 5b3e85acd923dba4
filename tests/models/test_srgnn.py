"""SR-GNN by hand, position by position, and what must not change its states."""

import pytest
import torch

from recoach.models.session.gated import GatedGraphLayer
from recoach.models.session.graph import session_graph
from recoach.models.session.readout import PositionAttention, SoftAttention
from session_inputs import random_weights, session_model, session_queries, sessions

HISTORY = [1, 2, 3, 2, 4]
DIM = 3


def build(**settings):
    return session_model("srgnn", sessions([0]), dim=DIM, max_length=6, **settings)


def cell_by_hand(layer, nodes, before, after):
    """One step of the gated cell, with lists of the neighbours (and weights) of each node."""
    inputs = []
    for node in range(len(nodes)):
        parts = []
        for neighbours, linear, bias in (
            (before[node], layer.incoming, layer.incoming_bias),
            (after[node], layer.outgoing, layer.outgoing_bias),
        ):
            total = sum(weight for _, weight in neighbours)
            mean = sum(
                (weight / total * linear(nodes[other]) for other, weight in neighbours),
                start=torch.zeros(DIM),
            )
            parts.append(mean + bias)
        inputs.append(torch.cat(parts))
    cell = layer.cell
    i_r, i_z, i_n = (torch.stack(inputs) @ cell.weight_ih.T + cell.bias_ih).chunk(3, dim=1)
    h_r, h_z, h_n = (nodes @ cell.weight_hh.T + cell.bias_hh).chunk(3, dim=1)
    reset, update = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    new = torch.tanh(i_n + reset * h_n)
    return new + update * (nodes - new)


@pytest.mark.parametrize("edges", ["binary", "count"])
def test_the_gated_layer_by_hand(edges):
    layer = GatedGraphLayer(DIM, steps=2, edges=edges)
    random_weights(layer)
    graph = session_graph(session_queries([0, 1, 0, 1, 2]), 10)
    often = 2 if edges == "count" else 1
    before = [[(1, 1)], [(0, 1)], [(1, 1)]]
    after = [[(1, 1)], [(0, 1), (2, 1)], []]
    before[1] = [(0, often)]
    after[0] = [(1, often)]
    nodes = torch.randn(3, DIM)
    expected = nodes
    for _ in range(2):
        expected = cell_by_hand(layer, expected, before, after)
    assert torch.allclose(layer(graph, nodes), expected, atol=1e-6)


def test_counted_edges_weigh_a_frequent_neighbour_more():
    layer = GatedGraphLayer(DIM, edges="count")
    random_weights(layer)
    graph = session_graph(session_queries([0, 2, 1, 2, 1, 2]), 10)  # 0→2 once, 1→2 and 2→1 twice
    nodes = torch.randn(3, DIM)
    before, after = [[], [(2, 2)], [(0, 1), (1, 2)]], [[(2, 1)], [(2, 2)], [(1, 2)]]
    expected = cell_by_hand(layer, nodes, before, after)
    assert torch.allclose(layer(graph, nodes), expected, atol=1e-6)


def states_by_hand(model, history):
    """The readout over positions, as the paper writes it."""
    graph = session_graph(session_queries(history), model.n_items)
    nodes = model.items.weight[graph.node_items]
    nodes = model.layer(graph, nodes)
    positions = [nodes[node] for node in graph.nodes]
    last, readout = positions[-1], model.readout
    session = sum(
        readout.query(torch.sigmoid(readout.last(last) + readout.node(vector))) * vector
        for vector in positions
    )
    return model.output(torch.cat([session, last]))


def test_the_readout_sums_over_positions():
    model = build()
    states, items = model.embed(session_queries(HISTORY, [7], []))
    assert torch.allclose(states[0], states_by_hand(model, HISTORY), atol=1e-5)
    assert torch.allclose(states[1], states_by_hand(model, [7]), atol=1e-5)
    assert states[2].tolist() == [0.0] * DIM
    assert torch.equal(items, model.items.weight)


def test_a_history_without_edges_has_the_bias_as_its_messages():
    model = build()
    layer, item = model.layer, model.items.weight[7]
    expected = layer.cell(torch.cat([layer.incoming_bias, layer.outgoing_bias])[None], item[None])
    graph = session_graph(session_queries([7]), 10)
    assert torch.allclose(layer(graph, item[None]), expected)


def test_a_reversed_session_has_another_state():
    model = build()
    forward, backward = model.embed(session_queries([1, 2, 3, 1], [1, 3, 2, 1])).users
    assert not torch.allclose(forward, backward, atol=1e-3)


def test_renamed_items_permute_the_scores():
    model, renamed = build(), build()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    renamed.items.weight.data = torch.empty_like(model.items.weight)
    renamed.items.weight.data[order] = model.items.weight.data
    names = order[torch.tensor(HISTORY)].tolist()
    scores = model.score(session_queries(HISTORY))
    assert torch.allclose(renamed.score(session_queries(names))[:, order], scores, atol=1e-5)


def test_normalised_scores_are_scaled_cosines():
    model = build(normalise=True, scale=5.0)
    states, items = model.embed(session_queries(HISTORY))
    assert states.norm(dim=1).tolist() == pytest.approx([5.0], abs=1e-5)
    assert items.norm(dim=1).tolist() == pytest.approx([1.0] * 10, abs=1e-5)


def test_softmax_attention_over_nodes_equals_the_one_over_positions():
    attention = SoftAttention(DIM, softmax=True)
    random_weights(attention)
    graph = session_graph(session_queries(HISTORY), 10)
    nodes, last = torch.randn(4, DIM), torch.randn(1, DIM)
    vectors = nodes[graph.nodes]
    logits = attention.query(torch.sigmoid(attention.last(last) + attention.node(vectors)))
    expected = (logits.softmax(dim=0) * vectors).sum(dim=0)
    assert torch.allclose(attention(graph, nodes, last)[0], expected, atol=1e-6)


@pytest.mark.parametrize("positions", ["reversed", "forward", "none"])
def test_position_attention_by_hand(positions):
    attention = PositionAttention(DIM, 6, positions)
    random_weights(attention)
    graph = session_graph(session_queries(HISTORY, [5, 6]), 10)
    nodes = torch.randn(graph.n_nodes, DIM)
    for state, history in enumerate((HISTORY, [5, 6])):
        vectors = nodes[graph.nodes[graph.states == state]]
        length = len(history)
        numbers = range(length) if positions == "forward" else range(length - 1, -1, -1)
        hidden = vectors
        if positions != "none":
            both = torch.cat([attention.position[list(numbers)], vectors], dim=1)
            joint = torch.cat([attention.of_position.weight, attention.of_item.weight], dim=1)
            hidden = torch.tanh(both @ joint.T)
        gates = attention.gate(hidden) + attention.mean_gate(vectors.mean(dim=0))
        expected = (attention.query(torch.sigmoid(gates)) * vectors).sum(dim=0)
        assert torch.allclose(attention(graph, nodes)[state], expected, atol=1e-5)
