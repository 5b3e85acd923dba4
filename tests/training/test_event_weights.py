"""Supervised training weights next items by their event types."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from recoach.config import StrictConfig
from recoach.data.batches import StateBatches
from recoach.data.episodes import event_rewards
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.experiments.config import resolve
from recoach.experiments.data import check_trainable
from recoach.models.base import DotProductRecommender, Embeddings
from recoach.models.losses import cross_entropy
from recoach.models.registry import build_model
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer
from toy_logs import block_graph, make_log, with_event_types

DATASET = leave_last_out(with_event_types(block_graph(20, 20, n_blocks=2, length=9)))
WEIGHTS = {"view": 1.0, "buy": 3.5}


class TableConfig(StrictConfig):
    pass


class Table(DotProductRecommender):
    """A logit for each pair of the last item and the next one."""

    config: TableConfig
    needs = ("states",)
    takes_weights = True
    history_length = 1

    def __init__(self, config, train, n_items):
        super().__init__(config, train, n_items)
        self.logits = nn.Parameter(torch.zeros(n_items, n_items))

    def embed(self, queries):
        return Embeddings(self.logits[queries.history[queries.rows, 0]], torch.eye(self.n_items))

    def loss(self, batch, generator):
        queries, _, targets, weights = batch.states
        return cross_entropy(*self.embed(queries), targets, weights=weights)

    def parameter_groups(self):
        return {"encoder": [self.logits]}


def chain(counts):
    """Return a log of users who take item 0, then item i + 1 by a view or a buy, then 2 more."""
    rows = [
        (item, code)
        for item, both in enumerate(counts)
        for code in (0, 1)
        for _ in range(both[code])
    ]
    items = np.array([(0, 1 + item, 4, 5) for item, _ in rows])
    types = np.array([(0, code, 0, 0) for _, code in rows])
    log = make_log(np.repeat(np.arange(len(items)), 4), items.ravel(), (len(items), 6))
    return leave_last_out(with_event_types(log, types.ravel()))


def test_the_fixed_point_is_the_weighted_share_of_the_types():
    counts = np.array([(6, 1), (3, 3), (2, 0)])
    dataset = chain(counts)
    model = build_model(Table, dataset)
    args = PretrainConfig(
        epochs=300,
        batch_size=1000,
        learning_rate=0.3,
        patience=0,
        eval_steps=10**6,
        select="last",
        event_weights=WEIGHTS,
        lr_scheduler_type="linear",
    )
    pretrain(model, dataset, args)
    expected = counts @ [1, 3.5]
    p = model.logits[0].softmax(dim=0)[1:4]
    assert torch.allclose(p, torch.tensor(expected / expected.sum()).float(), atol=1e-3)


@pytest.mark.parametrize("rows", ["all_positions", "prefix"])
def test_weights_have_mean_1_in_a_batch_and_weight_0_leaves_out(rows):
    train = DATASET.train
    weights = event_rewards(train, {"view": 0, "buy": 2}, "test")
    weights[::7] *= 3
    loader = StateBatches(
        train, n_items=20, history_length=4, batch_size=16, rows=rows, weights=weights
    )
    positions = []
    for batch in loader.epoch(torch.Generator().manual_seed(0)):
        assert batch.weights.mean() == pytest.approx(1, abs=1e-6)
        ratio = batch.weights.numpy() / weights[batch.positions]
        assert np.allclose(ratio, ratio[0])
        positions += batch.positions.tolist()
    is_first = np.isin(np.arange(len(weights)), train.offsets)
    assert sorted(positions) == np.flatnonzero((weights > 0) & ~is_first).tolist()


def test_equal_weights_train_the_same_model():
    def weights_after(**settings):
        model = build_model("gru4rec", DATASET, dim=8, hidden_dim=8, dropout=0.0)
        pretrain(model, DATASET, PretrainConfig(epochs=2, batch_size=32, **settings))
        return model.items.weight

    assert torch.equal(weights_after(), weights_after(event_weights={"view": 2, "buy": 2}))
    assert not torch.equal(weights_after(), weights_after(event_weights=WEIGHTS))


def test_the_gradient_is_that_of_the_written_out_loss():
    model = build_model("sasrec", DATASET, dim=8, dropout=0.0, inner_dim=8)
    args = PretrainConfig(batch_size=1000, event_weights=WEIGHTS)
    batch = next(SupervisedTrainer(model, args, DATASET).epoch(torch.Generator()))
    loss = model.loss(batch, torch.Generator())
    states = batch.states
    types = event_rewards(DATASET.train, WEIGHTS, "test")[states.positions]
    losses = functional.cross_entropy(model.score(states.queries), states.targets, reduction="none")
    expected = (losses * torch.tensor(types)).sum() / types.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weight = model.items.weight
    slopes = [torch.autograd.grad(value, weight)[0] for value in (loss, expected)]
    assert torch.allclose(slopes[0], slopes[1].float(), atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"view": 1}, "'buy' is missing"),
        ({"view": 1, "buy": 1, "cart": 1}, "no event type is called 'cart'"),
    ],
)
def test_every_type_needs_a_weight(weights, words):
    model = build_model("sasrec", DATASET, dim=8)
    with pytest.raises(ConfigError, match=f"pretrain.event_weights: {words}"):
        pretrain(model, DATASET, PretrainConfig(event_weights=weights))


def test_weights_need_types_a_positive_one_and_a_next_item_to_learn():
    with pytest.raises(ConfigError, match="0 for every event type"):
        PretrainConfig(event_weights={"view": 0, "buy": 0})
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="buy"):
            PretrainConfig(event_weights={"view": 0, "buy": wrong})
    bare = leave_last_out(block_graph(20, 20, n_blocks=2))
    with pytest.raises(ConfigError, match="--column event_type=NAME"):
        pretrain(build_model("sasrec", bare), bare, PretrainConfig(event_weights=WEIGHTS))
    views = chain([(2, 0), (2, 0)])
    args = PretrainConfig(event_weights={"view": 0, "buy": 1})
    with pytest.raises(ConfigError, match="nothing would be learned"):
        pretrain(build_model("sasrec", views), views, args)


def test_a_run_refuses_settings_that_do_not_fit_before_it_trains():
    bare = leave_last_out(block_graph(20, 20, n_blocks=2))
    weights = {"pretrain": {"event_weights": WEIGHTS}}
    for raw, dataset, words in (
        (weights, bare, "map their column"),
        (weights | {"model": {"name": "lightgcn"}}, DATASET, "does not weight next items"),
        (weights | {"model": {"name": "popularity"}}, DATASET, "does not weight next items"),
        ({"model": {"event_embedding": True}}, bare, "map their column"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_trainable(resolve(raw, "test"), dataset)
    check_trainable(resolve(weights | {"model": {"event_embedding": True}}, "test"), DATASET)


EVENTS = {"reward_funcs": ["events"]}
LOGGED = {"algorithm": "top_k_off_policy", "horizon": 1, "reward_funcs": ["next"]}


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        (EVENTS | {"event_weights": {"view": 1}}, "finetune.event_weights: 'buy' is missing"),
        (
            {"reward_funcs": ["return"], "event_weights": {"view": 1, "buy": 1, "cart": 1}},
            "finetune.event_weights: no event type is called 'cart'",
        ),
        (LOGGED | {"behaviour": "logged"}, "data.columns.propensity=NAME"),
        ({"reward_funcs": ["value"]}, "reward 'value' needs the column `value`"),
        ({"preset": "lares"}, "model.dropout"),
        (
            EVENTS | {"event_weights": {"view": 1, "buy": -1}, "loss_type": "grpo"},
            "finetune.event_weights: the weight of 'buy' is below 0, and whitening = 'item'",
        ),
        (
            LOGGED | {"reward_funcs": ["return"], "event_weights": {"view": -0.5, "buy": 1}},
            "the weight of 'view' is below 0",
        ),
    ],
)
def test_a_run_checks_what_fine_tuning_needs_before_it_trains_the_base(finetune, words):
    raw = {"finetune": finetune, "model": {"dropout": 0.0}}
    with pytest.raises(ConfigError, match=words):
        check_trainable(resolve(raw, "test"), DATASET)
    check_trainable(resolve({"finetune": finetune | {"enabled": False}}, "test"), DATASET)


def test_a_run_refuses_an_algorithm_for_a_model_without_weights():
    for name in ("popularity", "ease"):
        raw = {"finetune": {"algorithm": "sqn"}, "model": {"name": name}}
        with pytest.raises(ConfigError, match=f"'sqn': {name} has no weights .* enabled = false"):
            check_trainable(resolve(raw, "test"), DATASET)
        check_trainable(resolve({"model": {"name": name}}, "test"), DATASET)
