"""Settings and reward functions that do not go together are refused, in words that help."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recoach.data.split import leave_last_out
from recoach.data.synthetic import cycle
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.policy.reward_funcs import calibration, diversity, future, of_items, of_log, rated
from recoach.policy.reward_funcs import train_set as every_item
from recoach.training.config import GRPOConfig
from recoach.training.grpo import GRPOTrainer

DATASET = leave_last_out(cycle(24, 12, length=7))
DRAWN = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 8}
LISTS = {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 3}
ALIKE = {"multi_objective_aggregation": "normalize_then_sum"}


@of_items
def price(prompts, completions, **_):
    return completions.float()


def anything(prompts, completions, **_):
    return torch.ones(completions.shape)


def train(reward_funcs=None, **settings):
    model = build_model("sasrec", DATASET, dim=8, layers=1, heads=2, max_length=6)
    args = GRPOConfig(batch_size=24, max_steps=1, **settings)
    return GRPOTrainer(model, reward_funcs, args, train_dataset=DATASET).train()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (DRAWN | {"loss_type": "dr_grpo", "scale_rewards": "batch"}, "scale_rewards"),
        (DRAWN | {"algorithm": "reinforce", "scale_rewards": "none"}, "scale_rewards"),
        (DRAWN | ALIKE | {"scale_rewards": "batch"}, "scale_rewards"),
        (DRAWN | ALIKE | {"loss_type": "dr_grpo"}, "multi_objective_aggregation"),
        (DRAWN | ALIKE | {"algorithm": "raft"}, "multi_objective_aggregation"),
        ({"algorithm": "sac", "advantage_clip": 1.0}, "advantage_clip"),
        ({"algorithm": "s_dpo", "beta": 1.0, "entropy_coef": 0.1}, "entropy_coef"),
        ({"entropy_floor": 1.0}, "entropy_floor"),
    ],
)
def test_what_would_do_nothing_is_refused(settings, name):
    with pytest.raises(ValidationError, match=f"{name} would do nothing here"):
        GRPOConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        LISTS,
        DRAWN | {"scale_rewards": "batch"},
        DRAWN | {"loss_type": "dr_grpo", "scale_rewards": "none"},
        LISTS | ALIKE,
        {"estimator": "stratified", "num_negatives": 64} | ALIKE,
        {"algorithm": "sac"} | ALIKE,
        {"entropy_coef": 0.1, "entropy_floor": 1.0},
        {"advantage_clip": 1.0},
    ],
)
def test_what_does_something_is_taken(settings):
    GRPOConfig(**settings)


@pytest.mark.parametrize("algorithm", ["top_k_off_policy", "s_dpo", "sac"])
def test_a_rival_that_does_not_hear_what_items_pay_says_so(algorithm):
    beta = 1.0 if algorithm == "s_dpo" else 0.0
    with pytest.raises(ConfigError, match=f"'{algorithm}' learns from what the log rewards.*price"):
        train([future(), price], algorithm=algorithm, beta=beta)


def test_past_and_future_do_not_mix():
    with pytest.raises(ValidationError, match="'train_set' looks back and 'future' ahead"):
        GRPOConfig(reward_funcs=("train_set", "future"), mask_seen=False)
    with pytest.raises(ConfigError, match="looks back"):
        train([every_item, future()], mask_seen=False)
    GRPOConfig(reward_funcs=("train_set", "novelty"), mask_seen=False)


def test_dead_groups_are_told_by_what_is_known_of_all_draws():
    with pytest.raises(ConfigError, match=r"dead_groups = 'resample'.*anything"):
        train(anything, dead_groups="resample", **DRAWN)


def test_lists_longer_than_what_may_be_shown_are_refused():
    longest = int(DATASET.train.lengths.max())
    shown = DATASET.n_items - longest
    train(**LISTS | {"slate_length": shown})
    with pytest.raises(ConfigError, match=f"slate_length = {shown + 1}.*only {shown} items"):
        train(**LISTS | {"slate_length": shown + 1})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (diversity(torch.eye(DATASET.n_items)), "'diversity' is paid for lists.*'slate'"),
        (
            calibration(torch.zeros(DATASET.n_items, dtype=torch.int64), DATASET),
            "'calibration' is paid for lists",
        ),
        (lambda prompts, completions: completions, r"cannot be called.*ahead.*\*\*columns"),
        (lambda completions, **_: [1.0] * len(completions), "returned shape"),
        (lambda completions, **_: completions / 0.0, "infinite reward"),
        (3, "3 is neither one nor a name"),
    ],
)
def test_a_function_that_cannot_be_asked_about_draws_says_why(function, message):
    with pytest.raises(ConfigError, match=message):
        train([function], **DRAWN)


def test_a_list_s_items_are_all_known_to_its_reward():
    with pytest.raises(ConfigError, match="'diversity' knows 2 items and is asked about more"):
        train(diversity(torch.eye(2)), **LISTS)
    with pytest.raises(ConfigError, match="categories of 2 items, and the catalogue holds 12"):
        calibration(torch.tensor([0, 1]), DATASET)


def test_a_negative_weight_is_named_beside_a_negative_reward():
    @of_log
    def own(prompts, completions, **_):
        return np.ones(len(completions))

    with pytest.raises(ConfigError, match="or has a negative weight"):
        train(own, reward_weights=(-1.0,))


def test_ratings_that_are_all_missing_are_said_to_be():
    with pytest.raises(ConfigError, match="all are missing"):
        rated(torch.full((5,), torch.nan))
