"""GCE-GNN by hand: the global graph, the relations, both attentions and the whole state."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.models.session.gcegnn import (
    GlobalAttention,
    LocalAttention,
    frontier,
    relations,
    session_means,
)
from recoach.models.session.graph import session_graph
from recoach.models.session.neighbour_table import NeighbourTable, pair_counts
from session_inputs import random_weights, session_model, session_queries, sessions
from toy_logs import block_graph

TRAIN = sessions([0, 1, 2, 1], [], [5, 0, 1], [3, 3], [6, 7, 6], [8, 5, 0, 1, 2], [9])
"""Item 4 and item 9 have no neighbours, item 3 has only itself."""
HISTORY = [1, 2, 3, 2, 9]
DIM = 3


def build(train=TRAIN, **settings):
    defaults = {"dim": DIM, "max_length": 6, "neighbours": 3}
    return session_model("gcegnn", train, **defaults | settings)


def graph_of(*histories):
    return session_graph(session_queries(*histories), 10)


def counts_of(*rows, window=3):
    """Return {item: [(neighbour, count), ...]} in the order of the table."""
    result = {}
    for item, other, count in zip(*pair_counts(sessions(*rows), 10, window), strict=True):
        result.setdefault(int(item), []).append((int(other), int(count)))
    return result


def test_pairs_within_the_window_count_in_both_directions():
    # Distance 1: 01, 12, 21; distance 2: 02, 11; distance 3: 01. A pair 11 counts twice.
    assert counts_of([0, 1, 2, 1]) == {
        0: [(1, 2), (2, 1)],
        1: [(0, 2), (2, 2), (1, 2)],
        2: [(1, 2), (0, 1)],
    }


def test_pairs_beyond_the_window_and_of_two_sessions_do_not_count():
    one_window = counts_of([0, 1, 2, 3, 4], [5], [6, 7])
    assert {item for item, _ in one_window[0]} == {1, 2, 3}
    assert one_window[6] == [(7, 1)]
    assert 5 not in one_window
    assert counts_of([0, 1, 2], window=1) == {0: [(1, 1)], 1: [(0, 1), (2, 1)], 2: [(1, 1)]}


def test_of_equal_counts_the_pair_that_occurs_first_comes_first():
    # In the first session the adjacent pair 07 precedes the pair 08 of distance 2.
    order = [item for item, _ in counts_of([0, 7, 8], [4, 0], [3, 0], [0, 3])[0]]
    assert order == [3, 7, 8, 4]


def test_the_table_has_the_largest_counts_and_the_item_itself_where_there_are_none():
    table = NeighbourTable(TRAIN, 10, neighbours=2, window=3, weights="raw")
    assert table.items[:5].tolist() == [[1, 2], [0, 2], [1, 0], [3, 3], [4, 4]]
    assert table.weights[:5].tolist() == [[4, 2], [4, 3], [3, 2], [2, 0], [0, 0]]
    log = NeighbourTable(TRAIN, 10, neighbours=2, window=3, weights="log")
    assert torch.equal(log.items, table.items)
    assert torch.allclose(log.weights, (1 + table.weights).log())


def test_a_log_without_interactions_has_no_neighbours():
    table = NeighbourTable(sessions([]), 2, neighbours=2, window=3, weights="raw")
    assert table.weights.tolist() == [[0, 0], [0, 0]]


def test_the_table_is_built_from_train_shared_by_copies_and_not_saved():
    dataset = leave_last_out(block_graph(6, 12, n_blocks=2, length=6))
    model = build_model("gcegnn", dataset, dim=4, neighbours=12)
    table = model.neighbours
    for item, (row, weights) in enumerate(zip(table.items, table.weights, strict=True)):
        in_train = set()
        for user in range(6):
            items = dataset.train.row(user).tolist()
            for place in (place for place, value in enumerate(items) if value == item):
                in_train |= set(items[max(0, place - 3) : place] + items[place + 1 : place + 4])
        assert set(row[weights > 0].tolist()) == in_train
    assert copy.deepcopy(model).neighbours is model.neighbours
    assert not any(key.startswith("neighbours") for key in model.state_dict())


def kinds_of(*histories):
    graph = graph_of(*histories)
    items, pairs = graph.node_items.tolist(), relations(graph)
    assert (pairs.nodes.diff() >= 0).all()
    triples = zip(pairs.nodes.tolist(), pairs.attended.tolist(), pairs.kinds.tolist(), strict=True)
    return [(items[a], items[b], kind) for a, b, kind in triples]


def test_relations_of_a_session():
    assert sorted(kinds_of([1, 2, 1])) == [(1, 1, 0), (1, 2, 3), (2, 1, 3), (2, 2, 0)]
    # 1→2 one way, 2⇄3 both ways although 2→3 occurs twice, 3→3 adds nothing.
    assert sorted(kinds_of([1, 2, 3, 3, 2, 3])) == [
        (1, 1, 0),
        (1, 2, 1),
        (2, 1, 2),
        (2, 2, 0),
        (2, 3, 3),
        (3, 2, 3),
        (3, 3, 0),
    ]


def test_relations_do_not_cross_sessions():
    assert sorted(kinds_of([1, 2], [], [2, 1], [5])) == [
        (1, 1, 0),
        (1, 1, 0),
        (1, 2, 1),
        (1, 2, 2),
        (2, 1, 1),
        (2, 1, 2),
        (2, 2, 0),
        (2, 2, 0),
        (5, 5, 0),
    ]


def local_by_hand(local, history, vectors):
    """Return {item: local vector} of a history, with {item: vector} of its items."""
    steps = set(pairwise(history))
    result = {}
    for node in set(history):
        logits, rows = [], []
        for other in set(history):
            kind = 1 * ((node, other) in steps) + 2 * ((other, node) in steps)
            kind = 0 if node == other else kind
            if kind or node == other:
                product = (local.relation[kind] * vectors[node] * vectors[other]).sum()
                logits.append(functional.leaky_relu(product, 0.2))
                rows.append(vectors[other])
        result[node] = torch.stack(logits).softmax(dim=0) @ torch.stack(rows)
    return result


def test_local_attention_by_hand():
    local = LocalAttention(DIM)
    random_weights(local)
    graph = graph_of(HISTORY, [7], [2, 1])
    nodes = torch.randn(graph.n_nodes, DIM)
    result = local(graph, nodes)
    for state, history in enumerate((HISTORY, [7], [2, 1])):
        of_state = graph.node_states == state
        items = graph.node_items[of_state].tolist()
        vectors = dict(zip(items, nodes[of_state], strict=True))
        expected = local_by_hand(local, history, vectors)
        for item, vector in zip(items, result[of_state], strict=True):
            assert torch.allclose(vector, expected[item], atol=1e-5)


def global_by_hand(model, item, mean, hop):
    """Return the vector of an item after `hop` steps in the global graph."""
    vector = model.item_vectors()[item]
    if hop == 0:
        return vector
    layer, table = model.layers[hop - 1], model.neighbours
    logits, rows = [], []
    for other, weight in zip(table.items[item].tolist(), table.weights[item], strict=True):
        if weight > 0:
            product = torch.cat([mean * global_by_hand(model, other, mean, hop - 1), weight[None]])
            first = torch.cat([layer.key.weight, layer.weight_key[:, None]], dim=1)
            logits.append(layer.query @ functional.leaky_relu(first @ product, 0.2))
            rows.append(global_by_hand(model, other, mean, hop - 1))
    gathered = torch.zeros(DIM)
    if rows:
        gathered = torch.stack(logits).softmax(dim=0) @ torch.stack(rows)
    own = global_by_hand(model, item, mean, hop - 1)
    return (layer.output.weight @ torch.cat([own, gathered])).relu()


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("normalise", [False, True])
def test_global_vectors_by_hand(hops, normalise):
    model = build(hops=hops, normalise=normalise, weights="raw")
    histories = (HISTORY, [4], [1, 0])
    graph = graph_of(*histories)
    items = model.item_vectors()
    result = model.from_neighbours(graph, items[graph.node_items])
    for state, item, vector in zip(graph.node_states, graph.node_items, result, strict=True):
        mean = items[histories[state]].mean(dim=0)
        expected = global_by_hand(model, item, mean, hops)
        assert torch.allclose(vector, expected, atol=1e-4, rtol=1e-4)


def test_the_mean_of_a_session_is_over_positions():
    graph = graph_of([1, 2, 1], [], [3])
    means = session_means(graph, torch.tensor([[3.0], [6.0], [5.0]]))
    assert means.tolist() == [[4.0], [0.0], [5.0]]


def test_missing_neighbours_have_weight_zero():
    table = NeighbourTable(TRAIN, 10, neighbours=3, window=3, weights="log")
    layer = GlobalAttention(DIM, 0.0)
    random_weights(layer)
    hop = frontier(torch.tensor([0, 0, 0]), torch.tensor([1, 3, 4]), table)
    vectors = torch.randn(len(hop.items), DIM)
    weights = layer.attention(hop, vectors, torch.randn(1, DIM))
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1, 0])
    assert torch.equal(weights > 0, table.weights[[1, 3, 4]] > 0)
    assert torch.isfinite(layer(hop, vectors, torch.randn(1, DIM))).all()


def test_a_frontier_has_each_pair_of_state_and_item_once():
    table = NeighbourTable(TRAIN, 10, neighbours=2, window=3, weights="log")
    hop = frontier(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), table)
    pairs = list(zip(hop.states.tolist(), hop.items.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert hop.roots.tolist() == [0, 1, 3]
    assert [pairs[i] for i in hop.neighbours[1]] == [(0, 0), (0, 2)]
    assert [pairs[i] for i in hop.neighbours[2]] == [(1, 1), (1, 2)]
    assert hop.weights.exp().tolist() == pytest.approx(np.array([[5, 3], [5, 4], [5, 3]]))


def test_without_weights_for_neighbours_the_global_graph_is_irrelevant():
    model, other = build(), build(sessions([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]))
    for changed in (model, other):
        changed.layers[0].output.weight.data[:, DIM:] = 0
    queries = session_queries(HISTORY, [7])
    assert torch.allclose(model.score(queries), other.score(queries), atol=1e-5)
    assert not torch.allclose(
        build().score(queries), build(sessions([9, 8, 7, 2, 1])).score(queries), atol=1e-3
    )


@pytest.mark.parametrize("positions", ["reversed", "forward", "none"])
def test_the_state_by_hand(positions):
    model = build(positions=positions, normalise=True, scale=5.0)
    graph = graph_of(HISTORY)
    items = functional.normalize(model.items.weight, dim=1)
    nodes = items[graph.node_items]
    local_vectors = local_by_hand(model.local, HISTORY, items)
    mean = items[HISTORY].mean(dim=0)
    fused = [
        local_vectors[i] + global_by_hand(model, i, mean, 1) for i in graph.node_items.tolist()
    ]
    expected = model.readout(graph, torch.stack(fused))
    assert torch.allclose(model.encode(graph, nodes), expected, atol=1e-4)
    states, table = model.embed(session_queries(HISTORY, []))
    assert torch.allclose(states[0], 5 * functional.normalize(expected, dim=1)[0], atol=1e-5)
    assert states[1].tolist() == [0.0] * DIM
    assert torch.allclose(table, items)
    has_positions = "position" in model.parameter_groups()
    assert has_positions == (positions != "none")


def test_position_0_is_the_last_item_of_every_history():
    model, changed = build(), build()
    changed.readout.position.data[2] += 1.0
    queries = session_queries([1, 2], [5, 1, 2], [3, 4, 1, 2])
    differs = (model.score(queries) - changed.score(queries)).abs().amax(dim=1) > 1e-4
    assert differs.tolist() == [False, True, True]
    changed = build()
    changed.readout.position.data[0] += 1.0
    assert ((model.score(queries) - changed.score(queries)).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize("name", [None, "dropout_gcn", "dropout_local", "dropout_global"])
def test_each_dropout_acts_in_training_only(name):
    rates = {f"dropout_{part}": 0.0 for part in ("gcn", "local", "global")}
    model = build(**rates | ({name: 0.5} if name else {}))
    queries = session_queries([1, 0, 2], [1, 2, 0])
    assert torch.equal(model.score(queries), model.score(queries))
    model.train()
    assert torch.equal(model.score(queries), model.score(queries)) == (name is None)


def test_renamed_items_permute_the_scores():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    rows = [TRAIN.row(user).tolist() for user in range(len(TRAIN))]
    model = build(hops=2)
    renamed = build(sessions(*(order[torch.tensor(row).long()].tolist() for row in rows)), hops=2)
    renamed.items.weight.data[order] = model.items.weight.data.clone()
    scores = model.score(session_queries(HISTORY))
    names = order[torch.tensor(HISTORY)].tolist()
    assert torch.allclose(renamed.score(session_queries(names))[:, order], scores, atol=1e-4)
