"""COTREC by hand: item view, session view and the two terms between them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recoach.data.batches import Batch
from recoach.data.split import leave_last_out
from recoach.models.base import TrainingBatch
from recoach.models.distribution import Workspace
from recoach.models.registry import build_model
from recoach.models.session import cotrec_views
from recoach.models.session.cotrec_views import (
    SessionView,
    adversary,
    contrast,
    divergence,
    draw_proposals,
    line_graph,
    propose,
)
from recoach.models.session.graph import session_graph
from session_inputs import random_weights, session_model, session_queries, sessions
from toy_logs import cycle

# 0 -> 1 twice, 1 -> 2 and 1 -> 3 once; items 2 to 9 are never followed by another one.
TRAIN = sessions([0, 1, 2], [0, 1, 3], [4])
ADJACENCY = torch.zeros(10, 10)
ADJACENCY[0, [0, 1]] = torch.tensor([1.0, 2.0]) / 3
ADJACENCY[1, [1, 2, 3]] = torch.tensor([1.0, 1.0, 1.0]) / 3
HISTORIES = ([0, 1, 0], [2, 1, 2], [5, 6])
TARGETS = torch.tensor([2, 3, 7])
DIM = 3


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def cotrec(**settings):
    return session_model("cotrec", TRAIN, dim=DIM, max_length=6, **settings)


def training_batch(queries=None):
    queries = queries or session_queries(*HISTORIES)
    return TrainingBatch(states=Batch(queries, np.arange(3), TARGETS))


def loss_of(model, batch=None, seed=0):
    return model.loss(batch or training_batch(), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("item_maps", [True, False])
def test_item_vectors_are_the_mean_of_the_table_and_of_normalised_layers(item_maps):
    model = cotrec(item_maps=item_maps)
    layers = [model.items.weight]
    for number in range(2):
        mapped = layers[-1] @ model.maps[number].weight.T if item_maps else layers[-1]
        layers.append(ADJACENCY @ mapped)
    expected = (layers[0] + sum(functional.normalize(layer, dim=1) for layer in layers[1:])) / 3
    vectors, items = model.propagate()
    assert torch.allclose(vectors, expected, atol=1e-6)
    assert torch.allclose(items, functional.normalize(expected, dim=1), atol=1e-6)
    assert len(list(model.maps)) == (2 if item_maps else 0)


def test_an_item_that_nothing_follows_keeps_its_scaled_embedding():
    model = cotrec(layers=3)
    vectors = model.propagate()[0]
    for item in (2, 4, 9):
        assert torch.equal(vectors[item], model.items.weight[item] / 4)


def test_states_have_the_length_of_the_scale_and_items_have_length_one():
    model = cotrec(scale=7.0)
    users, items = model.embed(session_queries(*HISTORIES, []))
    assert users.norm(dim=1).tolist() == pytest.approx([7.0, 7.0, 7.0, 0.0], abs=1e-5)
    assert items.norm(dim=1).tolist() == pytest.approx([1.0] * 10, abs=1e-5)


@pytest.mark.parametrize("positions", ["reversed", "forward", "none"])
def test_a_state_is_read_from_the_vectors_before_they_are_normalised(positions):
    model = cotrec(positions=positions, normalise=False)
    vectors, readout, history = model.propagate()[0], model.readout, HISTORIES[0]
    numbers = [0, 1, 2] if positions == "forward" else [2, 1, 0]
    mean = (2 * vectors[0] + vectors[1]) / 3
    expected = torch.zeros(DIM)
    for item, number in zip(history, numbers, strict=True):
        hidden = vectors[item]
        if positions != "none":
            position = readout.of_position(readout.position[number])
            hidden = torch.tanh(position + readout.of_item(vectors[item]))
        gate = torch.sigmoid(readout.gate(hidden) + readout.mean_gate(mean))
        expected = expected + readout.query(gate) * vectors[item]
    users, items = model.embed(session_queries(*HISTORIES))
    assert torch.allclose(users[0], expected, atol=1e-5)
    assert torch.equal(items, vectors)
    scaled = cotrec(positions=positions).embed(session_queries(*HISTORIES))[0]
    assert torch.allclose(scaled[0], 10 * expected / expected.norm(), atol=1e-4)


def test_the_item_vectors_are_cached_until_a_weight_changes():
    model = cotrec()
    with torch.no_grad():
        first = model.propagate()
        assert model.propagate()[0] is first[0]
        model.maps[1].weight.add_(1)
        assert not torch.equal(model.propagate()[0], first[0])
    assert model.propagate()[0].requires_grad
    assert copy.deepcopy(model).graph is model.graph


@pytest.mark.parametrize("seed", range(4))
def test_untrained_states_point_to_their_items(seed):
    dataset = leave_last_out(cycle())
    model = build_model("cotrec", dataset, seed=seed)
    users, items = model.embed(session_queries(*HISTORIES))
    assert all((users * items[[0, 1, 5]]).sum(dim=1) > 0)


def test_states_are_joined_by_the_share_of_common_items():
    graph = session_graph(session_queries([0, 1, 0], [2, 1, 2], [5, 6], []), 10)
    weights = line_graph(graph, torch.arange(4))
    # {0, 1} and {2, 1} share one of three items; the others share nothing.
    expected = torch.eye(4)
    expected[0, :2] = torch.tensor([3.0, 1.0]) / 4
    expected[1, :2] = torch.tensor([1.0, 3.0]) / 4
    assert torch.allclose(weights, expected)


def test_states_of_the_same_history_are_not_joined():
    graph = session_graph(session_queries([0, 1], [0, 1, 2], [0, 1]), 10)
    weights = line_graph(graph, torch.tensor([0, 0, 1]))
    expected = torch.tensor([[1, 0, 1], [0, 1, 2 / 3], [1, 2 / 3, 1]])
    assert torch.allclose(weights, expected / expected.sum(dim=1, keepdim=True))


def test_the_session_view_by_hand():
    view = SessionView(DIM, 2)
    random_weights(view)
    queries, items = session_queries(*HISTORIES), torch.randn(10, DIM)
    graph = session_graph(queries, 10)
    first = torch.stack([items[history].mean(dim=0) for history in HISTORIES])
    weights, total, layer = line_graph(graph, queries.rows), first, first
    for linear in view.maps:
        layer = weights @ layer @ linear.weight.T
        total = total + functional.normalize(layer, dim=1)
    assert torch.allclose(view(items, graph, queries.rows), total / 3, atol=1e-6)


def proposals(users, items, generator):
    return propose(users, items, *draw_proposals(len(users), len(items), generator))


def test_a_view_proposes_its_best_items_and_draws_negatives_from_the_rest_of_the_best():
    # State 0 ranks the items 0, 1, 2, ..., state 1 ranks them in reverse.
    items, users = torch.arange(300.0)[:, None], torch.tensor([[-1.0], [1.0]])
    positives, negatives = proposals(users, items, torch.Generator().manual_seed(0))
    assert positives[0].tolist() == list(range(10))
    assert positives[1].tolist() == list(range(299, 289, -1))
    many = [proposals(users, items, torch.Generator().manual_seed(seed))[1] for seed in range(50)]
    drawn = torch.stack([negatives, *many])
    assert set(drawn[:, 0].flatten().tolist()) == set(range(10, 39))  # a tenth of 290
    assert set(drawn[:, 1].flatten().tolist()) == set(range(261, 290))


def test_of_a_large_catalogue_negatives_are_the_best_of_some_items(monkeypatch):
    monkeypatch.setattr(cotrec_views, "_CANDIDATES", 60)
    items, users = torch.arange(300.0)[:, None], torch.full((200, 1), -1.0)
    positives, negatives = proposals(users, items, torch.Generator().manual_seed(0))
    assert positives.tolist() == [list(range(10))] * 200
    distinct = negatives.unique()
    assert int(distinct.min()) >= 10
    assert int(distinct.max()) < 90
    assert len(distinct) <= 10  # of the same 60 items


@pytest.mark.parametrize("n_items", [1, 2, 7])
def test_a_small_catalogue_has_fewer_proposals(n_items):
    items, users = torch.randn(n_items, 2), torch.randn(3, 2)
    positives, negatives = proposals(users, items, torch.Generator().manual_seed(0))
    assert positives.shape == (3, max(1, n_items // 2))
    assert int(torch.cat([positives, negatives], dim=1).max()) < n_items
    if n_items > 1:
        assert not (positives[:, :, None] == negatives[:, None]).any()


def test_proposals_do_not_depend_on_how_many_states_are_ranked_at_once(monkeypatch):
    items, users = torch.randn(40, 2), torch.randn(5, 2)
    whole = proposals(users, items, torch.Generator().manual_seed(0))
    monkeypatch.setattr(cotrec_views, "_STATES", 2)
    parts = proposals(users, items, torch.Generator().manual_seed(0))
    assert all(torch.equal(*both) for both in zip(whole, parts, strict=True))


def test_contrast_by_hand_with_each_state_s_own_items():
    users, last, items = (functional.normalize(torch.randn(n, DIM), dim=1) for n in (2, 2, 8))
    positives, negatives = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4], [5]])
    losses = contrast(users, last, items, (positives, negatives))
    for state in range(2):
        anchor = last[state] + users[state]
        similarities = [
            (functional.cosine_similarity(anchor, items[item] + users[state], dim=0) / 0.2).exp()
            for item in [*positives[state], *negatives[state]]
        ]
        expected = -(sum(similarities[:2]) / sum(similarities)).log()
        assert losses[state].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_the_perturbation_is_the_gradient_of_the_loss_with_rows_of_one_length():
    users, items = torch.randn(3, DIM), torch.randn(10, DIM, requires_grad=True)
    loss = functional.cross_entropy(users @ items.T, TARGETS)
    (gradient,) = torch.autograd.grad(loss, items)
    expected = 0.3 * functional.normalize(gradient, dim=1)
    with torch.no_grad():
        result = adversary(users, items, TARGETS, 0.3, Workspace())
    assert torch.allclose(result, expected, atol=1e-5)
    assert not result.requires_grad


def test_divergence_is_the_mean_kl_divergence_with_gradients_for_both_policies(monkeypatch):
    monkeypatch.setattr(cotrec_views, "_STATES", 2)
    users, items = (torch.randn(n, DIM, requires_grad=True) for n in (3, 10))
    perturbation = torch.randn(10, DIM)
    p, q = (users @ items.T).softmax(1), (users @ (items + perturbation).T).softmax(1)
    expected = (p * (p / q).log()).sum(dim=1).mean()
    value = divergence(users, items, perturbation)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    pairs = zip(*(torch.autograd.grad(x, (users, items)) for x in (value, expected)), strict=True)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in pairs)


def test_the_divergence_term_is_positive_and_vanishes_without_perturbation():
    assert loss_of(cotrec(diff=1.0, eps=0.5)) > loss_of(cotrec()) + 1e-3
    assert loss_of(cotrec(diff=1.0, eps=0.0)).item() == pytest.approx(loss_of(cotrec()).item())


def test_each_view_withstands_the_perturbation_that_hurts_the_other_one():
    model = cotrec(diff=1.0, eps=0.5)
    queries = session_queries(*HISTORIES)
    users, items = model.embed(queries)
    graph = session_graph(queries, 10)
    session_users = model.session_view(model.items.weight, graph, queries.rows)
    session_users = 10 * functional.normalize(session_users, dim=1)
    by_users, by_session = (
        adversary(view, items, TARGETS, 0.5, Workspace()) for view in (users, session_users)
    )
    term = divergence(users, items, by_session) + divergence(session_users, items, by_users)
    expected = functional.cross_entropy(users @ items.T, TARGETS) + term
    assert loss_of(model).item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_view_contrasts_the_items_that_the_other_one_proposes():
    model = cotrec(con=1.0)
    queries = session_queries(*HISTORIES)
    users, items = model.embed(queries)
    graph = session_graph(queries, 10)
    session_users = model.session_view(model.items.weight, graph, queries.rows)
    units = [functional.normalize(view, dim=1) for view in (users, session_users)]
    generator, last = torch.Generator().manual_seed(0), items[[0, 2, 6]]
    term = contrast(units[0], last, items, proposals(10 * units[1], items, generator))
    term = term + contrast(units[1], last, items, proposals(10 * units[0], items, generator))
    expected = functional.cross_entropy(users @ items.T, TARGETS) + term.mean()
    assert loss_of(model).item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_both_terms_the_loss_is_cross_entropy_and_there_is_no_session_view():
    model = cotrec()
    users, items = model.embed(session_queries(*HISTORIES))
    expected = functional.cross_entropy(users @ items.T, TARGETS)
    assert loss_of(model).item() == pytest.approx(expected.item(), rel=1e-6)
    assert model.session_view is None


@pytest.mark.parametrize("term", ["con", "diff"])
def test_both_views_receive_gradients(term):
    model = cotrec(**{term: 1.0})
    base = loss_of(cotrec())
    (loss_of(model) - base).backward()
    assert all(linear.weight.grad.abs().sum() > 0 for linear in model.session_view.maps)
    assert all(linear.weight.grad.abs().sum() > 0 for linear in model.maps)


def test_states_without_history_do_not_change_the_terms():
    model = cotrec(con=1.0)
    queries = session_queries(*HISTORIES)
    empty = replace(queries, ends=torch.tensor([3, 0, 2]))
    states = model.session_view(model.items.weight, session_graph(empty, 10), empty.rows)
    assert not states[1].any()
    generator, (users, items) = torch.Generator().manual_seed(0), model.embed(empty)
    term = torch.zeros(3)
    for view, other in ((users, states), (states, users)):
        proposed = proposals(other, items, generator)
        unit = functional.normalize(view, dim=1)
        term = term + contrast(unit, items[[0, 0, 6]], items, proposed)
    expected = functional.cross_entropy(users @ items.T, TARGETS) + (term[0] + term[2]) / 3
    assert loss_of(model, training_batch(empty)).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = replace(queries, ends=torch.zeros(3).long())
    assert torch.isfinite(loss_of(model, training_batch(nothing)))


@pytest.mark.parametrize(
    ("settings", "regularises"), [({}, False), ({"con": 0.1}, True), ({"diff": 0.1}, True)]
)
def test_the_loss_regularises_only_with_a_term_between_the_views(settings, regularises):
    assert cotrec(**settings).regularises is regularises
