import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from graph_log import EDGES, ROWS, dense_matrix, make_batch, make_queries, ragged
from recoach.data.queries import Queries, Seen
from recoach.data.split import leave_last_out
from recoach.models.base import TrainingBatch, draw_negatives
from recoach.models.fold_in import fold_in
from recoach.models.graph.lightgcn import LightGCN, LightGCNConfig
from recoach.models.graph.propagation import Graph
from recoach.models.registry import build_model
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.supervised import SupervisedTrainer
from toy_logs import block_graph, cycle


def lightgcn(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LightGCN(LightGCNConfig(dim=4, **settings), ragged(ROWS), 6)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagation_is_the_mean_of_the_powers_of_the_adjacency(layers):
    model = lightgcn(layers=layers)
    both = torch.cat([model.users.weight, model.items.weight]).double()
    powers = [
        torch.linalg.matrix_power(dense_matrix("symmetric"), power) @ both
        for power in range(layers + 1)
    ]
    expected = torch.stack(powers).mean(dim=0)
    assert torch.allclose(torch.cat(model.propagate()).double(), expected, atol=1e-6)


def test_a_node_without_edges_keeps_its_scaled_embedding():
    model = lightgcn(layers=2)
    users, items = model.propagate()
    assert torch.allclose(users[3], model.users.weight[3] / 3)
    assert torch.allclose(items[5], model.items.weight[5] / 3)


def test_the_gradient_of_the_propagation_equals_that_of_the_dense_product():
    graph, layers = Graph(ragged(ROWS), 6), 3
    users, items = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 6))
    assert torch.autograd.gradcheck(lambda u, i: graph(u, i, layers), (users, items))
    weights = torch.randn(11, 3, dtype=torch.float64)
    matrix = (
        sum(torch.linalg.matrix_power(dense_matrix("symmetric"), power) for power in range(4)) / 4
    )
    loss = (torch.cat(graph(users, items, 3)) * weights).sum()
    gradients = torch.autograd.grad(loss, (users, items))
    assert torch.allclose(torch.cat(gradients), matrix.T @ weights, atol=1e-6)


def test_the_graph_has_no_held_out_edges():
    dataset = leave_last_out(cycle(12, 20, length=7))
    graph = Graph(dataset.train, 20)
    adjacency = graph.neighbour_sums(torch.zeros(12, 20), torch.eye(20), graph.edge_weights())[0]
    assert (adjacency > 0).sum(dim=1).tolist() == [7 - 2] * 12
    held_out = torch.from_numpy(np.stack([dataset.valid.values, dataset.test.values])).long()
    assert adjacency[torch.arange(12), held_out].sum() == 0


def test_hidden_edges_are_left_out_of_the_propagation():
    graph = Graph(ragged(ROWS), 6)
    user = next(u for u, row in enumerate(ROWS) if len(row) > 1)
    item = ROWS[user][-1]
    no_edge = next(i for i in range(6) if i not in ROWS[user])
    hidden = (torch.tensor([user, user]), torch.tensor([item, no_edge]))
    adjacency = {}
    for name, edges in (("all", None), ("hidden", hidden)):
        adjacency[name] = graph(torch.zeros(5, 6), torch.eye(6), 1, edges)[0]
        transposed = graph(torch.eye(5), torch.zeros(6, 5), 1, edges)[1]
        assert torch.equal(transposed, adjacency[name].T)
    expected = adjacency["all"].clone()
    expected[user, item] = 0
    assert adjacency["all"][user, item] > 0
    assert torch.equal(adjacency["hidden"], expected)


def test_hidden_edges_are_left_out_of_the_gradient():
    graph, hidden = Graph(ragged(ROWS), 6), (torch.tensor([0]), torch.tensor([ROWS[0][0]]))
    users, items = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 6))
    assert torch.autograd.gradcheck(lambda u, i: graph(u, i, 2, hidden), (users, items))


def test_a_propagation_with_hidden_edges_is_not_cached():
    model, batch = lightgcn(), make_batch()
    with torch.no_grad():
        before = model.embed(batch.queries)
    pairs = Seen(torch.arange(len(batch.targets)), batch.targets)
    model.embed(replace(batch.queries, hidden=pairs)).users.sum().backward()
    with torch.no_grad():
        model.users.weight.data.add_(1.0)  # as a fused optimizer: the version stays the same
        after = model.embed(batch.queries)
    assert not torch.equal(before.users, after.users)


@pytest.mark.parametrize("penalty", ["norm", "squared"])
def test_the_loss_is_bpr_of_propagated_and_the_penalty_of_unpropagated_vectors(penalty):
    model, batch = lightgcn(loss="bpr", regularisation=0.5, penalty=penalty), make_batch()
    user_ids, positives = batch.queries.state_users, batch.targets
    generator = torch.Generator().manual_seed(3)
    negatives = draw_negatives(model.train_pairs, user_ids, 6, 1, generator)[:, 0]
    users, items = model.propagate()
    margin = (users[user_ids] * (items[positives] - items[negatives])).sum(dim=1)
    item_vectors = model.items.weight
    vectors = [model.users.weight[user_ids], item_vectors[positives], item_vectors[negatives]]
    if penalty == "norm":
        extra = sum(part.square().sum().sqrt() for part in vectors) / len(user_ids)
    else:
        extra = sum(part.square().sum() for part in vectors) / (2 * len(user_ids))
    expected = -functional.logsigmoid(margin).mean() + 0.5 * extra
    loss = model.loss(TrainingBatch(edges=batch), torch.Generator().manual_seed(3))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_cross_entropy_is_that_of_the_softmax_over_all_items():
    model, batch = lightgcn(loss="ce", regularisation=0.5, penalty="squared"), make_batch()
    user_ids, positives = batch.queries.state_users, batch.targets
    assert len(user_ids.unique()) < len(user_ids)  # several interactions share a softmax
    users, items = model.propagate()
    vectors = [model.users.weight[user_ids], model.items.weight[positives]]
    penalty = sum(part.square().sum() for part in vectors) / (2 * len(user_ids))
    expected = functional.cross_entropy((users @ items.T)[user_ids], positives) + 0.5 * penalty
    loss = model.loss(TrainingBatch(edges=batch), torch.Generator())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_negatives_are_not_in_the_training_history():
    model, users = lightgcn(), torch.tensor([0, 1, 2, 4] * 50)
    negatives = draw_negatives(model.train_pairs, users, 6, 3, torch.Generator().manual_seed(0))
    pairs = zip(users.repeat_interleave(3).tolist(), negatives.flatten().tolist(), strict=True)
    assert not EDGES & set(pairs)


def test_a_user_with_all_items_in_the_history_still_gets_negatives():
    train_pairs, user = torch.arange(6), torch.tensor([0])
    negatives = draw_negatives(train_pairs, user, 6, 4, torch.Generator().manual_seed(0))
    assert negatives.shape == (1, 4)
    assert ((negatives >= 0) & (negatives < 6)).all()


def test_the_propagation_is_cached_until_the_next_step():
    dataset = leave_last_out(block_graph(24, 12, n_blocks=2, length=5))
    model = build_model("lightgcn", dataset, dim=4)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=16), dataset)
    with torch.no_grad():
        first, again = model.propagate(), model.propagate()
    assert first[0] is again[0]
    batch = next(trainer.epoch(torch.Generator().manual_seed(0)))
    trainer.step(batch, torch.Generator())
    with torch.no_grad():
        after = model.propagate()[0]
    assert not torch.equal(after, first[0])
    assert torch.equal(after, model.propagate()[0])


def test_a_copy_of_the_model_does_not_use_the_cache_of_the_original():
    model = lightgcn()
    with torch.no_grad():
        model.propagate()
        copied = copy.deepcopy(model)
        for _ in range(12):
            copied.users.weight.add_(0.1)
            cached = copied.propagate()[0]
            with torch.enable_grad():
                assert torch.equal(cached, copied.propagate()[0])


def test_loading_weights_invalidates_the_cache():
    model, other = lightgcn(), lightgcn()
    with torch.no_grad():
        other.users.weight.add_(1)
        model.propagate()
        model.load_state_dict(other.state_dict())
        assert torch.equal(model.propagate()[0], other.propagate()[0])


def test_an_unknown_user_is_the_mean_of_the_items_in_the_history():
    model = lightgcn().eval()
    vectors, items = model.embed(make_queries([-1, 2], history=(1, 4)))
    assert torch.allclose(vectors[0], items[[1, 4]].mean(dim=0))
    assert torch.equal(vectors[1], model.propagate()[0][2])


def unknown_users(history, ends):
    count = len(history)
    return Queries(torch.full((count,), -1), history, ends, torch.arange(count), ends)


def test_an_unknown_user_without_history_is_zero_and_padding_is_ignored():
    users, items = torch.randn(2, 3), torch.randn(4, 3)
    history = torch.tensor([[0, 4], [1, 3], [4, 4]])
    vectors = fold_in(unknown_users(history, torch.tensor([1, 2, 0])), users, items)
    assert torch.allclose(vectors, torch.stack([items[0], items[[1, 3]].mean(0), torch.zeros(3)]))


def test_the_history_of_a_state_stops_at_its_end():
    users, items = torch.randn(2, 3), torch.randn(4, 3)
    history = torch.tensor([[0, 2, 3], [0, 2, 3]])
    vectors = fold_in(unknown_users(history, torch.tensor([1, 2])), users, items)
    assert torch.allclose(vectors, torch.stack([items[0], items[[0, 2]].mean(0)]))


def test_settings_stored_before_there_was_a_choice_keep_their_loss():
    stored = {"dim": 64, "layers": 2, "regularisation": 1e-5, "penalty": "norm"}
    assert LightGCNConfig(**stored).loss == "bpr"
    assert LightGCNConfig(**stored, loss="ce").loss == "ce"
    assert LightGCNConfig(dim=64).loss == "ce"
