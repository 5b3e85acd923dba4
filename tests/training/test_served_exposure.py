"""Training with the reward `exposure`: what it does to served lists, resuming, refusals."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import recoach
from recoach.data.dataset import RaggedArray
from recoach.data.targets import targets_of
from recoach.errors import ConfigError
from recoach.evaluation.beyond_accuracy import RecommendationLists, coverage, exposure_gini
from recoach.evaluation.evaluator import top_lists
from recoach.models.registry import build_model
from recoach.policy.exposure_reward import ExposureReward
from recoach.policy.reward_funcs import serendipity
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.reinforce import ReinforceConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer

DATASET = recoach.leave_last_out(recoach.shop(n_users=60, n_items=150, seed=3).interactions)
COUNTS = np.bincount(DATASET.train.values, minlength=DATASET.n_items)
MAKERS = np.where(np.sort(COUNTS)[-len(COUNTS) // 3] <= COUNTS, 0, 1 + np.arange(len(COUNTS)) % 2)
"""A maker of the most popular third of the items, and two of the others."""
TABLE = pl.DataFrame({"item_id": DATASET.item_ids, "maker": [f"m{n}" for n in MAKERS]})
DATASET = replace(DATASET, item_table=TABLE)
ENCODER = {"dim": 16, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 12}


class Rows(Callback):
    def __init__(self, stop=0):
        self.rows, self.stop, self.step = [], stop, 0

    def on_row(self, row):
        self.rows.append(row)

    def on_step(self, step, logs):
        del logs
        self.step = step

    def stops(self):
        return bool(self.stop) and self.step >= self.stop


@pytest.fixture(scope="module")
def base():
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    pretrain(model, DATASET, PretrainConfig(batch_size=64, epochs=6, learning_rate=5e-3))
    return model.state_dict()


def tuned(base, weight=4.0, callback=None, folder=None, **settings):
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    model.load_state_dict(base)
    args = {"batch_size": 256, "epochs": 12, "patience": 0, "learning_rate": 1e-2, "select": "last"}
    args |= {"reward_funcs": ("future", "exposure"), "reward_weights": (1.0, weight)}
    context = RunContext(callback=callback or Rows(), folder=folder, resume=True)
    RLTrainer(
        model, args=GRPOConfig(**args | settings), train_dataset=DATASET, context=context
    ).train()
    return model


def lists_of(model):
    return top_lists(model, DATASET, targets_of(DATASET, "test", "new"), 10)


def test_lists_are_spread_over_more_items(base):
    measured = []
    for weight in (0.0, 4.0):
        rows = Rows()
        lists = lists_of(tuned(base, weight, rows))
        found = RecommendationLists(lists, DATASET.train, DATASET.n_items)
        measured.append((exposure_gini(found), coverage(found)))
        evenness = [row["valid/exposure/items"] for row in rows.rows]
        assert all(0 < value < 1 for value in evenness)
    (gini, covered), (even_gini, more_covered) = measured
    assert even_gini < gini - 0.05
    assert more_covered > covered + 0.02
    assert evenness[-1] > evenness[0]


def test_the_largest_group_loses_exposure(base):
    shares = []
    for weight in (0.0, 4.0):
        lists = lists_of(tuned(base, weight, exposure_column="maker"))
        shares.append(np.bincount(MAKERS[lists.ravel()]) / lists.size)
    without, with_exposure = shares
    assert without.argmax() == 0
    assert with_exposure[0] < without[0] - 0.05
    assert with_exposure.min() > without.min()


def test_the_average_is_resumed_to_the_last_bit(base, tmp_path):
    settings = {"epochs": 6, "eval_steps": 2, "select": "best", "exposure_column": "maker"}
    whole = tuned(base, folder=tmp_path / "a", **settings)
    tuned(base, callback=Rows(stop=5), folder=tmp_path / "b", **settings)
    resumed = tuned(base, folder=tmp_path / "b", **settings)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_max_fall_selects_by_the_evenness_of_the_exposure(base):
    rows = Rows()
    tuned(base, 2.0, rows, select="best", constraints=({"max_fall": 0.9},), exposure_column="maker")
    reward = ExposureReward(DATASET, "maker")
    for row in rows.rows:
        assert row["valid/constraint/accuracy"] <= 0.9
        expected = 2 * row["valid/exposure/maker"] * reward.highest
        assert row["valid/constrained"] == pytest.approx(expected, rel=1e-6)


def test_a_function_that_is_used_again_forgets_what_it_measured(base):
    reward = ExposureReward(DATASET)
    reward.measure(torch.tensor([[0, 1, 2]]))
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    model.load_state_dict(base)
    RLTrainer(model, ["future", reward], GRPOConfig(), train_dataset=DATASET)
    assert not reward.is_measured


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "sampled", "loss_type": "grpo"}, "'grpo' with estimator 'exact'"),
        ({"estimator": "stratified"}, "'grpo' with estimator 'exact'"),
        ({"loss_type": "grpo", "whitening": "state"}, "'exposure' and constraints reward items"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "'normalize_then_sum' would give"),
        ({"reward_weights": (1.0, -0.5)}, "'exposure' is below 0"),
        ({"reward_funcs": ("future",), "exposure_column": "maker"}, "exposure_column has no effe"),
    ],
)
def test_settings_that_exposure_has_no_place_in_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**{"reward_funcs": ("future", "exposure")} | settings)


def test_other_algorithms_refuse_it():
    with pytest.raises(ConfigError, match="reward 'exposure' changes with the lists"):
        ReinforceConfig(reward_funcs=("future", "exposure"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (GRPOConfig(estimator="stratified"), "estimator 'stratified' does not have it"),
        (GRPOConfig(loss_type="grpo", whitening="state"), "leave it out"),
    ],
)
def test_the_function_is_refused_as_its_name_is(args, message):
    model = build_model("sasrec", DATASET, **ENCODER)
    with pytest.raises(ConfigError, match=message):
        RLTrainer(model, ["future", ExposureReward(DATASET)], args, train_dataset=DATASET)


def test_it_needs_validation_events():
    empty = RaggedArray(0 * DATASET.valid.offsets, DATASET.valid.values[:0])
    without = replace(DATASET, valid=empty)
    args = GRPOConfig(reward_funcs=("future", "exposure"), temperature=1.0, select="last")
    with pytest.raises(ConfigError, match="measured on validation events"):
        RLTrainer(build_model("sasrec", without, **ENCODER), args=args, train_dataset=without)


@pytest.mark.parametrize("settings", [{}, {"estimator": "sampled", "loss_type": "grpo"}])
def test_serendipity_is_a_reward_of_the_log_for_every_estimator(base, settings):
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    model.load_state_dict(base)
    args = GRPOConfig(reward_funcs=("serendipity",), max_steps=2, batch_size=64, **settings)
    trainer = RLTrainer(model, args=args, train_dataset=DATASET)
    trainer.train()
    popular = torch.from_numpy(np.argsort(-COUNTS, kind="stable")[:10].copy())
    function = serendipity(DATASET)
    ones = torch.ones(DATASET.n_items, dtype=torch.int64)
    paid = function(prompts=ones, completions=torch.arange(DATASET.n_items), ahead=ones)
    assert set(popular.tolist()) == set((paid == 0).nonzero().squeeze(1).tolist())
