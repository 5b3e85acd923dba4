"""Runs of a suite that share a base."""

import shutil

import polars as pl
import pytest

from recoach.experiments.config import resolve
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.runner import _run
from recoach.simulation.shop import shop
from recoach.training.callbacks import Callback

STAGES = ("base", "base_retrained")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a suite with one finished run, split by time."""
    folder = tmp_path_factory.mktemp("suite")
    log = shop(60, 40, seed=1).interactions
    pl.DataFrame(
        {
            "user_id": log.user_ids.gather(log.users),
            "item_id": log.item_ids.gather(log.items),
            "timestamp": log.times // 1000,
        }
    ).write_csv(folder / "log.csv")
    run(folder, "first", 1e-3)
    return folder


def run(folder, name, rate):
    tables = {
        "data": {"path": str(folder / "log.csv"), "split": {"kind": "time"}},
        "model": {"name": "bprmf", "dim": 4},
        "pretrain": {"epochs": 2},
        "finetune": {"max_steps": 2, "learning_rate": rate},
        "evaluation": {"control": False},
    }
    runs = RunFolder(folder / "runs" / name)
    _run(resolve(tables, "cell"), runs, lambda _: Callback())
    return runs


def weights(runs, stage):
    """Return the bytes of a checkpoint, which hold the seconds of its training."""
    return (runs.checkpoints(stage) / "last.safetensors").read_bytes()


def rows(runs, stage):
    return [row for row in runs.metrics() if row["stage"] == stage]


def test_runs_share_the_base_and_the_base_that_is_trained_again(finished):
    first, second = RunFolder(finished / "runs" / "first"), run(finished, "second", 3e-3)
    for stage in STAGES:
        assert weights(first, stage) == weights(second, stage)
        assert rows(first, stage) == rows(second, stage) != []
    for stage in ("tuned", "tuned_retrained"):
        assert weights(first, stage) != weights(second, stage)


def test_a_folder_that_cannot_be_read_is_passed_over(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    old, damaged = tmp_path / "runs" / "an-old-one", tmp_path / "runs" / "first"
    old.mkdir()
    (old / "config.toml").write_text("[no_such_table]\n")
    for stage in STAGES:
        (damaged / "checkpoints" / stage / "last.safetensors").write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "runs" / "second", ignore_errors=True)
    fresh = run(tmp_path, "third", 3e-3)
    assert all(fresh.is_complete(stage) for stage in STAGES)
    assert (fresh.path / "results.json").exists()
