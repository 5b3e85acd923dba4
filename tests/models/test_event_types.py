"""Models that read the event types of a history get them wherever they read histories."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.batches import StateBatches
from recoach.data.dataset import merge_valid
from recoach.data.episodes import episodes_of
from recoach.data.queries import histories, single_state_queries, state_queries, user_queries
from recoach.data.split import leave_last_out
from recoach.data.targets import targets_of
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate, top_lists
from recoach.models.registry import build_model
from recoach.policy.rewards import Rewards
from recoach.serving.explanations import compare_models, hold_out
from recoach.serving.onnx import export_onnx
from recoach.serving.recommend import recommend
from recoach.serving.snapshot import ModelSnapshot
from recoach.serving.vectors import export_vectors
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.transitions import TransitionBuilder
from toy_logs import block_graph, make_log, with_event_types

SETTINGS = {
    "sasrec": {"dim": 16, "layers": 1, "inner_dim": 16, "max_length": 5, "dropout": 0.0},
    "gru4rec": {"dim": 16, "hidden_dim": 16, "max_length": 5, "dropout": 0.0},
}
DATASET = leave_last_out(with_event_types(block_graph(20, 20, n_blocks=2, length=9)))
both_models = pytest.mark.parametrize("name", SETTINGS)


def build(name, dataset=DATASET, **settings):
    """Return a model whose types matter as much as its items."""
    model = build_model(name, dataset, **SETTINGS[name] | {"event_embedding": True} | settings)
    if model.events is not None:
        with torch.no_grad():
            model.events.table.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model.eval()


def type_decides(n_users=300, n_items=12, length=8):
    """Return a log whose next item is one further after a view, and two further after a buy."""
    rng = np.random.default_rng(0)
    types = rng.integers(0, 2, (n_users, length))
    steps = np.cumsum(1 + types, axis=1) - types - 1
    items = (rng.integers(n_items, size=(n_users, 1)) + steps) % n_items
    log = make_log(np.repeat(np.arange(n_users), length), items.ravel(), (n_users, n_items))
    return leave_last_out(with_event_types(log, types.ravel()))


@both_models
def test_the_type_of_the_last_event_is_learned_only_with_the_embedding(name):
    dataset = type_decides()
    args = PretrainConfig(
        epochs=12, batch_size=128, learning_rate=0.03, patience=0, eval_steps=10**6
    )
    hits = []
    for event_embedding in (True, False):
        model = build(name, dataset, event_embedding=event_embedding)
        pretrain(model, dataset, args)
        hits.append(evaluate(model, dataset, ks=[1], repeats="all").means()["recall@1"])
    assert hits[0] > 0.95
    assert hits[1] < 0.7


@both_models
def test_training_evaluation_service_and_export_read_the_same_types(name, tmp_path):
    model = build(name)
    past = histories(DATASET, "all", model.reads)
    queries = user_queries(past, np.arange(20), 5, 20, mask_seen=False)
    without = model.score(replace(queries, columns={}))
    scores = model.score(queries)
    assert not torch.allclose(scores, without, atol=1e-3)
    users, items = (pl.read_parquet(path) for path in export_vectors(model, DATASET, tmp_path))
    products = np.stack(users["vector"].to_list()) @ np.stack(items["vector"].to_list()).T
    assert np.allclose(products, scores.detach().numpy(), atol=1e-5)
    top = scores.topk(3, dim=1).values
    ids = DATASET.user_ids.to_list()
    frame = recommend(model, DATASET, ids, k=3, exclude_seen=False)
    assert torch.allclose(torch.tensor(frame["score"].to_list()).view(20, 3), top, atol=1e-5)
    snapshot = ModelSnapshot(DATASET, {"base": model}, DATASET.item_ids.to_list(), "1")
    options = {"k": 3, "exclude_seen": False, "candidates": None}
    served = [snapshot.build_query(user=user, history=None, **options) for user in ids]
    new = snapshot.build_query(user=None, history=["item-0001", "item-0003"], **options)
    lists = snapshot.recommend("base", [*served[:10], new, *served[10:]])
    del lists[10]
    assert torch.allclose(torch.tensor([one.scores for one in lists]), top, atol=1e-5)
    for query in served:
        (side,) = compare_models(snapshot, query).sides
        assert [item.other_rank for item in side.items] == [1, 2, 3]
    held_out, _ = hold_out(snapshot, ids[4], served[4])
    assert len(held_out.columns["event_type"]) == len(held_out.history) == 8


@both_models
def test_the_states_of_training_batches_are_those_of_evaluation(name):
    model = build(name)
    train = DATASET.train.keep_columns(model.reads)
    for rows in ("all_positions", "prefix"):
        loader = StateBatches(train, n_items=20, history_length=9, batch_size=32, rows=rows)
        model.config = model.config.model_copy(update={"max_length": 9})
        for batch in loader.epoch(torch.Generator().manual_seed(0)):
            users = batch.queries.state_users.numpy()
            states = (users, batch.positions - train.offsets[users])
            expected = state_queries(
                train, states, model, user_numbers=np.arange(20), mask_seen=False
            )
            if name == "sasrec":  # positions of a longer history than the model has
                model.encoder.position = torch.nn.Parameter(torch.zeros(9, 16))
            assert torch.allclose(model.score(batch.queries), model.score(expected), atol=1e-5)


@both_models
def test_items_without_a_type_are_read_as_the_most_frequent_one(name):
    types = np.random.default_rng(0).random(180) < 0.8
    mostly_buys = leave_last_out(with_event_types(block_graph(20, 20, n_blocks=2, length=9), types))
    model = build(name, mostly_buys)
    past = histories(mostly_buys, "all", model.reads)
    queries = user_queries(past, np.arange(20), 5, 20, mask_seen=False)
    buys = torch.ones_like(queries.columns["event_type"])
    expected = model.score(replace(queries, columns={"event_type": buys}))
    for codes in ({}, {"event_type": buys + 1}, {"event_type": buys + 5}):
        assert torch.equal(model.score(replace(queries, columns=codes)), expected)


def test_padding_is_no_type_of_the_log():
    train = DATASET.train.keep_columns(["event_type", "timestamp"])
    ranges = (np.arange(2), np.array([0, 5]), np.array([3, 10]))
    queries = single_state_queries(train, ranges, 9, 20)
    assert queries.lengths.tolist() == [3, 5]
    assert queries.columns["event_type"][0, 3:].tolist() == [2, 2]
    assert queries.columns["event_type"][0, :3].max() < 2
    assert queries.columns["timestamp"][0, 3:].tolist() == [0, 0]


@pytest.mark.parametrize("length", [3, 9])
def test_the_next_states_of_transitions_have_the_types_of_their_events(length):
    train = DATASET.train
    loader = StateBatches(
        train.keep_columns(["event_type"]), n_items=20, history_length=length, batch_size=25
    )
    builder = TransitionBuilder(
        DATASET, episodes_of(DATASET), np.ones(len(train.values)), length, mask_seen=False
    )
    for batch in loader.epoch(torch.Generator().manual_seed(0)):
        none = torch.zeros(0, dtype=torch.int64)
        queries = builder.build(batch, Rewards(none, none, none.float())).next_queries
        types = train.columns["event_type"].to_physical().to_numpy()
        for state, position in enumerate(batch.positions.tolist()):
            row, end = int(queries.rows[state]), int(queries.ends[state])
            window = slice(position + 1 - end, position + 1)
            assert queries.history[row, :end].tolist() == train.values[window].tolist()
            assert queries.columns["event_type"][row, :end].tolist() == types[window].tolist()
        is_padding = torch.arange(queries.history.shape[1]) >= queries.lengths[:, None]
        assert (queries.columns["event_type"][is_padding] == 2).all()
        assert (queries.history[is_padding] == 20).all()


def test_types_remain_where_validation_is_merged_into_train():
    merged = merge_valid(DATASET)
    model = build("gru4rec")
    again = build("gru4rec", merged)
    again.load_state_dict(model.state_dict())
    lists = [
        top_lists(one, data, targets_of(data, "test", "all"), 3)
        for one, data in ((model, DATASET), (again, merged))
    ]
    assert (lists[0] == lists[1]).all()


@both_models
def test_a_log_without_event_types_is_refused(name):
    with pytest.raises(ConfigError, match="--column event_type=NAME"):
        build_model(name, leave_last_out(block_graph(20, 20, n_blocks=2)), event_embedding=True)


def test_onnx_has_no_input_for_event_types(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match="reads event_type"):
        export_onnx(build("sasrec"), DATASET, tmp_path)


@both_models
def test_it_is_said_that_histories_of_new_users_have_no_types(name, recwarn):
    new = {"new": DATASET.item_ids[:3].to_list()}
    with pytest.warns(UserWarning, match="reads event_type of histories, and those of new users"):
        recommend(build(name), DATASET, new, k=3)
    recwarn.clear()
    recommend(build(name), DATASET, k=3)
    recommend(build(name, event_embedding=False), DATASET, new, k=3)
    assert not recwarn.list
