import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recoach.data.batches import EdgeBatches, Queries, Seen
from recoach.data.split import RaggedArray, leave_last_out
from recoach.models.base import TrainingBatch, draw_negatives
from recoach.models.graph.lightgcn import LightGCN, LightGCNConfig
from recoach.models.graph.propagation import Graph, fold_in
from recoach.models.registry import build_model
from recoach.simulation.toy_logs import block_graph, cycle
from recoach.training.supervised import PretrainConfig, SupervisedTrainer

# Five users and six items; user 3 and item 5 have no edge, user 0 took item 1 twice.
ROWS = [[0, 1, 1], [1, 2, 3], [4], [], [0, 4]]
EDGES = {(user, item) for user, row in enumerate(ROWS) for item in row}


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def dense():
    """Return the normalised adjacency, float64[11, 11], of the graph above."""
    matrix = torch.zeros(11, 11, dtype=torch.float64)
    for user, item in EDGES:
        user_degree = sum(u == user for u, _ in EDGES)
        item_degree = sum(i == item for _, i in EDGES)
        matrix[user, 5 + item] = matrix[5 + item, user] = 1 / math.sqrt(user_degree * item_degree)
    return matrix


def lightgcn(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LightGCN(LightGCNConfig(dim=4, **settings), ragged(ROWS), 6)


def a_batch(size=100):
    return next(EdgeBatches(ragged(ROWS), batch_size=size).epoch(torch.Generator().manual_seed(0)))


def ask(users, model=None, read=()):
    count, history = len(users), torch.tensor([list(read)] * len(users), dtype=torch.int64)
    history = history.reshape(count, len(read))
    lengths = torch.full((count,), len(read))
    return Queries(torch.tensor(users), history, lengths, torch.arange(count), lengths)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagation_is_the_mean_of_the_powers_of_the_adjacency(layers):
    model = lightgcn(layers=layers)
    both = torch.cat([model.users.weight, model.items.weight]).double()
    powers = [torch.linalg.matrix_power(dense(), power) @ both for power in range(layers + 1)]
    expected = torch.stack(powers).mean(dim=0)
    assert torch.allclose(torch.cat(model.propagate()).double(), expected, atol=1e-6)


def test_a_node_without_edges_keeps_a_finite_share_of_itself():
    model = lightgcn(layers=2)
    users, items = model.propagate()
    assert torch.allclose(users[3], model.users.weight[3] / 3)
    assert torch.allclose(items[5], model.items.weight[5] / 3)


def test_the_gradient_of_a_propagation_is_that_of_the_dense_product():
    graph, layers = Graph(ragged(ROWS), 6), 3
    users, items = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 6))
    assert torch.autograd.gradcheck(lambda u, i: graph(u, i, layers), (users, items))
    weights = torch.randn(11, 3, dtype=torch.float64)
    matrix = sum(torch.linalg.matrix_power(dense(), power) for power in range(4)) / 4
    found = torch.autograd.grad((torch.cat(graph(users, items, 3)) * weights).sum(), (users, items))
    assert torch.allclose(torch.cat(found), matrix.T @ weights, atol=1e-6)


def test_the_graph_holds_the_training_edges_alone():
    dataset = leave_last_out(cycle(12, 20, length=7))
    half = Graph(dataset.train, 20).users_from_items
    reached = half(torch.eye(20), half.weights)
    assert (reached > 0).sum(dim=1).tolist() == [7 - 2] * 12
    held_out = torch.from_numpy(np.stack([dataset.valid.values, dataset.test.values])).long()
    assert reached[torch.arange(12), held_out].sum() == 0


def test_nothing_passes_along_a_hidden_edge():
    graph = Graph(ragged(ROWS), 6)
    user = next(u for u, row in enumerate(ROWS) if len(row) > 1)
    item = ROWS[user][-1]
    stranger = next(i for i in range(6) if i not in ROWS[user])
    hidden = (torch.tensor([user, user]), torch.tensor([item, stranger]))
    reach = {}
    for name, edges in (("all", None), ("hidden", hidden)):
        reach[name] = graph(torch.zeros(5, 6), torch.eye(6), 1, edges)[0]
        back = graph(torch.eye(5), torch.zeros(6, 5), 1, edges)[1]
        assert torch.equal(back, reach[name].T)
    expected = reach["all"].clone()
    expected[user, item] = 0
    assert reach["all"][user, item] > 0
    assert torch.equal(reach["hidden"], expected)


def test_the_gradient_knows_what_was_hidden():
    graph, hidden = Graph(ragged(ROWS), 6), (torch.tensor([0]), torch.tensor([ROWS[0][0]]))
    users, items = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 6))
    assert torch.autograd.gradcheck(lambda u, i: graph(u, i, 2, hidden), (users, items))


def test_hiding_leaves_nothing_behind():
    model, batch = lightgcn(), a_batch()
    with torch.no_grad():
        before = model.embed(batch.queries)
    pairs = Seen(torch.arange(len(batch.targets)), batch.targets)
    model.embed(replace(batch.queries, hidden=pairs)).users.sum().backward()
    with torch.no_grad():
        model.users.weight.data.add_(1.0)  # as a fused optimiser moves it: no version is raised
        after = model.embed(batch.queries)
    assert not torch.equal(before.users, after.users)


@pytest.mark.parametrize("penalty", ["norm", "squared"])
def test_the_loss_is_bpr_on_propagated_and_the_penalty_on_own_vectors(penalty):
    model, batch = lightgcn(regularisation=0.5, penalty=penalty), a_batch()
    who, taken = batch.queries.state_users, batch.targets
    other = draw_negatives(model.train_pairs, who, 6, 1, torch.Generator().manual_seed(3))[:, 0]
    users, items = model.propagate()
    margin = (users[who] * (items[taken] - items[other])).sum(dim=1)
    rows = [model.users.weight[who], model.items.weight[taken], model.items.weight[other]]
    if penalty == "norm":
        extra = sum(row.square().sum().sqrt() for row in rows) / len(who)
    else:
        extra = sum(row.square().sum() for row in rows) / (2 * len(who))
    expected = -functional.logsigmoid(margin).mean() + 0.5 * extra
    found = model.loss(TrainingBatch(edges=batch), torch.Generator().manual_seed(3))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_negatives_are_never_taken():
    model, users = lightgcn(), torch.tensor([0, 1, 2, 4] * 50)
    other = draw_negatives(model.train_pairs, users, 6, 3, torch.Generator().manual_seed(0))
    pairs = zip(users.repeat_interleave(3).tolist(), other.flatten().tolist(), strict=True)
    assert not EDGES & set(pairs)


def test_one_who_has_taken_everything_still_gets_a_negative():
    known = torch.arange(6)
    drawn = draw_negatives(known, torch.tensor([0]), 6, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 4)
    assert ((drawn >= 0) & (drawn < 6)).all()


def test_what_was_propagated_is_kept_until_the_next_step():
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


def test_a_copy_of_the_model_never_serves_what_the_original_kept():
    model = lightgcn()
    with torch.no_grad():
        model.propagate()
        copied = copy.deepcopy(model)
        for _ in range(12):
            copied.users.weight.add_(0.1)
            kept = copied.propagate()[0]
            with torch.enable_grad():
                assert torch.equal(kept, copied.propagate()[0])


def test_loaded_weights_are_propagated_anew():
    model, other = lightgcn(), lightgcn()
    with torch.no_grad():
        other.users.weight.add_(1)
        model.propagate()
        model.load_state_dict(other.state_dict())
        assert torch.equal(model.propagate()[0], other.propagate()[0])


def test_an_unknown_user_is_the_mean_of_the_items_taken():
    model = lightgcn().eval()
    vectors, items = model.embed(ask([-1, 2], read=(1, 4)))
    assert torch.allclose(vectors[0], items[[1, 4]].mean(dim=0))
    assert torch.equal(vectors[1], model.propagate()[0][2])


def test_an_unknown_user_without_history_is_zero_and_padding_counts_for_nothing():
    known, items = torch.randn(2, 3), torch.randn(4, 3)
    history = torch.tensor([[0, 4], [1, 3], [4, 4]])
    found = fold_in(torch.full((3,), -1), known, items, history, torch.tensor([1, 2, 0]))
    assert torch.allclose(found, torch.stack([items[0], items[[1, 3]].mean(0), torch.zeros(3)]))


def test_a_state_sees_only_the_items_before_its_end():
    known, items = torch.randn(2, 3), torch.randn(4, 3)
    history = torch.tensor([[0, 2, 3], [0, 2, 3]])
    found = fold_in(torch.tensor([-1, -1]), known, items, history, torch.tensor([1, 2]))
    assert torch.allclose(found, torch.stack([items[0], items[[0, 2]].mean(0)]))
