"""With Adagrad a step updates only the rows of the tables that it reads."""

import contextlib
import math

import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.models.popularity_sampler import PopularitySampler
from recoach.models.registry import build_model
from recoach.training import supervised
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.loop import stream
from recoach.training.optimizers import build_optimizer
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer
from recoach.training.trainer import RLTrainer
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
ADAGRAD = {"optim": "adagrad", "learning_rate": 0.1, "batch_size": 16}
SAMPLED = {"dim": 4, "negatives": 3, "loss": "sampled_ce", "item_bias": True, "dropout": 0.0}
TWO_TABLES = SAMPLED | {"constrained_embedding": False, "loss": "bpr_max"}
MODELS = {
    "gru4rec, sampled_ce": ("gru4rec", SAMPLED, {"items.weight", "bias"}),
    "gru4rec, two tables": ("gru4rec", TWO_TABLES, {"items.weight", "bias", "input_items.weight"}),
    "gru4rec, ce": ("gru4rec", {"dim": 4}, set()),  # reads and scores all items by one table
    "bprmf": ("bprmf", {"dim": 4}, {"items.weight", "users.weight"}),
    "fpmc": (
        "fpmc",
        {"dim": 4, "loss": "bpr"},
        {"items.weight", "last_items.weight", "users.weight"},
    ),
}
"""Model, its settings, its tables with sparse gradients."""


class Logs(Callback):
    def __init__(self):
        self.values = []

    def on_step(self, step, logs):
        self.values.append([logs["loss"], logs["grad_norm"]])


def train(name, **settings):
    """Train for five steps, and return the weights, and the losses and norms of the steps."""
    model_name, model_settings, _ = MODELS[name]
    model, logs = build_model(model_name, DATASET, **model_settings, seed=1), Logs()
    config = PretrainConfig(**ADAGRAD | {"max_steps": 5, "select": "last"} | settings)
    pretrain(model, DATASET, config, RunContext(callback=logs))
    return model.state_dict(), torch.tensor(logs.values)


def after_a_step(name="gru4rec, two tables", **settings):
    """Return a model and its optimiser after the first step."""
    model_name, model_settings, _ = MODELS[name]
    model = build_model(model_name, DATASET, **model_settings, seed=1)
    trainer = SupervisedTrainer(model, PretrainConfig(**ADAGRAD | settings), DATASET)
    batch = next(trainer.epoch(stream(0, "batches")))
    trainer.step(batch, stream(0, "draws"))
    return model, trainer.optimiser, batch.states


def sparse(model):
    return {name for name, weight in model.named_parameters() if weight.grad.is_sparse}


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_rows_without_a_gradient_keep_weight_sum_and_velocity_by_hand(momentum):
    table = torch.nn.Parameter(torch.ones(3, 1, dtype=torch.float64))
    settings = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": momentum}
    optimiser = build_optimizer("adagrad", [table], **settings)
    for rows, gradients in (([2, 0, 2], [1.0, 3, 4]), ([0], [-4.0])):
        values = torch.tensor(gradients, dtype=torch.float64)[:, None]
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]), values, (3, 1), check_invariants=False
        )
        optimiser.step()
    first = -0.1 * 3 / math.sqrt(9 + 1e-6)
    second = momentum * first + 0.1 * 4 / math.sqrt(25 + 1e-6)
    last = -0.1 * 5 / math.sqrt(25 + 1e-6)  # 1 + 4, of two look-ups of a row
    assert table.flatten().tolist() == pytest.approx([1 + first + second, 1, 1 + last], rel=1e-12)
    state = optimiser.state[table]
    assert state["sum"].flatten().tolist() == pytest.approx([25 + 1e-6, 1e-6, 25 + 1e-6])
    assert state.keys() == ({"sum", "velocity"} if momentum else {"sum"})
    if momentum:
        assert state["velocity"].flatten().tolist() == pytest.approx([second, 0, last])


@pytest.mark.parametrize("name", MODELS)
def test_sparse_and_dense_gradients_train_the_same_weights(name, monkeypatch):
    settings = {"max_grad_norm": 0.1, "ema_decay": 0.5}
    assert sparse(after_a_step(name)[0]) == MODELS[name][2]
    weights, logs = train(name, **settings)
    monkeypatch.setattr(supervised, "sparse_gradients", lambda *_, **__: contextlib.nullcontext())
    assert not sparse(after_a_step(name)[0])
    expected, expected_logs = train(name, **settings)
    assert (logs[:, 1] > 0.1).any()  # gradients are scaled
    assert torch.allclose(logs, expected_logs, rtol=1e-5)
    for key, weight in weights.items():
        assert torch.allclose(weight, expected[key], atol=1e-6), key


@pytest.mark.parametrize("name", ["gru4rec, sampled_ce", "gru4rec, two tables"])
def test_a_step_leaves_the_items_that_it_does_not_read(name, monkeypatch):
    drawn = torch.tensor([5, 5, 7])
    monkeypatch.setattr(PopularitySampler, "draw", lambda *_: drawn)
    start = build_model(MODELS[name][0], DATASET, **MODELS[name][1], seed=1)
    model, _, batch = after_a_step(name, batch_size=2, momentum=0.4)
    scored = set(batch.targets.tolist()) | {5, 7}
    history, rows, ends = batch.queries.history, batch.queries.rows, batch.queries.ends
    read = {i for row, end in zip(rows, ends, strict=True) for i in history[row, :end].tolist()}
    changed = {
        key: set(torch.nonzero((weight != start.state_dict()[key]).any(dim=1))[:, 0].tolist())
        for key, weight in model.state_dict().items()
        if key.startswith(("items", "input_items", "bias"))
    }
    assert changed.pop("bias") == scored
    if len(changed) == 2:
        assert changed == {"items.weight": scored, "input_items.weight": read}
    else:
        assert changed == {"items.weight": scored | read}
    assert len(scored | read) < DATASET.n_items


@pytest.mark.parametrize(
    "settings", [{"weight_decay": 0.1}, {"optim": "adamw"}, {"optim": "adam"}], ids=str
)
def test_gradients_are_dense_where_all_rows_change(settings):
    model, optimiser, _ = after_a_step(**settings)
    assert not sparse(model)
    if "weight_decay" in settings:  # also in the rows of items that were not read
        sums = optimiser.state[model.items.weight]["sum"][: DATASET.n_items]
        assert (sums > 1e-6).any(dim=1).all()


def test_a_model_is_fine_tuned_by_adam_after_sparse_training():
    model, _, _ = after_a_step()
    assert not any(table.sparse for table in (model.items, model.input_items))
    model.zero_grad(set_to_none=True)
    before = model.input_items.weight.detach().clone()
    args = GRPOConfig(batch_size=12, max_steps=2, sft_coef=0.5)
    RLTrainer(model, None, args, train_dataset=DATASET).train()
    assert not torch.equal(model.input_items.weight, before)
