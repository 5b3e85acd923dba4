"""The space of a hyperparameter search."""

import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recoach.experiments.space import from_params, read_space, to_params
from recoach.training.algorithms.grpo.config import GRPOConfig


def read(*texts, **changes):
    return read_space(GRPOConfig(**changes), texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-4..1e-2", FloatDistribution(1e-4, 1e-2, log=True)),
        ("learning_rate=1e-3..1e-2", FloatDistribution(1e-3, 1e-2, log=True)),
        ("learning_rate=1e-3..9e-3", FloatDistribution(1e-3, 9e-3)),
        ("beta=0..3", FloatDistribution(0, 3)),
        ("discount=.5..1", FloatDistribution(0.5, 1)),
        ("temperature=1..2", FloatDistribution(1, 2)),
        ("horizon=1..5", IntDistribution(1, 5)),
        ("batch_size=64..2048", IntDistribution(64, 2048, log=True)),
        ("batch_size=1e2..5e2", IntDistribution(100, 500)),
        ("num_generations=64..512", IntDistribution(64, 512)),
    ],
)
def test_a_range_has_integers_if_the_setting_has_and_is_logarithmic_if_wide(text, expected):
    assert read(f"finetune.{text}") == {text.partition("=")[0]: expected}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("loss_type=log,grpo", ["log", "grpo"]),
        ("loss_type=log, 'grpo'", ["log", "grpo"]),
        ("beta=0,0.1", [0, 0.1]),
        ("temperature=auto,1.0", ["auto", 1.0]),
        ("mask_seen=true,false", [True, False]),
        ("trainable=['item'],['item','user']", [["item"], ["item", "user"]]),
    ],
)
def test_choices_round_trip_through_json(text, values):
    ((name, distribution),) = read(f"finetune.{text}").items()
    assert isinstance(distribution, CategoricalDistribution)
    assert [from_params({name: choice})[name] for choice in distribution.choices] == values


def test_a_value_that_is_invalid_only_in_combination_is_accepted():
    assert set(read("finetune.estimator=exact,sampled", "finetune.state=auto,user")) == {
        "estimator",
        "state",
    }


def test_the_default_space_contains_the_default_settings():
    space = read()
    assert to_params(GRPOConfig(), space) is not None
    assert {"learning_rate", "horizon", "discount", "beta", "ema_decay"} < set(space)
    assert "temperature" not in space
    assert {"horizon", "discount"}.isdisjoint(read(reward_funcs=("next",)))
    for name in ("future", "rated", "cross_fitted"):
        assert {"horizon", "discount"} < set(read(reward_funcs=(name,)))
    assert "loss_type" not in read(estimator="sampled", loss_type="grpo")


def test_settings_become_params_if_the_space_contains_them():
    texts = ("finetune.learning_rate=1e-4..1e-2", "finetune.trainable=['item'],['item','user']")
    space = read(*texts)
    params = to_params(GRPOConfig(trainable=("item",)), space)
    assert params == {"learning_rate": 2e-3, "trainable": json.dumps(["item"])}
    assert to_params(GRPOConfig(), space) is None
    assert to_params(GRPOConfig(learning_rate=1.0, trainable=("item",)), space) is None
    assert to_params(GRPOConfig(), read("finetune.temperature=1..2")) is None
    assert to_params(GRPOConfig(), read("finetune.epsilon_high=0.2,0.3")) is None
