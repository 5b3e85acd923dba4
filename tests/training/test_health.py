"""What worries in a log of GRPO, in words, and what does not."""

import math
import re

import numpy as np
import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.data.targets import targets_of
from recoach.evaluation.evaluator import top_lists
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.health import COVERAGE, CollapseMonitor, coverage, health_warnings
from toy_logs import cycle

GOOD = {"step": 10.0, "entropy": 3.0, "kl": 0.1, COVERAGE: 0.5, "td_loss": 0.4, "q_outside": 0.2}
GOOD["target_clamped"] = 0.0


@pytest.mark.parametrize(
    ("row", "beta", "words"),
    [
        ({}, 0.0, ""),
        ({}, 0.1, ""),
        ({"entropy": 0.01}, 0.0, "collapsed: its entropy fell from 3 to 0.01 nats"),
        ({COVERAGE: 0.09}, 0.0, "lists have collapsed: the share of the catalogue in them fell"),
        ({COVERAGE: 0.11}, 0.0, ""),
        ({"kl": 1e-9}, 0.1, "beta = 0.1 has no effect"),
        ({"kl": 1e-9}, 0.0, ""),
        ({"kl": 20.0}, 0.1, "little in common with the base"),
        ({"importance_sampling_ratio/ess": 0.04}, 0.0, "weights is 4 % of the logged items"),
        ({"importance_sampling_ratio/ess": 0.11}, 0.0, ""),
        ({"target_clamped": 0.02}, 0.0, "2 % of the targets of Q are beyond the returns"),
        ({"target_clamped": 0.01}, 0.0, ""),
        ({"q_outside": 0.6}, 0.0, "diverged: that of 60 % of the logged items is beyond .* 20 %"),
        ({"q_outside": 0.5}, 0.0, ""),
        ({"td_loss": 4.1}, 0.0, "Q diverges: the loss of its temporal differences rose from 0.4"),
        ({"td_loss": 3.9}, 0.0, ""),
    ],
)
def test_only_what_is_wrong_is_said(row, beta, words):
    found = health_warnings(GOOD | row, GOOD, 1000, beta)
    assert len(found) == bool(words)
    assert re.search(words, " ".join(found))


def test_a_policy_that_was_sure_from_the_start_has_not_collapsed():
    assert health_warnings(GOOD | {"entropy": 0.01}, GOOD | {"entropy": 0.015}, 1000, 0.0) == []
    assert math.log(1000) * 0.02 > 0.01


def test_a_warning_comes_once():
    watching = CollapseMonitor(1000)
    watching.on_row({"step": 0.0})
    watching.on_row(GOOD)
    with pytest.warns(UserWarning, match="Step 20: The policy has collapsed"):
        watching.on_row(GOOD | {"entropy": 0.01, "step": 20.0})
    watching.on_row(GOOD | {"entropy": 0.01, "step": 30.0})  # a second one would be an error here


def test_targets_that_are_clamped_as_at_first_are_no_alarm():
    begin = GOOD | {"target_clamped": 0.8}  # the scores of a base are no values
    for share, count in ((0.8, 0), (0.81, 1)):
        assert len(health_warnings(GOOD | {"target_clamped": share}, begin, 1000, 0.0)) == count


def test_q_that_was_outside_from_the_start_has_not_diverged():
    assert health_warnings(GOOD | {"q_outside": 0.7}, GOOD | {"q_outside": 0.8}, 1000, 0.0) == []


def test_every_kind_of_alarm_comes_once():
    watching = CollapseMonitor(1000)
    watching.on_row(GOOD)
    bad = {"importance_sampling_ratio/ess": 0.01, "target_clamped": 0.5, "td_loss": 40.0}
    with pytest.warns(UserWarning, match="Step 10") as caught:
        watching.on_row(GOOD | bad)
    assert len(caught) == 3
    watching.on_row(GOOD | bad | {"step": 30.0})  # a second one would be an error here
    with pytest.warns(UserWarning, match="diverged: that of 90 %"):
        watching.on_row(GOOD | bad | {"q_outside": 0.9})


def test_lists_are_compared_with_those_of_the_base_before_the_first_step():
    watching = CollapseMonitor(1000)
    watching.on_row({"step": 0.0, COVERAGE: 0.5})
    watching.on_row(GOOD | {COVERAGE: 0.2})
    with pytest.warns(UserWarning, match="Step 20: The lists have collapsed: .* from 0.5 to 0.05"):
        watching.on_row(GOOD | {COVERAGE: 0.05, "step": 20.0})


def test_coverage_is_the_share_of_the_catalogue_in_validation_lists():
    dataset = leave_last_out(cycle(600, 40, length=7))
    same_for_all = build_model("popularity", dataset)
    shown = coverage(same_for_all, dataset, "all")
    assert shown == 10 / 40
    lists = top_lists(same_for_all, dataset, targets_of(dataset, "valid", "new"), 10)
    assert coverage(same_for_all, dataset, "new") <= len(np.unique(lists)) / 40
    assert coverage(same_for_all, dataset, "new") > shown


def test_a_fine_tuning_that_sends_all_users_to_the_same_items_is_warned_of():
    dataset = leave_last_out(cycle(60, 60, length=8))
    model = build_model("bprmf", dataset, dim=8)

    class Collapse(Callback):
        def on_step(self, step, logs):
            with torch.no_grad():
                model.users.weight[:] = 1.0

    args = GRPOConfig(max_steps=2, eval_steps=1, ema_decay=0.0, mask_seen=False)
    context = RunContext(repeats="all", callback=Collapse())
    with pytest.warns(UserWarning, match="The lists have collapsed"):
        GRPOTrainer(model, args=args, train_dataset=dataset, context=context).train()
