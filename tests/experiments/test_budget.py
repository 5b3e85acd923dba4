"""The training budget in results.json."""

from dataclasses import asdict

import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.experiments.budget import training_budgets
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import save_tensors
from recoach.models.registry import build_model
from recoach.training.callbacks import TrainResult
from recoach.training.progress import Progress
from recoach.training.work import Work
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))
MODEL = build_model("bprmf", DATASET, dim=4)
WORK = Work(5, 10, 200, 50, validations=3, measured_states=20, measured=600)
BASE = TrainResult(5, 1.25, 5, 0.2, None, work=WORK)
FOLD = Work(2, 2, 100, 0, validations=1, measured_states=100, measured=1000)


def save_fold(path, name, **progress):
    tensors = {"x": torch.zeros(1)}
    state = asdict(Progress(step=2, seconds=7.0, finished=True, **progress))
    state |= {"sums": {}, "count": 0}
    save_tensors(path / "checkpoints" / name / "last.safetensors", tensors, state, MODEL.ids)


@pytest.fixture
def folder(tmp_path):
    for name in ("fold-1-of-2", "fold-2-of-2"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        save_fold(tmp_path, name, work=FOLD)
    return RunFolder(tmp_path)


def test_the_budget_has_the_counts_of_the_training(tmp_path):
    budgets = training_budgets(RunFolder(tmp_path), {"base": (MODEL, BASE)})
    assert budgets == {
        "base": {
            "optimiser_steps": 10,
            "states": 200,
            "encoder_passes": 50,
            "validations": 3,
            "multiply_adds": 6000,
            "seconds": 1.2,
            "device": "cpu",
            "data": "train",
            "parameters": (DATASET.n_users + DATASET.n_items) * 4,
            "reward_models": 0,
        }
    }


def test_the_models_of_a_cross_fitted_reward_are_part_of_the_fine_tuning(folder):
    budgets = training_budgets(folder, {"base": (MODEL, BASE), "tuned": (MODEL, BASE)})
    assert budgets["base"]["states"] == 200
    tuned = budgets["tuned"]
    assert tuned["reward_models"] == 2
    assert (tuned["optimiser_steps"], tuned["states"], tuned["validations"]) == (14, 400, 5)
    assert tuned["multiply_adds"] == 6000 + 2 * 1000
    assert tuned["seconds"] == 15.2


def test_models_trained_again_count_their_own_reward_models(folder):
    path = folder.path / "checkpoints" / "fold-1-of-2_retrained"
    path.mkdir()
    save_fold(folder.path, path.name, work=FOLD)
    tuned = training_budgets(folder, {"tuned": (MODEL, BASE)}, retrained=True)["tuned"]
    assert (tuned["reward_models"], tuned["states"]) == (1, 300)
    assert tuned["data"] == "train and validation"


def test_counts_are_left_out_where_a_part_is_not_known(folder):
    save_fold(folder.path, "fold-1-of-2", work=Work())
    unknown = BASE._replace(work=None)
    budgets = training_budgets(folder, {"base": (MODEL, unknown), "tuned": (MODEL, BASE)})
    assert list(budgets["base"]) == ["seconds", "device", "data", "parameters", "reward_models"]
    assert "states" not in budgets["tuned"]


def test_multiply_adds_that_were_not_counted_are_left_out(tmp_path):
    result = BASE._replace(work=Work(5, 10, 200))
    budget = training_budgets(RunFolder(tmp_path), {"base": (MODEL, result)})["base"]
    assert "multiply_adds" not in budget
    assert budget["states"] == 200
