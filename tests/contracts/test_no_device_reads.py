"""Training steps read nothing from the device, whose kernels the host would have to wait for."""

import numpy as np
import pytest
import torch
from variants import DATASET, ENCODER, UNTRAINED, VARIANTS, build

from device_reads import DeviceReads
from recoach.data import transfer
from recoach.data.dataset import Dataset
from recoach.data.split import leave_last_out
from recoach.models import softmax
from recoach.models.registry import MODELS, build_model
from recoach.simulation.shop import make_log
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.supervised import SupervisedTrainer
from recoach.training.trainer import RLTrainer

TRAINED = sorted(set(VARIANTS) - set(UNTRAINED))
FAST_AND_SLOW = [
    pytest.param(variant, marks=() if variant in MODELS else pytest.mark.slow)
    for variant in TRAINED
]
"""The defaults of each registered model; other settings of them are slow."""
GROUPS = {"num_generations": 8, "loss_type": "grpo", "estimator": "sampled"}
ESTIMATORS = {
    "exact": {},
    "exact, KL": {"beta": 1.0, "entropy_coef": 0.1},
    "exact, two updates": {"num_iterations": 2},
    "sampled": GROUPS,
    "sampled, distinct": GROUPS | {"replacement": False, "beta": 1.0, "kl_estimator": "k3"},
    "stratified": {"estimator": "stratified", "num_negatives": 8},
    "passes": {"estimator": "passes", "num_generations": 4},
    "slate": {"estimator": "slate", "loss_type": "grpo", "num_generations": 4, "slate_length": 5},
    "dead groups": GROUPS | {"dead_groups": "resample"},
}
SETTINGS = {name: {"num_generations": 8} for name in ("reinforce", "raft", "ppo")}
SETTINGS |= {"s_dpo": {"beta": 0.5}}

READING = {
    "graphsage-bpr": "looks up the neighbours of the drawn items, whose number is not known before",
    "ngcf-paper": "as graphsage-bpr",
    "slate": "completes the lists with fewer different items than places, of which there are few",
    "dead groups": "draws again until no group is flat",
    "trpo": "Newton's method stops when the radius of each state is found",
    "imitation": "the lists of the teacher are re-ranked on the host",
    **dict.fromkeys(
        ("dqn", "sqn", "snqn", "sqn_actor_critic", "sa2c", "csa", "mcrl"),
        "temporal differences are computed for the transitions that are not masked only",
    ),
    "off_policy_actor_critic": "the critic learns from the transitions that are not masked only",
    "ufrec": "states with a window of past items are selected",
}
"""What still reads, and why; it reads something, or does not belong here."""


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch):
    """Take the way of a device, whose shapes do not depend on values."""
    monkeypatch.setattr(transfer, "is_read_free", lambda _: False)


def reads_of_a_step(trainer) -> dict[str, int]:
    """Return the operations of one step that would stop a device."""
    model = trainer.model
    with DeviceReads(*model.parameters(), *model.buffers()) as mode:
        batch = next(trainer.epoch(torch.Generator().manual_seed(0)))
        mode.reads.clear()
        trainer.before_step(0)
        trainer.step(batch, torch.Generator())
    return dict(mode.reads)


def supervised_reads(model, dataset: Dataset = DATASET, **settings) -> dict[str, int]:
    config = PretrainConfig(batch_size=64, max_grad_norm=1.0, **settings)
    return reads_of_a_step(SupervisedTrainer(model, config, dataset))


def check(name: str, reads: dict[str, int]) -> None:
    """Check that there are no reads, or that the name is listed and its reads are still there."""
    assert bool(reads) == (name in READING), reads


@pytest.mark.parametrize("variant", FAST_AND_SLOW)
def test_a_supervised_step_of_every_model_reads_nothing(variant):
    check(variant, supervised_reads(build(variant)))


@pytest.mark.parametrize("variant", sorted(set(MODELS) - set(UNTRAINED)))
def test_a_grpo_step_of_every_model_reads_nothing(variant):
    args = GRPOConfig(batch_size=64, beta=1.0)
    assert not reads_of_a_step(RLTrainer(build(variant), args=args, train_dataset=DATASET))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_step_of_every_estimator_reads_nothing(name):
    args = GRPOConfig(batch_size=64, **ESTIMATORS[name])
    trainer = RLTrainer(build("sasrec"), args=args, train_dataset=DATASET)
    check(name, reads_of_a_step(trainer))


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"grpo"}))
def test_a_step_of_every_algorithm_reads_nothing(name):
    args = ALGORITHMS[name].config(batch_size=64, **SETTINGS.get(name, {}))
    trainer = RLTrainer(build("sasrec"), args=args, train_dataset=DATASET)
    check(name, reads_of_a_step(trainer))


def test_long_histories_in_groups_of_lengths_and_several_blocks_read_nothing(monkeypatch):
    monkeypatch.setattr(softmax, "_STATES", {"cpu": 40})  # of 64 states
    lengths = np.where(np.arange(30) % 6 == 0, 40, 4)
    users = np.repeat(np.arange(30), lengths)
    places = np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    dataset = leave_last_out(make_log(users, (users + places) % 60, (30, 60)))
    for name, settings in {"sasrec": ENCODER | {"max_length": 40}, "lightgcn": {}}.items():
        model = build_model(name, dataset, seed=0, **settings)
        assert not supervised_reads(model, dataset), name
        args = GRPOConfig(batch_size=64, beta=1.0)
        assert not reads_of_a_step(RLTrainer(model, args=args, train_dataset=dataset)), name
