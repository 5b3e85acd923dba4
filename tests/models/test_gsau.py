import pytest
import torch
from torch.nn import functional

from recoach.data.batches import EdgeBatches, StateBatches
from recoach.data.queries import histories, user_queries
from recoach.data.split import leave_last_out
from recoach.models.base import TrainingBatch
from recoach.models.losses import alignment, cross_entropy, cross_uniformity, uniformity
from recoach.models.registry import build_model
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle

N_ITEMS = 12
DATASET = leave_last_out(cycle(16, N_ITEMS, length=7))
SMALL = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6, "dropout": 0.0}


def gsau(**settings):
    return build_model("gsau", DATASET, **SMALL | settings)


def all_queries():
    past = histories(DATASET, "valid")
    return user_queries(past, torch.arange(16).numpy(), 6, N_ITEMS, mask_seen=False)


def make_batch(size=24):
    generator = torch.Generator().manual_seed(0)
    states = StateBatches(DATASET.train, n_items=N_ITEMS, history_length=6, batch_size=size)
    edges = EdgeBatches(DATASET.train, batch_size=size)
    return TrainingBatch(next(states.epoch(generator)), next(edges.epoch(generator)))


def embed_both():
    """Return the embeddings of the graph scorer and of the sequence scorer."""
    graph, sequence = (gsau(scorer=name).embed(all_queries()) for name in ("graph", "seq"))
    return graph, sequence


def test_the_sequence_scorer_reads_the_history_and_the_graph_scorer_does_not():
    queries, changed = all_queries(), all_queries()
    changed.history[:] = changed.history.flip(1)
    assert torch.equal(gsau(scorer="graph").score(changed), gsau(scorer="graph").score(queries))
    assert not torch.allclose(gsau().score(changed), gsau().score(queries))


@pytest.mark.parametrize("normalise", [False, True])
def test_fuse_emb_scores_with_weighted_sums_of_vectors(normalise):
    graph, sequence = embed_both()
    if normalise:
        graph, sequence = (
            tuple(functional.normalize(x, dim=1) for x in view) for view in (graph, sequence)
        )
    users = 0.3 * graph[0] + 0.7 * sequence[0]
    items = 0.3 * graph[1] + 0.7 * sequence[1]
    model = gsau(scorer="fuse_emb", fusion_weight=0.3, normalise_views=normalise)
    assert torch.allclose(model.score(all_queries()), users @ items.T, atol=1e-6)


@pytest.mark.parametrize("normalise", [False, True])
def test_fuse_score_is_the_weighted_sum_of_both_scores(normalise):
    graph, sequence = embed_both()
    if normalise:
        graph, sequence = (
            tuple(functional.normalize(x, dim=1) for x in view) for view in (graph, sequence)
        )
    expected = 0.3 * graph[0] @ graph[1].T + 0.7 * sequence[0] @ sequence[1].T
    model = gsau(scorer="fuse_score", fusion_weight=0.3, normalise_views=normalise)
    assert torch.allclose(model.score(all_queries()), expected, atol=1e-6)


@pytest.mark.parametrize("rec", [False, True])
@pytest.mark.parametrize("user_item", [False, True])
@pytest.mark.parametrize("cross_view", [0.0, 0.5])
def test_the_loss_is_alignment_and_uniformity_of_both_encoders(rec, user_item, cross_view):
    model = gsau(gamma=0.3, rec=rec, user_item_uniformity=user_item, cross_view=cross_view)
    batch = make_batch()
    graph_users, graph_items = model.graph(model.users.weight, model.items.weight[:N_ITEMS], 1)
    users, items = graph_users[batch.edges.queries.state_users], graph_items[batch.edges.targets]
    expected = alignment(users, items) + 0.3 * (uniformity(users) + uniformity(items))
    states, table = model.embed(batch.states.queries)
    target_ids = batch.states.targets
    targets = table[target_ids]
    unit = functional.normalize(states, dim=1)
    expected += cross_entropy(unit, table, target_ids) if rec else alignment(states, targets)
    expected += 0.3 * (uniformity(states) + uniformity(targets))
    if user_item:
        shift = torch.randint(1, len(states), (1,), generator=torch.Generator().manual_seed(4))
        expected += 0.3 * cross_uniformity(states, targets, int(shift))
    state_users = graph_users[batch.states.queries.state_users]
    for left, right in ((states, state_users), (targets, graph_items[target_ids])):
        both = uniformity(left) + uniformity(right)
        expected += cross_view * (alignment(left, right) + 0.3 * both)
    loss = model.loss(batch, torch.Generator().manual_seed(4))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_of_one_state_and_one_edge_has_a_finite_loss_and_gradient():
    states = StateBatches(
        DATASET.train, n_items=N_ITEMS, history_length=6, batch_size=1, rows="prefix"
    )
    generator = torch.Generator().manual_seed(0)
    edge = next(EdgeBatches(DATASET.train, batch_size=1).epoch(generator))
    model = gsau()
    loss = model.loss(TrainingBatch(next(states.epoch(generator)), edge), generator)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("scorer", "has_gradient"),
    [("seq", False), ("graph", True), ("fuse_emb", True), ("fuse_score", True)],
)
def test_the_user_embedding_has_a_gradient_only_if_the_scorer_uses_the_graph(scorer, has_gradient):
    model = gsau(scorer=scorer)
    scores = model.score(all_queries())
    scores.log_softmax(dim=1)[:, 0].sum().backward()
    gradient = model.users.weight.grad
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) is has_gradient


@pytest.mark.parametrize("architecture", ["recbole", "ligr", "hstu"])
def test_the_padding_embedding_stays_zero_in_training(architecture):
    model = gsau(architecture=architecture)
    pretrain(model, DATASET, PretrainConfig(max_steps=3, batch_size=16))
    assert model.items.weight[N_ITEMS].tolist() == [0] * 8


@pytest.mark.parametrize("hide", [False, True])
def test_the_propagation_is_cached_until_the_next_step(hide, monkeypatch):
    model = gsau(scorer="fuse_emb")
    calls = []
    forward = model.graph.forward
    monkeypatch.setattr(model.graph, "forward", lambda *a: calls.append(1) or forward(*a))
    with torch.no_grad():
        first, again = model._propagate(), model._propagate()
    assert len(calls) == 1
    assert first[0] is again[0]
    hidden = (torch.tensor([0]), torch.tensor([0])) if hide else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model._propagate(hidden)[0].sum().backward()
    optimiser.step()
    with torch.no_grad():
        assert not torch.equal(model._propagate()[0], first[0])
