"""TAGNN by hand, position by position, and what must not change its scores."""

import pytest
import torch
from torch.nn import functional

from recoach.data.batches import Batch
from recoach.models.base import TrainingBatch
from recoach.models.session.graph import session_graph
from recoach.models.session.tagnn import TAGNN, TAGNNConfig
from session_inputs import session_model, session_queries, sessions

HISTORIES = ([1, 2, 3, 2, 4], [7], [5, 6, 5], [5, 5, 5, 1])
DIM = 3


def build(**settings):
    return session_model("tagnn", sessions([0]), dim=DIM, max_length=6, **settings)


def vectors_by_hand(model, history):
    """Return the vector of each position and of the session."""
    graph = session_graph(session_queries(history), model.n_items)
    nodes = model.layer(graph, model.items.weight[graph.node_items])
    positions = nodes[graph.nodes]
    last, readout = positions[-1], model.readout
    logits = [readout.query(torch.sigmoid(readout.last(last) + readout.node(h))) for h in positions]
    session = (torch.stack(logits).softmax(dim=0) * positions).sum(dim=0)
    return positions, model.output.weight @ torch.cat([session, last]) + model.output.bias


def scores_by_hand(model, history):
    """Return the scores one item after another, as the official code computes them."""
    positions, session = vectors_by_hand(model, history)
    scores = []
    for item in model.items.weight:
        weights = torch.stack([item @ (model.target.weight @ h) for h in positions]).softmax(dim=0)
        target = sum(weight * h for weight, h in zip(weights, positions, strict=True))
        scores.append((session + target) @ item)
    return torch.stack(scores)


@pytest.mark.parametrize("settings", [{}, {"steps": 2, "edges": "count"}])
def test_scores_by_hand(settings):
    model = build(**settings)
    scores = model.score(session_queries(*HISTORIES, []))
    for row, history in zip(scores, HISTORIES, strict=False):
        assert torch.allclose(row, scores_by_hand(model, history), atol=1e-5)
    assert scores[-1].tolist() == [0.0] * 10


@pytest.mark.parametrize("settings", [{"steps": 2}, {"edges": "count"}])
def test_steps_and_weights_of_edges_change_the_scores(settings):
    queries = session_queries([0, 2, 1, 2, 1, 2])  # 2 follows 0 once and 1 twice
    assert not torch.allclose(build().score(queries), build(**settings).score(queries), atol=0.01)


def test_scores_of_candidates_by_hand():
    model = build()
    expected = scores_by_hand(model, HISTORIES[0])
    candidates = torch.tensor([[3, 3, 9], [0, 1, 2]])
    scores = model.score(session_queries(HISTORIES[0], HISTORIES[0]), candidates)
    assert torch.allclose(scores, expected[candidates], atol=1e-5)


def test_without_target_weights_the_mean_over_positions_is_added():
    model = build()
    torch.nn.init.zeros_(model.target.weight)
    positions, session = vectors_by_hand(model, HISTORIES[0])
    expected = model.items.weight @ (session + positions.mean(dim=0))
    assert torch.allclose(model.score(session_queries(HISTORIES[0]))[0], expected, atol=1e-5)


def test_scores_do_not_depend_on_the_other_sessions_of_the_batch():
    model = build()
    longer = [8, 1, 9, 0, 3, 6]
    together = model.score(session_queries(longer, *HISTORIES))
    for row, history in zip(together[1:], HISTORIES, strict=True):
        assert torch.allclose(row, model.score(session_queries(history))[0], atol=1e-5)


def test_renamed_items_permute_the_scores():
    model, renamed = build(), build()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    renamed.items.weight.data[order] = model.items.weight.data.clone()
    names = order[torch.tensor(HISTORIES[0])].tolist()
    scores = model.score(session_queries(HISTORIES[0]))
    assert torch.allclose(renamed.score(session_queries(names))[:, order], scores, atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_scores():
    model, targets = build(), torch.tensor([4, 0, 6, 9])
    queries = session_queries(*HISTORIES)
    batch = TrainingBatch(states=Batch(queries, targets.numpy(), targets))
    loss = model.loss(batch, torch.Generator())
    expected = functional.cross_entropy(model.score(queries), targets)
    assert torch.allclose(loss, expected)
    parameters = list(model.parameters())
    slopes = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for result, slope in zip(*slopes, strict=True):
        assert torch.allclose(result, slope, atol=1e-4)


def test_weights_are_drawn_from_the_interval_of_the_official_code():
    model = TAGNN(TAGNNConfig(dim=25), sessions([0]), 50)
    for parameter in model.parameters():
        assert parameter.abs().max() <= 0.2
        assert parameter.std() > 0.08
