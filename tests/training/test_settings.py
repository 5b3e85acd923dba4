"""Settings and reward functions that do not go together are refused, in words that help."""

import functools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.policy.list_rewards import calibration, diversity
from recoach.policy.reward_funcs import (
    future,
    item_reward,
    log_reward,
    rated,
    scope_of,
)
from recoach.policy.reward_funcs import train_set as every_item
from recoach.policy.rewards import CombinedReward
from recoach.training.algorithms.dqn import DQNConfig
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.raft import RAFTConfig
from recoach.training.algorithms.reinforce import ReinforceConfig
from recoach.training.algorithms.s_dpo import SDPOConfig
from recoach.training.algorithms.supervised_q import SQNActorCriticConfig
from recoach.training.algorithms.top_k_off_policy import TopKOffPolicyConfig
from recoach.training.context import RunContext
from recoach.training.pretraining import pretrain
from toy_logs import cycle

LOG = cycle(24, 12, length=7)
DATASET = leave_last_out(LOG)
DRAWN = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 8}
LISTS = {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 3}
ALIKE = {"multi_objective_aggregation": "normalize_then_sum"}


@item_reward
def price(prompts, completions, **_):
    return completions.float()


def anything(prompts, completions, **_):
    return torch.ones(completions.shape)


def build():
    return build_model("sasrec", DATASET, dim=8, layers=1, heads=2, max_length=6)


def train(reward_funcs=None, *, protocol="new", dataset=DATASET, config=GRPOConfig, **settings):
    args = config(batch_size=24, max_steps=1, **settings)
    context = RunContext(repeats=protocol)
    trainer = GRPOTrainer(build(), reward_funcs, args, train_dataset=dataset, context=context)
    return trainer.train()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (DRAWN | {"loss_type": "dr_grpo", "scale_rewards": "batch"}, "scale_rewards"),
        (DRAWN | ALIKE | {"scale_rewards": "batch"}, "scale_rewards"),
        (DRAWN | ALIKE | {"loss_type": "dr_grpo"}, "multi_objective_aggregation"),
        ({"entropy_floor": 1.0}, "entropy_floor"),
    ],
)
def test_settings_without_effect_are_refused(settings, name):
    with pytest.raises(ConfigError, match=f"{name} has no effect here"):
        GRPOConfig(**settings)


@pytest.mark.parametrize(
    ("config", "settings", "name"),
    [
        (ReinforceConfig, {"scale_rewards": "none"}, "scale_rewards"),
        (SQNActorCriticConfig, {"advantage_clip": 1.0}, "advantage_clip"),
        (SDPOConfig, {"entropy_coef": 0.1}, "entropy_coef"),
        (RAFTConfig, ALIKE, "multi_objective_aggregation has no effect here"),
    ],
)
def test_settings_of_another_algorithm_are_refused(config, settings, name):
    with pytest.raises(ConfigError, match=name):
        config(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        LISTS,
        DRAWN | {"scale_rewards": "batch"},
        DRAWN | {"loss_type": "dr_grpo", "scale_rewards": "none"},
        LISTS | ALIKE,
        {"estimator": "stratified", "num_negatives": 64} | ALIKE,
        {"entropy_coef": 0.1, "entropy_floor": 1.0},
        {"advantage_clip": 1.0},
    ],
)
def test_settings_with_an_effect_are_accepted(settings):
    GRPOConfig(**settings)
    SQNActorCriticConfig(**ALIKE)


@pytest.mark.parametrize(
    "config", [TopKOffPolicyConfig, SDPOConfig, SQNActorCriticConfig, DQNConfig]
)
def test_rewards_of_items_are_refused_by_algorithms_that_ignore_them(config):
    with pytest.raises(ConfigError, match="only from rewards of the log, not from 'novelty'"):
        config(reward_funcs=("future", "novelty"))
    message = f"'{config().algorithm}' learns only from rewards of the log.*price"
    with pytest.raises(ConfigError, match=message):
        train([future(), price], config=config)


def test_past_and_future_do_not_mix():
    with pytest.raises(
        ConfigError, match="'train_set' rewards past items and 'future' future items"
    ):
        GRPOConfig(reward_funcs=("train_set", "future"), mask_seen=False)
    with pytest.raises(ConfigError, match="rewards past items and 'future' future items"):
        train([every_item, future()], mask_seen=False)
    GRPOConfig(reward_funcs=("train_set", "novelty"), mask_seen=False)

    @log_reward
    def own(prompts, completions, ahead, **_):
        return (ahead == 1).float()

    train([every_item, own], mask_seen=False)


def test_a_past_that_is_masked_earns_nothing():
    with pytest.raises(ConfigError, match="already interacted with; set mask_seen = false"):
        train("train_set")
    train("train_set", protocol="all")


def test_dead_groups_are_told_by_what_is_known_of_all_draws():
    with pytest.raises(ConfigError, match=r"dead_groups = 'resample'.*anything"):
        train(anything, dead_groups="resample", **DRAWN)


def test_lists_longer_than_what_may_be_shown_are_refused():
    shown = DATASET.n_items - (int(DATASET.train.lengths.max()) - 1)  # the last one is not masked
    train(**LISTS | {"slate_length": shown})
    with pytest.raises(ConfigError, match=f"slate_length = {shown + 1}.*only {shown} items"):
        train(**LISTS | {"slate_length": shown + 1})
    train(protocol="all", **LISTS | {"slate_length": shown + 1})


def test_items_taken_again_and_again_are_masked_once():
    rows = [[0, 1, 2] * 10, [3, 4, 5]]
    offsets = np.cumsum([0] + [len(row) for row in rows] + [0] * (DATASET.n_users - 2))
    again = RaggedArray(offsets.astype(np.int64), np.concatenate(rows).astype(np.int32))
    train(dataset=replace(DATASET, train=again), **LISTS)


def test_the_temperature_is_fitted_to_what_the_policy_shows():
    def fitted(protocol, **settings):
        context = RunContext(repeats=protocol)
        args = GRPOConfig(**settings)
        trainer = GRPOTrainer(build(), args=args, train_dataset=DATASET, context=context)
        return trainer.policy.temperature

    masked, open_ = fitted("new", mask_seen=True), fitted("new", mask_seen=False)
    assert masked != open_
    assert (fitted("new"), fitted("all"), fitted("recbole")) == (masked, open_, open_)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (diversity(torch.eye(DATASET.n_items)), "'diversity' rewards lists.*'slate'"),
        (
            calibration(torch.zeros(DATASET.n_items, dtype=torch.int64), DATASET),
            "'calibration' rewards lists",
        ),
        (lambda prompts, completions: completions, r"cannot be called.*ahead.*\*\*columns"),
        (lambda completions, **_: [1.0] * len(completions), "returned shape"),
        (lambda completions, **_: completions / 0.0, "infinite reward"),
        (lambda completions, **_: [["a"] * 8] * 9, "reward function <lambda> returned list, which"),
        (lambda completions, **_: {"a": 1}, "reward function <lambda> returned dict, which"),
        (3, "3 is neither"),
    ],
)
def test_a_function_that_cannot_be_asked_about_draws_says_why(function, message):
    for given in (function, [function]):
        with pytest.raises(ConfigError, match=message):
            train(given, **DRAWN)


def test_functions_of_every_make_are_called():
    def short(completions):
        return torch.ones(completions.shape)

    @functools.wraps(short)
    def adapted(prompts, completions, **_):
        return short(completions)

    def priced(prompts, completions, price, **_):
        return price * torch.ones(completions.shape)

    class Own:
        def __call__(self, prompts, completions, **_):
            return np.ones(completions.shape)

    marked = log_reward(functools.partial(priced, price=2.0))
    assert scope_of(marked) == "log"
    train([adapted, marked, Own()], **DRAWN)
    CombinedReward([dict])  # one that does not tell what it takes


@pytest.mark.parametrize("name", ["diversity", "calibration"])
def test_rewards_of_lists_have_names_and_need_lists_and_a_base(name):
    train(["future", name], **LISTS)
    for wrong in (DRAWN, LISTS | {"start": "scratch", "temperature": 1.0}):
        with pytest.raises(ConfigError, match=f"'{name}' rewards lists.*'slate'.*'base'"):
            GRPOConfig(reward_funcs=(name,), **wrong)
    with pytest.raises(ConfigError, match="rewards lists"):
        ReinforceConfig(reward_funcs=(name,))


def test_a_list_s_items_are_all_known_to_its_reward():
    with pytest.raises(
        ConfigError, match="'diversity' has rows for 2 items and was called with others"
    ):
        train(diversity(torch.eye(2)), **LISTS)
    with pytest.raises(ConfigError, match="categories of 2 items, and the catalogue holds 12"):
        calibration(torch.tensor([0, 1]), DATASET)


def test_a_negative_weight_is_named_beside_a_negative_reward():
    @log_reward
    def own(prompts, completions, **_):
        return np.ones(len(completions))

    with pytest.raises(ConfigError, match="or has a negative weight"):
        train(own, reward_weights=(-1.0,), loss_type="grpo")


def test_ratings_that_are_all_missing_are_said_to_be():
    with pytest.raises(ConfigError, match="all are missing"):
        rated(torch.full((5,), torch.nan))


@pytest.mark.parametrize("answer", [["a"] * 7, {"a": 1}, object(), {1, 2}])
def test_a_reward_of_the_log_that_is_no_array_of_numbers_is_named(answer):
    @log_reward
    def words(completions, **_):
        return answer

    kind = type(answer).__name__
    with pytest.raises(ConfigError, match=f"reward function words returned {kind}, which is not"):
        GRPOTrainer(build(), words, GRPOConfig(max_steps=1), train_dataset=DATASET).train()


def test_the_advice_for_a_function_of_draws_is_a_valid_configuration():
    def undecorated(completions, **_):
        return completions * 0.0

    with pytest.raises(ConfigError, match="undecorated may reward any item") as caught:
        GRPOTrainer(build(), undecorated, GRPOConfig(max_steps=1), train_dataset=DATASET)
    assert 'GRPOConfig(estimator="sampled", loss_type="grpo")' in str(caught.value)
    args = GRPOConfig(estimator="sampled", loss_type="grpo", max_steps=1, num_generations=4)
    GRPOTrainer(build(), undecorated, args, train_dataset=DATASET).train()


@pytest.mark.parametrize(
    ("settings", "has_warning"),
    [
        ({"num_generations": 8}, True),
        ({"num_generations": 8, "estimator": "stratified"}, True),
        (DRAWN, False),
        ({}, False),
    ],
)
def test_a_group_size_without_groups_is_warned_about(caplog, settings, has_warning):
    GRPOTrainer(build(), args=GRPOConfig(**settings), train_dataset=DATASET)
    assert ("num_generations = 8 has no effect" in caplog.text) is has_warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_dataset": LOG}, r"type Interactions.*recoach.leave_last_out\(...\)"),
        ({"train_dataset": pl.DataFrame({"user_id": [1]})}, "type DataFrame.*leave_last_out"),
        ({"train_dataset": None}, "type NoneType.*leave_last_out"),
        ({"model": "sasrec"}, "model is 'sasrec'.*recoach.build_model"),
        ({"model": torch.nn.Linear(2, 2)}, "model is of the type Linear.*recoach.wrap"),
    ],
)
def test_what_is_no_model_or_dataset_is_told(arguments, message):
    given = {"model": build(), "train_dataset": DATASET} | arguments
    with pytest.raises(ConfigError, match=message):
        GRPOTrainer(**given)
    for function in (evaluate, pretrain):
        with pytest.raises(ConfigError, match=message):
            function(given["model"], given["train_dataset"])
