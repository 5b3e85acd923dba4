import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from recoach.data.batches import EdgeBatches, StateBatches, histories, user_queries
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import GROUP_NAMES, TrainingBatch
from recoach.models.checkpoint import load_model, save_description, save_tensors
from recoach.models.registry import MODELS, build_model
from recoach.simulation.toy_logs import block_graph, checkerboard, cycle
from recoach.training.supervised import PretrainConfig, pretrain

ENCODER = {"dim": 16, "layers": 1, "heads": 2, "inner_dim": 32, "max_length": 6, "dropout": 0.2}
VARIANTS = {
    "popularity": ("popularity", {}),
    "sasrec": ("sasrec", ENCODER),
    "sasrec-original": ("sasrec", ENCODER | {"architecture": "original", "position": "from_end"}),
    "lightgcn": ("lightgcn", {"dim": 16}),
    "bprmf": ("bprmf", {"dim": 16}),
    "gru4rec": ("gru4rec", {"dim": 16, "hidden_dim": 24, "max_length": 6, "dropout": 0.2}),
    "gru4rec-bpr": ("gru4rec", {"dim": 16, "hidden_dim": 24, "max_length": 6, "loss": "bpr"}),
    "gsau": ("gsau", ENCODER),
    "gsau-fused": ("gsau", ENCODER | {"scorer": "fuse_score", "rec": True}),
    "gsau-graph": ("gsau", ENCODER | {"scorer": "graph"}),
}
N_USERS, N_ITEMS = 30, 20
DATASET = leave_last_out(block_graph(N_USERS, N_ITEMS, n_blocks=2, length=9))
EVERY = pytest.mark.parametrize("variant", sorted(VARIANTS))


def build(variant, dataset=DATASET, **settings):
    name, own = VARIANTS[variant]
    return build_model(name, dataset, **own | settings, seed=2)


def ask(model, users):
    past = histories(DATASET, "test")
    length = model.history_length or 4
    return user_queries(past, np.array(users), length, N_ITEMS, mask_seen=False)


def learned(variant, dataset, **settings):
    """Return the test NDCG@10 after a short training."""
    model = build(variant, dataset)
    args = {
        "epochs": 20,
        "batch_size": 64,
        "learning_rate": 0.02,
        "patience": 0,
        "eval_steps": 10**6,
    }
    pretrain(model, dataset, PretrainConfig(**args | settings))
    return evaluate(model, dataset).means()["ndcg@10"]


def test_every_model_is_tried():
    assert {name for name, _ in VARIANTS.values()} == set(MODELS)


@EVERY
def test_a_score_for_each_item_and_none_for_padding(variant):
    model = build(variant).eval()
    queries = ask(model, [3, 0, 7])
    users, items = model.embed(queries)
    assert model.score(queries).shape == (3, N_ITEMS)
    assert users.shape == (3, items.shape[1])
    assert len(items) == N_ITEMS
    assert torch.equal(model.score(queries), users @ items.T)


@EVERY
def test_users_asked_in_another_order_get_the_same_scores(variant):
    model, order = build(variant).eval(), [5, 29, 0, 13]
    forwards, backwards = model.score(ask(model, order)), model.score(ask(model, order[::-1]))
    assert torch.allclose(forwards, backwards.flip(0), atol=1e-5)


@EVERY
def test_many_at_once_are_answered_like_one_by_one(variant):
    model = build(variant).eval()
    together = model.score(ask(model, list(range(N_USERS))))
    alone = torch.cat([model.score(ask(model, [user])) for user in range(N_USERS)])
    assert torch.allclose(together, alone, atol=1e-5)


@EVERY
def test_evaluation_is_deterministic(variant):
    model = build(variant).eval()
    queries = ask(model, [1, 2])
    assert torch.equal(model.score(queries), model.score(queries))


@EVERY
def test_a_model_survives_a_trip_to_disk(variant, tmp_path):
    model = build(variant).eval()
    save_description(tmp_path, model)
    save_tensors(tmp_path / "best.safetensors", model.state_dict(), {})
    queries = ask(model, [4, 9])
    assert torch.equal(load_model(tmp_path, DATASET).score(queries), model.score(queries))


@EVERY
def test_a_copy_scores_alike_and_apart(variant):
    model = build(variant).eval()
    twin, queries = copy.deepcopy(model), ask(model, [4, 9])
    scores = model.score(queries)
    assert torch.equal(twin.score(queries), scores)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.rand_like(parameter))
    assert torch.equal(model.score(queries), scores)


@EVERY
def test_tables_name_every_parameter_once(variant):
    model = build(variant)
    listed = [id(p) for table in model.tables().values() for p in table]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert set(model.tables()) <= set(GROUP_NAMES)


@EVERY
def test_a_user_never_met_gets_finite_scores(variant):
    model = build(variant).eval()
    queries = ask(model, [1, 2])
    stranger = replace(queries, users=torch.tensor([-1, 2]))
    scores = model.score(stranger)
    assert torch.isfinite(scores).all()
    assert torch.allclose(scores[1], model.score(queries)[1], atol=1e-6)


@EVERY
def test_a_loss_is_a_finite_number_with_a_gradient(variant):
    model, generator = build(variant), torch.Generator().manual_seed(0)
    if not model.needs:
        with pytest.raises(NotImplementedError):
            model.loss(TrainingBatch(), generator)
        return
    states = StateBatches(DATASET.train, n_items=N_ITEMS, history_length=6, batch_size=32)
    edges = EdgeBatches(DATASET.train, batch_size=32)
    made = {"states": states, "edges": edges}
    batch = TrainingBatch(**{kind: next(made[kind].epoch(generator)) for kind in model.needs})
    loss = model.loss(batch, generator)
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(ValueError, match="learns from"):
        model.loss(TrainingBatch(), generator)


@pytest.fixture(scope="module")
def blocks():
    """Make a world where the neighbours know, and popularity does not."""
    dataset = leave_last_out(block_graph())
    return dataset, evaluate(build("popularity", dataset), dataset).means()["ndcg@10"]


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"popularity"}))
def test_every_trained_model_finds_the_blocks_that_popularity_cannot(variant, blocks):
    dataset, popularity = blocks
    assert learned(variant, dataset, epochs=10) > popularity + 0.1


@pytest.mark.parametrize("variant", ["gru4rec", "sasrec", "sasrec-original"])
def test_in_a_chain_the_sequence_beats_the_graph(variant):
    dataset = leave_last_out(cycle())
    sequence, graph = learned(variant, dataset), learned("lightgcn", dataset)
    assert sequence > 0.95
    assert sequence > graph + 0.2


@pytest.mark.parametrize("variant", ["lightgcn", "sasrec"])
def test_on_a_checkerboard_the_held_out_item_comes_first(variant):
    dataset = leave_last_out(checkerboard())
    model = build(variant, dataset)
    args = PretrainConfig(
        epochs=40, batch_size=64, learning_rate=0.02, patience=0, eval_steps=10**6
    )
    pretrain(model, dataset, args)
    assert evaluate(model, dataset, ks=[1]).means()["recall@1"] == 1
