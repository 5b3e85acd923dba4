import copy
from dataclasses import replace

import pytest
import torch
from variants import (
    ATTENTION,
    DATASET,
    N_ITEMS,
    N_USERS,
    REPEATING,
    SAME_FOR_ALL,
    SCORERS,
    VARIANTS,
    build,
    make_queries,
)

from recoach.data.batches import EdgeBatches, StateBatches
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.models.base import GROUP_NAMES, TrainingBatch
from recoach.models.checkpoint import load_model, save_description, save_tensors
from recoach.models.dense_softmax import score_chunks
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import block_graph, checkerboard, cycle, with_event_types

all_variants = pytest.mark.parametrize("variant", sorted(VARIANTS))
registered_variants = pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {ATTENTION}))
dot_product_variants = pytest.mark.parametrize("variant", sorted(set(VARIANTS) - set(SCORERS)))


def ndcg_after_training(variant, dataset, **settings):
    """Return the test NDCG@10 after a short supervised training."""
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


@all_variants
def test_scores_have_a_column_for_each_item_without_padding(variant):
    model = build(variant).eval()
    scores = model.score(make_queries(model, [3, 0, 7]))
    assert scores.shape == (3, N_ITEMS)
    assert torch.isfinite(scores).all()


@all_variants
def test_scores_of_candidates_are_columns_of_the_scores_of_the_catalogue(variant):
    model = build(variant).eval()
    queries = make_queries(model, [3, 0, 7])
    scores = model.score(queries)
    shared = torch.tensor([5, 0, 19, 5])
    assert torch.allclose(model.score(queries, shared), scores[:, shared], atol=1e-5)
    candidates = torch.tensor([[5, 0, 19, 5], [1, 2, 3, 4], [7, 7, 18, 0]])
    expected = scores.gather(1, candidates)
    assert torch.allclose(model.score(queries, candidates), expected, atol=1e-5)
    one_state = make_queries(model, [0])
    result = model.score(one_state, candidates[1:2])
    assert torch.allclose(result, expected[1:2], atol=1e-5)


@all_variants
@pytest.mark.parametrize("scores_at_once", [1, 7, 2**20])
def test_scores_in_chunks_are_the_scores(variant, scores_at_once):
    model = build(variant).eval()
    model.scores_at_once = scores_at_once
    queries = make_queries(model, [3, 0, 7])
    columns, parts = zip(*score_chunks(model, queries), strict=True)
    assert [i for part in columns for i in range(part.start, part.stop)] == list(range(N_ITEMS))
    assert torch.allclose(torch.cat(parts, dim=1), model.score(queries), atol=1e-5)
    items = torch.tensor([5, 0, 19])
    parts = [scores for _, scores in score_chunks(model, queries, items)]
    assert torch.allclose(torch.cat(parts, dim=1), model.score(queries, items), atol=1e-5)


@all_variants
def test_scores_have_gradients_for_the_trained_weights(variant):
    model = build(variant)
    scores = model.score(make_queries(model, [3, 0, 7]))
    assert scores.requires_grad == any(p.requires_grad for p in model.parameters())


@all_variants
def test_an_empty_history_and_no_states_have_finite_scores(variant):
    model = build(variant).eval()
    queries = make_queries(model, [1, 2])
    empty = replace(queries, ends=torch.zeros(2).long(), lengths=torch.zeros(2).long())
    assert torch.isfinite(model.score(empty)).all()
    nothing = queries.select(slice(0, 0))
    assert model.score(nothing).shape == (0, N_ITEMS)


@dot_product_variants
def test_scores_are_products_of_the_vectors_for_all_items_without_padding(variant):
    model = build(variant).eval()
    queries = make_queries(model, [3, 0, 7])
    users, items = model.embed(queries)
    assert model.score(queries).shape == (3, N_ITEMS)
    assert users.shape == (3, items.shape[1])
    assert len(items) == N_ITEMS
    assert torch.equal(model.score(queries), users @ items.T)


@all_variants
def test_scores_do_not_depend_on_the_order_of_users(variant):
    model, users = build(variant).eval(), [5, 29, 0, 13]
    scores = model.score(make_queries(model, users))
    reversed_scores = model.score(make_queries(model, users[::-1]))
    assert torch.allclose(scores, reversed_scores.flip(0), atol=1e-5)


@all_variants
def test_scores_do_not_depend_on_the_batch_size(variant):
    model = build(variant).eval()
    batched = model.score(make_queries(model, list(range(N_USERS))))
    single = torch.cat([model.score(make_queries(model, [user])) for user in range(N_USERS)])
    assert torch.allclose(batched, single, atol=1e-5)


@all_variants
def test_scores_in_evaluation_mode_are_deterministic(variant):
    model = build(variant).eval()
    queries = make_queries(model, [1, 2])
    assert torch.equal(model.score(queries), model.score(queries))


@registered_variants
def test_a_saved_and_loaded_model_has_the_same_scores(variant, tmp_path):
    model = build(variant).eval()
    save_description(tmp_path, model)
    save_tensors(tmp_path / "best.safetensors", model.state_dict(), {})
    queries = make_queries(model, [4, 9])
    assert torch.equal(load_model(tmp_path, DATASET).score(queries), model.score(queries))


@all_variants
def test_a_copy_has_the_same_scores_and_its_own_weights(variant):
    model = build(variant).eval()
    copied, queries = copy.deepcopy(model), make_queries(model, [4, 9])
    scores = model.score(queries)
    assert torch.equal(copied.score(queries), scores)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(torch.rand_like(parameter))
    assert torch.equal(model.score(queries), scores)


@all_variants
def test_tables_name_every_parameter_once(variant):
    model = build(variant)
    listed = [id(p) for table in model.parameter_groups().values() for p in table]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert set(model.parameter_groups()) <= set(GROUP_NAMES)


@all_variants
def test_an_unknown_user_gets_finite_scores(variant):
    model = build(variant).eval()
    queries = make_queries(model, [1, 2])
    scores = model.score(replace(queries, users=torch.tensor([-1, 2])))
    assert torch.isfinite(scores).all()
    assert torch.allclose(scores[1], model.score(queries)[1], atol=1e-6)


@all_variants
def test_the_loss_is_a_finite_scalar_with_finite_gradients(variant):
    model, generator = build(variant), torch.Generator().manual_seed(0)
    if not model.needs:
        with pytest.raises(NotImplementedError):
            model.loss(TrainingBatch(), generator)
        return
    train = DATASET.train.keep_columns(model.reads)
    states = StateBatches(train, n_items=N_ITEMS, history_length=6, batch_size=32)
    edges = EdgeBatches(DATASET.train, batch_size=32)
    loaders = {"states": states, "edges": edges}
    batch = TrainingBatch(**{kind: next(loaders[kind].epoch(generator)) for kind in model.needs})
    loss = model.loss(batch, generator)
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(ValueError, match="learns from"):
        model.loss(TrainingBatch(), generator)


@all_variants
def test_weights_of_states_multiply_their_losses_or_are_refused(variant):
    model = build(variant).eval()
    if not model.takes_weights:
        args = PretrainConfig(epochs=1, event_weights={"view": 1, "buy": 3})
        with pytest.raises(ConfigError, match="does not weight next items"):
            pretrain(model, DATASET, args)
        return
    train = DATASET.train.keep_columns(model.reads)
    states = StateBatches(train, n_items=N_ITEMS, history_length=6, batch_size=32)
    batch = next(states.epoch(torch.Generator().manual_seed(0)))
    weights = 2 * (torch.arange(len(batch.targets)) % 3 == 0).float()
    losses, gradients = [], []
    for weighted in (None, weights, 2 - weights):
        part = TrainingBatch(states=batch._replace(weights=weighted))
        losses.append(model.loss(part, torch.Generator().manual_seed(0)))
        slopes = torch.autograd.grad(losses[-1], list(model.parameters()))
        gradients.append(torch.cat([slope.flatten() for slope in slopes]))
    for plain, one, other in (losses, gradients):
        assert torch.allclose((one + other) / 2, plain, atol=1e-5)
        assert not torch.allclose(one, plain, atol=1e-5)


@pytest.fixture(scope="module")
def blocks():
    """Return a log that similar users predict and popularity does not, and popularity's NDCG."""
    dataset = leave_last_out(with_event_types(block_graph()))
    return dataset, evaluate(build("popularity", dataset), dataset).means()["ndcg@10"]


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {*SAME_FOR_ALL, *REPEATING}))
def test_every_trained_model_beats_popularity_on_blocks_of_similar_users(variant, blocks):
    dataset, popularity_ndcg = blocks
    assert ndcg_after_training(variant, dataset, epochs=10) > popularity_ndcg + 0.1


@pytest.mark.parametrize("variant", ["fpmc", "gru4rec", "sasrec", "sasrec-original"])
def test_sequence_models_beat_lightgcn_where_the_last_item_decides(variant):
    dataset = leave_last_out(cycle())
    ndcg = ndcg_after_training(variant, dataset)
    assert ndcg > 0.95
    assert ndcg > ndcg_after_training("lightgcn", dataset) + 0.2


@pytest.mark.parametrize("variant", ["lightgcn", "sasrec"])
def test_a_checkerboard_log_is_learned_perfectly(variant):
    dataset = leave_last_out(checkerboard())
    model = build(variant, dataset)
    args = PretrainConfig(
        epochs=40, batch_size=64, learning_rate=0.02, patience=0, eval_steps=10**6
    )
    pretrain(model, dataset, args)
    assert evaluate(model, dataset, ks=[1]).means()["recall@1"] == 1
