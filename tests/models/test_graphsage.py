import math

import pytest
import torch
from torch.nn import functional

from graph_log import EDGES, N_ITEMS, ROWS, make_batch, make_queries, ragged
from recoach.data.queries import Seen
from recoach.models.base import TrainingBatch, draw_negatives, frozen_copy
from recoach.models.graph.graphsage import GraphSAGE, GraphSAGEConfig


def graphsage(rows=ROWS, n_items=N_ITEMS, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GraphSAGE(GraphSAGEConfig(**{"dim": 4} | settings), ragged(rows), n_items)


@torch.no_grad()
def test_two_layers_of_one_user_and_two_items_are_those_computed_by_hand():
    # Vectors: user 1, items 2 and -6, whose mean is -2. The first layer has weights 1 and -1:
    #   user [1, 2], items [2, -1] and [-6, -1], by ReLU [1, 2], [2, 0] and [0, 0].
    # The second has [1 1] for the node itself and [2 1] for the mean of its neighbours:
    #   user [1 + 2, 2 · 1 + 0] = [3, 2], items [2, 2 + 2] = [2, 4] and [0, 4], without ReLU.
    model = graphsage([[0, 1]], 2, dim=1, scale=5.0).eval()
    model.users.weight.copy_(torch.tensor([[1.0]]))
    model.items.weight.copy_(torch.tensor([[2.0], [-6.0]]))
    for (layer,), own, neighbours in zip(
        model.layers, ([1.0], [1.0, 1.0]), ([-1.0], [2.0, 1.0]), strict=True
    ):
        layer.own.weight.copy_(torch.tensor([own]))
        layer.neighbours.weight.copy_(torch.tensor([neighbours]))
    users, items = model.embed(make_queries([0]))
    assert torch.allclose(users, 5 * torch.tensor([[3.0, 2.0]]) / math.sqrt(13))
    expected = torch.tensor([[2 / math.sqrt(20), 4 / math.sqrt(20)], [0.0, 1.0]])
    assert torch.allclose(items, expected)
    # Without ReLU after the last layer a negative entry stays.
    model.layers[1][0].own.weight.neg_()
    assert model.propagate()[0][0, 0] < 0


def test_states_have_the_length_of_the_scale_and_items_have_length_one():
    model = graphsage(scale=7.0).eval()
    users, items = model.embed(make_queries([0, 1, -1], history=(1, 4)))
    assert torch.allclose(users.norm(dim=1), torch.tensor(7.0))
    assert torch.allclose(items.norm(dim=1), torch.tensor(1.0))
    mean = items[[1, 4]].mean(dim=0)
    assert torch.allclose(users[2], 7 * mean / mean.norm())
    empty = model.embed(make_queries([-1])).users
    assert torch.equal(empty, torch.zeros(1, 8))


def test_a_node_without_edges_has_a_vector_of_itself_only():
    model = graphsage(layers=1).eval()
    own = model.layers[0][0].own(model.users.weight[3])
    expected = torch.cat([functional.normalize(own, dim=0), torch.zeros(4)])
    assert torch.allclose(model.propagate()[0][3], expected)


def test_the_neighbours_are_averaged():
    model = graphsage(layers=1).eval()
    layer, items = model.layers[0][0], model.items.weight
    mean = items[[1, 2, 3]].mean(dim=0)
    joined = torch.cat([layer.own(model.users.weight[1]), layer.neighbours(mean)])
    assert torch.allclose(model.propagate()[0][1], functional.normalize(joined, dim=0), atol=1e-6)


def test_users_and_items_share_their_weights_or_have_their_own():
    shared, separate = graphsage(), graphsage(share_weights=False)
    count = [sum(p.numel() for p in model.layers.parameters()) for model in (shared, separate)]
    assert count == [2 * 4 * 4 + 2 * 8 * 4, 2 * (2 * 4 * 4 + 2 * 8 * 4)]
    before = [table.clone() for table in separate.eval().propagate()]
    with torch.no_grad():
        separate.layers[-1][1].own.weight.add_(1.0)
    after = separate.propagate()
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("loss", ["bpr", "ce"])
def test_the_loss_is_that_of_the_scaled_cosines(loss):
    model, batch = graphsage(loss=loss), make_batch()
    user_ids, positives = batch.queries.state_users, batch.targets
    users, items = model.propagate()
    scores = model.config.scale * users @ items.T
    if loss == "ce":
        expected = functional.cross_entropy(scores[user_ids], positives)
    else:
        generator = torch.Generator().manual_seed(3)
        negatives = draw_negatives(model.train_pairs, user_ids, N_ITEMS, 1, generator)[:, 0]
        margin = scores[user_ids, positives] - scores[user_ids, negatives]
        expected = -functional.logsigmoid(margin).mean()
    result = model.loss(TrainingBatch(edges=batch), torch.Generator().manual_seed(3))
    assert result.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(result, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_dropout_is_active_in_training_only_and_its_result_is_not_cached():
    model = graphsage(dropout=0.5)
    frozen = frozen_copy(model)
    with torch.no_grad():
        assert not torch.equal(model.train().propagate()[0], model.propagate()[0])
        evaluated = model.eval().propagate()[0]
        assert torch.equal(evaluated, frozen.propagate()[0])
        assert torch.equal(evaluated, graphsage().propagate()[0])


def test_hidden_edges_change_the_vectors_of_both_ends():
    model = graphsage(layers=1).eval()
    hidden = Seen(torch.tensor([0]), torch.tensor([1]))
    assert (0, 1) in EDGES
    shown, without = (model.embed(make_queries([0, 2], hidden=pairs)) for pairs in (None, hidden))
    assert not torch.allclose(shown.users[0], without.users[0])
    assert torch.allclose(shown.users[1], without.users[1])
    is_same = [torch.allclose(*pair) for pair in zip(shown.items, without.items, strict=True)]
    assert is_same == [True, False, True, True, True, True]


def test_materialized_vectors_have_the_same_scores_and_no_layers():
    model = graphsage(dropout=0.3)
    before = model.eval().score(make_queries([0, 3]))
    model.train().materialize_propagation()
    assert model.training
    assert (model.config.layers, model.config.dim) == (0, 8)
    assert torch.allclose(model.eval().score(make_queries([0, 3])), before, atol=1e-5)
    assert [name for name, _ in model.named_parameters()] == ["users.weight", "items.weight"]
