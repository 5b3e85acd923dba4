"""Names of earlier versions that are documented for users keep working, with a warning."""

import importlib

import pytest
import torch

import recoach
from recoach.data.split import leave_last_out
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.policy import reward_funcs
from recoach.training import callbacks, config
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback, CallbackList, TrainResult
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from toy_logs import cycle

DATASET = leave_last_out(cycle(24, 12, length=7))


def build():
    return build_model("sasrec", DATASET, dim=8, layers=1, heads=2, max_length=6)


@pytest.mark.parametrize(
    ("module", "former", "present"),
    [
        (callbacks, "Observer", Callback),
        (callbacks, "Observers", CallbackList),
        (callbacks, "Outcome", TrainResult),
        (reward_funcs, "of_log", reward_funcs.log_reward),
        (reward_funcs, "of_items", reward_funcs.item_reward),
        (config, "GRPOConfig", GRPOConfig),
        (recoach, "Session", RunContext),
    ],
)
def test_a_former_name_is_the_present_one(module, former, present):
    with pytest.warns(DeprecationWarning, match=former):
        assert getattr(module, former) is present


def test_the_former_module_of_the_callbacks_can_be_imported():
    observers = importlib.import_module("recoach.training.observers")
    with pytest.warns(DeprecationWarning, match="Observer is now"):
        assert observers.Observer is Callback


@pytest.mark.parametrize("module", [callbacks, reward_funcs, config])
def test_an_unknown_name_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        module.nothing_of_the_kind  # noqa: B018


class Steps(Callback):
    def __init__(self):
        self.steps = 0

    def on_step(self, step, logs):
        self.steps += 1


def test_observer_is_the_former_name_of_callback():
    steps = Steps()
    with pytest.warns(DeprecationWarning, match="observer is now called callback"):
        context = RunContext(seed=3, observer=steps)
    assert context.callback is steps
    assert context == RunContext(seed=3, callback=steps)


def test_session_is_the_former_name_of_context():
    steps, args = Steps(), GRPOConfig(max_steps=2, batch_size=24)
    context = RunContext(callback=steps)
    with pytest.warns(DeprecationWarning, match="session is now called context"):
        GRPOTrainer(build(), args=args, train_dataset=DATASET, session=context).train()
    assert steps.steps == 2
    with pytest.warns(DeprecationWarning, match="session is now called context"):
        pretrain(build(), DATASET, PretrainConfig(max_steps=1), session=context)
    assert steps.steps == 3


def test_present_names_give_no_warning(recwarn):
    torch.manual_seed(0)
    context = RunContext(callback=Steps())
    args = GRPOConfig(max_steps=1, batch_size=24)
    GRPOTrainer(build(), args=args, train_dataset=DATASET, context=context)
    assert not [w for w in recwarn if issubclass(w.category, DeprecationWarning)]
