import contextlib
import math

import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, ModelError
from recoach.experiments.stages import continued_training_config
from recoach.models.checkpoint import load_tensors
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.optimizer_step import learning_rate_factor, update_average
from recoach.training.optimizers import build_optimizer
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
STEP = {"lr_scheduler_type": "step", "lr_step_epochs": 2, "lr_gamma": 0.5}
OPTIMISERS = {
    "adam": {"optim": "adam", "weight_decay": 0.1},
    "adagrad": {"optim": "adagrad", "weight_decay": 0.1},
    "momentum": {"optim": "adagrad", "momentum": 0.4},
}


class Recorder(Callback):
    """Notes the learning rates, and stops the training at a step."""

    def __init__(self, stop_at=0):
        self.rates, self.stop_at = [], stop_at

    def on_step(self, step, logs):
        self.rates.append(logs.get("learning_rate"))
        if step == self.stop_at:
            raise KeyboardInterrupt


def train(folder=None, *, stop_at=0, selected=None, **settings):
    """Train BPR-MF for 12 steps, 3 an epoch, and return the model, the rates and the result."""
    settings = {"batch_size": 64, "epochs": 4, "eval_steps": 2, "patience": 0} | settings
    recorder = Recorder(stop_at)
    context = RunContext(folder=folder, callback=recorder, resume=True, selected=selected)
    model, result = build_model("bprmf", DATASET, dim=4, seed=1), None
    config = PretrainConfig(learning_rate=0.1, **settings)
    with contextlib.suppress(KeyboardInterrupt):
        result = pretrain(model, DATASET, config, context)
    return model, recorder.rates, result


def weights_after(name, gradients, **settings):
    """Return the values of one weight, 1 at first, after steps with these gradients."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    settings = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0} | settings
    optimiser = build_optimizer(name, [weight], **settings)
    values = []
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimiser.step()
        values.append(weight.item())
    return values


def test_adagrad_divides_by_the_root_of_the_sum_of_squares_by_hand():
    first = 1 - 0.1 * 3 / math.sqrt(9 + 1e-6)
    second = first + 0.1 * 4 / math.sqrt(25 + 1e-6)
    third = second + 0.1 * 0.002 / math.sqrt(25 + 4e-6 + 1e-6)
    expected = [first, second, third]
    assert weights_after("adagrad", [3, -4, -0.002]) == pytest.approx(expected, rel=1e-12)
    tiny = 1 - 0.1 * 1e-3 / math.sqrt(2e-6)  # the constant stands under the root
    assert weights_after("adagrad", [1e-3]) == pytest.approx([tiny], rel=1e-12)


def test_momentum_adds_a_part_of_the_last_change_by_hand():
    first = 1 - 0.1 * 3 / math.sqrt(9 + 1e-6)
    second = first + 0.4 * (first - 1) + 0.1 * 4 / math.sqrt(25 + 1e-6)
    third = second + 0.4 * (second - first)
    values = weights_after("adagrad", [3, -4, 0], momentum=0.4)
    assert values == pytest.approx([first, second, third], rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_the_weight_decay_of_adagrad_is_added_to_the_gradient(momentum):
    decayed = weights_after("adagrad", [2.5], weight_decay=0.5, momentum=momentum)
    assert decayed == weights_after("adagrad", [3], momentum=momentum)


def test_adam_adds_the_weight_decay_to_the_gradient_and_adamw_does_not():
    # The first step of Adam is the sign of the gradient times the learning rate.
    assert weights_after("adam", [-0.2], weight_decay=0.5) == pytest.approx([0.9], rel=1e-6)
    assert weights_after("adamw", [-0.2], weight_decay=0.5) == pytest.approx(
        [1 - 0.1 * 0.5 + 0.1], rel=1e-6
    )


def test_the_trainer_has_the_configured_optimiser():
    def groups(**settings):
        model = build_model("bprmf", DATASET, dim=4)
        trainer = SupervisedTrainer(model, PretrainConfig(**settings), DATASET)
        return type(trainer.optimiser).__name__, trainer.optimiser.param_groups[0]

    kinds = {name: groups(**settings) for name, settings in OPTIMISERS.items()}
    kinds["default"] = groups(weight_decay=0.2)
    assert {name: kind for name, (kind, _) in kinds.items()} == {
        "adam": "Adam",
        "adagrad": "Adagrad",
        "momentum": "Adagrad",
        "default": "AdamW",
    }
    assert [group["weight_decay"] for _, group in kinds.values()] == [0.1, 0.1, 0.0, 0.2]
    assert kinds["momentum"][1]["momentum"] == 0.4


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_resumed_training_ends_bit_for_bit_where_the_whole_one_does(optimiser, tmp_path):
    settings = OPTIMISERS[optimiser] | STEP
    _, rates, whole = train(tmp_path / "whole", **settings)
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 6)
    for stop_at in (3, 7, 0):
        _, last_rates, result = train(tmp_path / "part", stop_at=stop_at, **settings)
    assert last_rates == rates[6:]
    assert result[0] == whole[0] == 12
    ours, theirs = (load_tensors(tmp_path / run / "last.safetensors") for run in ("part", "whole"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())


@pytest.mark.parametrize("names", [("adamw", "adagrad"), ("adagrad", "adam")])
def test_a_checkpoint_of_another_optimiser_is_refused(names, tmp_path):
    train(tmp_path, stop_at=3, optim=names[0])
    with pytest.raises(ModelError, match="the state of another optimiser"):
        train(tmp_path, optim=names[1])


def test_training_again_repeats_the_steps_of_the_schedule():
    _, _, result = train(**STEP)
    assert result.total_steps == 6
    selected = result._replace(best_step=8)
    # Batches of half the size, as of a larger log: six steps are one epoch.
    _, rates, again = train(selected=selected, **STEP | {"batch_size": 32})
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 2)
    assert again.total_steps == 6


def test_the_rate_changes_after_the_epochs_also_with_a_warm_up():
    factors = [learning_rate_factor("step", step, 2, 3, 0.1) for step in range(7)]
    assert factors == pytest.approx([0, 0.5, 1, 0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 0.4}, "momentum has no effect with optim 'adamw'; set optim = 'adagrad'"),
        ({"momentum": 0.4, "optim": "adam"}, "momentum has no effect with optim 'adam'"),
        ({"lr_gamma": 0.5}, "lr_gamma has no effect with lr_scheduler_type 'constant'"),
        (
            {"lr_step_epochs": 5, "lr_scheduler_type": "linear"},
            "lr_step_epochs has no effect with lr_scheduler_type 'linear'; set lr_scheduler_type "
            "= 'step', or leave lr_step_epochs out",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(**settings)


@pytest.mark.parametrize(("optimiser", "expected"), [("momentum", "adamw"), ("adam", "adam")])
def test_the_control_is_trained_with_the_learning_rate_of_fine_tuning(optimiser, expected):
    base, args = PretrainConfig(**OPTIMISERS[optimiser], **STEP), GRPOConfig(batch_size=16)
    config = continued_training_config(base, args, 4, 2)
    assert (config.optim, config.momentum, config.lr_scheduler_type) == (expected, 0, "constant")


def test_the_average_of_the_weights_takes_over_buffers_and_leaves_frozen_weights():
    average, model = (torch.nn.BatchNorm1d(1) for _ in range(2))
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.bias.fill_(3.0).requires_grad_(False)
        model.running_mean.fill_(5.0)
    update_average(average, model, 0.75)
    assert average.weight.tolist() == [1.5]  # 0.75 * 1 + 0.25 * 3
    assert average.bias.tolist() == [0.0]
    assert average.running_mean.tolist() == [5.0]


def test_the_average_of_the_weights_is_returned():
    """Decays 1/10, 2/11 and 3/12: weights w1, w2, w3 after three steps at a start of w0."""
    weights = []

    class Weights(Callback):
        def on_step(self, step, logs):
            weights.append(model.items.weight.detach().clone())

    model = build_model("bprmf", DATASET, dim=8)
    average = model.items.weight.detach().clone()
    config = PretrainConfig(max_steps=3, batch_size=16, select="last", ema_decay=0.9)
    pretrain(model, DATASET, config, RunContext(callback=Weights()))
    for decay, weight in zip((1 / 10, 2 / 11, 3 / 12), weights, strict=True):
        average = decay * average + (1 - decay) * weight
    assert not torch.allclose(average, weights[-1])
    assert torch.allclose(model.items.weight, average, atol=1e-7)
