"""Constraints on served lists: measuring, multipliers, selection and resuming."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.data.targets import targets_of
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import top_lists
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.constraint_config import ConstraintConfig
from recoach.training.constraints import Constraints, check_constraints, violations
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.trainer import RLTrainer
from toy_logs import cycle

ITEMS = 12
DATASET = leave_last_out(cycle(48, ITEMS, length=7))
TABLE = pl.DataFrame({"item_id": DATASET.item_ids, "maker": ["a"] * 8 + ["b"] * 3 + ["c"]})
DATASET = replace(DATASET, item_table=TABLE)
ENCODER = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
MAKERS = torch.tensor([0] * 8 + [1] * 3 + [2])


def constraint(**settings):
    return ConstraintConfig(**settings)


def of(*configs, objective=None):
    model = build_model("sasrec", DATASET, **ENCODER)
    return Constraints(configs, DATASET, model, objective)


def measured(constraints, lists, value, population=0.0):
    return constraints.measure(torch.tensor([lists] * 3), value, population)


@pytest.mark.parametrize(
    ("settings", "share", "expected"),
    [
        ({"at_least": 0.2}, 0.1, 0.5),
        ({"at_least": 0.2}, 0.4, -0.5),
        ({"at_most": 0.2}, 0.4, 0.5),
        ({"at_most": 0.2}, 0.1, -0.5),
    ],
)
def test_a_violation_is_relative_to_the_larger_of_share_and_bound(settings, share, expected):
    config = constraint(column="maker", member="a", **settings)
    assert violations(config, torch.tensor([share])).item() == pytest.approx(expected)


def test_a_fall_is_beyond_its_bound_or_within_it():
    config = constraint(max_fall=0.02)
    found = [violations(config, torch.tensor([fall])).item() for fall in (0.04, 0.01, -0.04)]
    assert found == pytest.approx([0.5, -0.5, -1.5])


def test_shares_are_those_of_the_lists_weighted_by_rank():
    constraints = of(constraint(column="maker", member="b", at_least=0.3))
    row = measured(constraints, [0, 8, 9, 1], 0.4)
    weights = 1 / np.log2(np.arange(4) + 2)
    assert row["constraint/maker = b"] == pytest.approx(weights[1:3].sum() / weights.sum())
    assert row["constrained"] == 0.4


def test_weights_that_violate_a_constraint_are_worse_than_all_that_keep_it():
    constraints = of(
        constraint(column="maker", at_most=0.7),
        constraint(column="maker", member="c", at_least=0.1),
    )
    kept = measured(constraints, [0, 8, 11], 0.0)["constrained"]
    little = measured(constraints, [0, 1, 11], 0.9)["constrained"]
    much = measured(constraints, [0, 1, 2], 0.9)["constrained"]
    assert kept == 0.0
    assert kept > little > much


def test_multipliers_follow_the_controller_and_never_fall_below_zero():
    constraints = of(constraint(column="maker", member="c", at_least=0.5))
    measured(constraints, [0, 1], 0.4)
    constraints.update()
    assert constraints.multipliers.item() == pytest.approx((0.2 + 0.5) * 1.05)
    constraints.update()  # nothing new was measured
    assert constraints.multipliers.item() == pytest.approx((0.2 + 0.5) * 1.05)
    measured(constraints, [11], 0.4)  # all exposure: violation -0.5
    constraints.update()
    integral = 0.2 * (1.05 - 0.45)
    assert constraints.integral.item() == pytest.approx(integral)
    assert constraints.multipliers.item() == 0.0
    for _ in range(5):  # what is kept for long must not delay the answer to a violation
        measured(constraints, [11], 0.4)
        constraints.update()
    assert constraints.integral.item() == 0.0


def test_multipliers_are_rewards_of_the_items_of_their_groups():
    constraints = of(
        constraint(column="maker", member="c", at_least=0.5),
        constraint(column="maker", at_most=0.5),
    )
    constraints.multipliers.copy_(torch.tensor([2.0, 0.25, 0.0, 1.0]))
    expected = torch.where(MAKERS == 2, 2.0 - 1.0, 0.0) + torch.where(MAKERS == 0, -0.25, 0.0)
    assert torch.allclose(constraints.item_rewards(None), expected)
    own = torch.arange(float(ITEMS))
    assert torch.allclose(constraints.item_rewards(own), own + expected)


def test_the_price_of_an_objective_is_its_weight():
    own = torch.arange(float(ITEMS))
    constraints = of(constraint(max_fall=0.1), objective=own)
    base = measured(constraints, [0, 1], 0.5)
    assert (base["constraint/accuracy"], base["constrained"]) == (0.0, 0.5)  # mean reward of 0, 1
    row = measured(constraints, [10, 11], 0.4)
    assert row["constraint/accuracy"] == pytest.approx(0.2)
    assert row["constrained"] < 0
    constraints.update()
    moved = (0.2 + 0.5) * (0.5 + 0.05)
    assert torch.allclose(constraints.item_rewards(own), own * np.exp(-moved))
    with_population = measured(constraints, [0, 1], 0.5, population=0.25)
    assert with_population["constrained"] == 0.75
    for _ in range(60):  # without a fall the weight of the objective grows, to a limit
        measured(constraints, [0, 1], 0.6)
        constraints.update()
    assert torch.allclose(constraints.item_rewards(own), own * np.exp(4.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either max_fall, or column or new_days"),
        ({"column": "maker"}, "either max_fall, or column or new_days"),
        ({"column": "maker", "at_most": 0.1, "at_least": 0.05}, "with one of at_least and"),
        ({"max_fall": 0.1, "column": "maker"}, "it stands alone"),
        ({"new_days": 3, "column": "maker", "at_most": 0.1}, "stands without column"),
        ({"member": "a", "new_days": 3, "at_most": 0.1}, "stands without column"),
        ({"column": "maker", "at_least": 0.1}, "needs the member"),
    ],
)
def test_settings_that_bound_nothing_or_two_things_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        constraint(**settings)


@pytest.mark.parametrize(
    "settings", [{"estimator": "sampled", "loss_type": "grpo"}, {"select": "last"}]
)
def test_settings_without_item_rewards_or_selection_are_refused(settings):
    with pytest.raises(ConfigError, match="constraints need estimator 'exact', select 'best'"):
        GRPOConfig(constraints=({"max_fall": 0.1},), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"column": "brand", "at_most": 0.1}, "no column 'brand'"),
        ({"column": "maker", "member": "z", "at_most": 0.1}, "no value 'z'"),
        ({"new_days": 3, "at_least": 0.1}, "needs the times of events"),
    ],
)
def test_what_the_data_lack_is_named(settings, message):
    without_times = replace(DATASET, train=DATASET.train.keep_columns(()))
    with pytest.raises(ConfigError, match=message):
        check_constraints([constraint(**settings)], without_times)


def test_the_price_needs_an_objective():
    with pytest.raises(ConfigError, match="add one to reward_funcs"):
        of(constraint(max_fall=0.1))


class Rows(Callback):
    def __init__(self):
        self.rows = []

    def on_row(self, row):
        self.rows.append(row)

    def stops(self):
        return False


class StopsAfter(Rows):
    def __init__(self, step):
        super().__init__()
        self.step, self.seen = step, 0

    def on_step(self, step, logs):
        del logs
        self.seen = step

    def stops(self):
        return self.seen >= self.step


@pytest.fixture(scope="module")
def base():
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    pretrain(model, DATASET, PretrainConfig(batch_size=64, epochs=3, learning_rate=3e-3))
    return model.state_dict()


def tuned(base, folder=None, callback=None, **settings):
    model = build_model("sasrec", DATASET, **ENCODER, seed=1)
    model.load_state_dict(base)
    args = GRPOConfig(
        **{"batch_size": 64, "epochs": 30, "patience": 0, "learning_rate": 1e-2} | settings
    )
    context = RunContext(callback=callback or Rows(), folder=folder, resume=True)
    result = RLTrainer(model, args=args, train_dataset=DATASET, context=context).train()
    return model, result


def test_training_keeps_a_bound_that_the_base_violates(base):
    bound = ({"column": "maker", "member": "c", "at_least": 0.15},)
    rows = Rows()
    model, result = tuned(base, callback=rows, constraints=bound, epochs=90)
    shares = [row["valid/constraint/maker = c"] for row in rows.rows]
    assert shares[0] < 0.15
    assert result.best_value > 0  # weights that keep the bound were found
    free, _ = tuned(base)
    of_both = []
    for one in (model, free):
        check = of(constraint(**bound[0]))
        lists = top_lists(one, DATASET, targets_of(DATASET, "valid", "new"), 10)
        of_both.append(check.measure(torch.from_numpy(lists), 0.5)["constraint/maker = c"])
    assert of_both[0] >= 0.15 > of_both[1]


def test_multipliers_are_resumed_to_the_last_bit(base, tmp_path):
    settings = {
        "constraints": ({"column": "maker", "member": "c", "at_least": 0.3},),
        "epochs": 6,
        "eval_steps": 2,
    }
    model, _ = tuned(base, tmp_path / "a", **settings)
    tuned(base, tmp_path / "b", StopsAfter(5), **settings)
    resumed, _ = tuned(base, tmp_path / "b", **settings)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
