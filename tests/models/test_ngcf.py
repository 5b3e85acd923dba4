import pytest
import torch
from torch.nn import functional

from graph_log import EDGES, N_ITEMS, N_USERS, ROWS, make_batch, make_queries, ragged
from recoach.data.queries import Seen
from recoach.models.base import TrainingBatch, draw_negatives, frozen_copy
from recoach.models.graph.ngcf import NGCF, NGCFConfig

AUTHORS = {"normalisation": "row", "activations": "two"}
PAPER = {"normalisation": "symmetric", "activations": "one"}


def ngcf(rows=ROWS, n_items=N_ITEMS, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NGCF(NGCFConfig(**{"dim": 4, "layers": 2} | settings), ragged(rows), n_items)


def slope(values):
    return functional.leaky_relu(values, 0.2)


@pytest.mark.parametrize(
    ("settings", "user", "item"),
    # The authors: A^ e = -1 for both. User: 0.2 (3 · -1 + 1) + 0.2 (1 · (2 · -1) + 0.5) = -0.7;
    # item: 0.2 (3 · -1 + 1) + (1 · (-4 · -1) + 0.5) = 4.1.
    # The paper: L e = -4 and 2, both plus the vector itself: -2. User and item:
    # 0.2 (3 · -2 + 1 + 1 · -8 + 0.5) = -2.5. Divided by the norm: -1 or 1.
    [(AUTHORS, -0.7, 4.1), (PAPER, -2.5, -2.5)],
    ids=["authors", "paper"],
)
def test_a_layer_of_one_user_and_one_item_is_the_one_computed_by_hand(settings, user, item):
    model = ngcf([[0]], 1, dim=1, layers=1, **settings).eval()
    with torch.no_grad():
        model.users.weight.fill_(2.0)
        model.items.weight.fill_(-4.0)
        layer = model.layers[0]
        for parameter, value in (
            (layer.sums.weight, 3.0),
            (layer.sums.bias, 1.0),
            (layer.products.weight, 1.0),
            (layer.products.bias, 0.5),
        ):
            parameter.fill_(value)
        sums = model.graph.neighbour_sums(
            model.users.weight, model.items.weight, model.graph.edge_weights()
        )
        assert layer(model.users.weight, sums[0]).item() == pytest.approx(user)
        assert layer(model.items.weight, sums[1]).item() == pytest.approx(item)
        users, items = model.propagate()
    assert torch.allclose(users, torch.tensor([[2.0, -1.0 if user < 0 else 1.0]]))
    assert torch.allclose(items, torch.tensor([[-4.0, -1.0 if item < 0 else 1.0]]))


def test_the_papers_layer_is_the_sum_of_messages_over_the_edges():
    model = ngcf(layers=1, **PAPER).eval()
    layer, users, items = model.layers[0], model.users.weight, model.items.weight
    degrees = [sum(item == each for _, each in EDGES) for item in range(N_ITEMS)]
    for user in range(N_USERS):
        own = sorted(set(ROWS[user]))
        message = layer.sums.weight @ users[user] + layer.sums.bias + layer.products.bias
        for item in own:
            both = layer.sums.weight @ items[item]
            both = both + layer.products.weight @ (items[item] * users[user])
            message = message + both / (len(own) * degrees[item]) ** 0.5
        expected = torch.cat([users[user], functional.normalize(slope(message), dim=0)])
        assert torch.allclose(model.propagate()[0][user], expected, atol=1e-5)


def test_a_layer_reads_the_vectors_of_the_one_before_without_normalisation():
    model = ngcf(layers=2, **AUTHORS).eval()
    weights = model.graph.edge_weights()
    vectors = [model.users.weight, model.items.weight]
    joined = list(vectors)
    for layer in model.layers:
        sums = model.graph.neighbour_sums(*vectors, weights)
        vectors = [
            slope(layer.sums(part)) + slope(layer.products(own * part))
            for own, part in zip(vectors, sums, strict=True)
        ]
        joined = [
            torch.cat([so_far, functional.normalize(part, dim=1)], dim=1)
            for so_far, part in zip(joined, vectors, strict=True)
        ]
    for result, expected in zip(model.propagate(), joined, strict=True):
        assert torch.allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("settings", [AUTHORS, PAPER], ids=["authors", "paper"])
def test_a_node_without_edges_gets_the_terms_of_itself_only(settings):
    model = ngcf(layers=1, **settings).eval()
    layer, user = model.layers[0], model.users.weight[3]
    if settings == AUTHORS:
        expected = slope(layer.sums(user)) + slope(layer.products(user * user))
    else:
        expected = slope(layer.sums(user) + layer.products.bias)
    assert torch.allclose(
        model.propagate()[0][3], torch.cat([user, functional.normalize(expected, dim=0)])
    )


def test_the_loss_is_bpr_of_final_vectors_and_the_penalty_on_them():
    model, batch = ngcf(loss="bpr", dropout=0.0, regularisation=0.5), make_batch()
    user_ids, positives = batch.queries.state_users, batch.targets
    generator = torch.Generator().manual_seed(3)
    negatives = draw_negatives(model.train_pairs, user_ids, N_ITEMS, 1, generator)[:, 0]
    users, items = model.propagate()
    vectors = (users[user_ids], items[positives], items[negatives])
    margin = (vectors[0] * (vectors[1] - vectors[2])).sum(dim=1)
    penalty = sum(part.square().sum() for part in vectors) / (2 * len(user_ids))
    expected = -functional.logsigmoid(margin).mean() + 0.5 * penalty
    loss = model.loss(TrainingBatch(edges=batch), torch.Generator().manual_seed(3))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_cross_entropy_is_that_of_the_softmax_over_all_items():
    model, batch = ngcf(dropout=0.0, regularisation=0.5), make_batch()
    user_ids, positives = batch.queries.state_users, batch.targets
    users, items = model.propagate()
    penalty = users[user_ids].square().sum() + items[positives].square().sum()
    ranking = functional.cross_entropy((users @ items.T)[user_ids], positives)
    expected = ranking + 0.5 * penalty / (2 * len(user_ids))
    loss = model.loss(TrainingBatch(edges=batch), torch.Generator())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_message_dropout_is_active_in_training_only_and_its_result_is_not_cached():
    model = ngcf(dropout=0.5)
    frozen = frozen_copy(model)
    with torch.no_grad():
        drawn, drawn_again = model.train().propagate()[0], model.propagate()[0]
        assert not torch.equal(drawn, drawn_again)
        assert torch.equal(drawn[:, :4], model.users.weight)
        assert (drawn[:, 4:] == 0).any()
        evaluated = model.eval().propagate()[0]
        assert torch.equal(evaluated, model.propagate()[0])
        assert torch.equal(evaluated, frozen.propagate()[0])
        assert torch.equal(evaluated, ngcf(dropout=0.0).propagate()[0])


@pytest.mark.parametrize("settings", [AUTHORS, PAPER], ids=["authors", "paper"])
def test_hidden_edges_change_the_scores_of_both_ends(settings):
    model = ngcf(layers=1, **settings).eval()
    hidden = Seen(torch.tensor([0]), torch.tensor([1]))
    shown, without = (model.embed(make_queries([0, 2], hidden=pairs)) for pairs in (None, hidden))
    assert not torch.allclose(shown.users[0], without.users[0])
    assert torch.allclose(shown.users[1], without.users[1])
    is_same = [torch.allclose(*pair) for pair in zip(shown.items, without.items, strict=True)]
    assert is_same == [True, False, True, True, True, True]


def test_materialized_vectors_have_the_same_scores_and_no_layers():
    model = ngcf(dropout=0.3)
    before = model.eval().score(make_queries([0, 3]))
    model.train().materialize_propagation()
    assert model.training
    assert model.config.layers == 0
    assert model.config.dim == 12
    assert torch.equal(model.eval().score(make_queries([0, 3])), before)
    assert [name for name, _ in model.named_parameters()] == ["users.weight", "items.weight"]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_unknown_user_is_the_mean_of_the_items_in_the_history():
    model = ngcf().eval()
    vectors, items = model.embed(make_queries([-1, 2], history=(1, 4)))
    assert torch.allclose(vectors[0], items[[1, 4]].mean(dim=0))
    assert torch.equal(vectors[1], model.propagate()[0][2])
