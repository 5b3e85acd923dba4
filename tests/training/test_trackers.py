"""Trackers log the rows of metrics.jsonl; each test needs the tracker installed."""

import importlib.util

import pytest

from recoach.errors import ConfigError
from recoach.experiments.config import read_config
from recoach.training import trackers as module
from recoach.training.callbacks import TrainResult
from recoach.training.trackers import check_trackers, trackers

ROWS = [
    {"step": 0, "epoch": 0, "seconds": 0.5, "valid/ndcg@10": 0.1},
    {"step": 7, "epoch": 1, "seconds": 1.5, "loss": 2.0, "valid/ndcg@10": 0.2},
]
END = TrainResult(7, 1.5, 7, 0.2, 0.1)
CONFIG = read_config(None, ["finetune.beta=0.25"])


def log_rows(name, tmp_path, rows=ROWS):
    (tracker,) = trackers([name], CONFIG.tables(), tmp_path / "run", "tuned")
    for row in rows:
        tracker.on_row(row)
    tracker.on_end(END)


def test_a_tracker_that_is_not_installed_is_rejected(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mlflow: it is not installed.*recoach\[trackers\]"):
        check_trackers(["mlflow"])
    check_trackers([])


def test_tensorboard_logs_every_metric(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_rows("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "tuned"))
    events.Reload()
    scalars = [(one.step, round(one.value, 6)) for one in events.Scalars("valid/ndcg@10")]
    assert scalars == [(0, 0.1), (7, 0.2)]
    assert [one.step for one in events.Scalars("loss")] == [7]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_continues_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_rows("mlflow", tmp_path, ROWS[:1])
    log_rows("mlflow", tmp_path, ROWS[1:])
    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("run")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "valid/ndcg_at_10")
    assert [(one.step, one.value) for one in history] == [(0, 0.1), (7, 0.2)]
    assert run.data.params["finetune.beta"] == "0.25"
    assert run.info.status == "FINISHED"


@pytest.mark.filterwarnings("ignore")
def test_wandb_logs_offline(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("could not import 'wandb'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_rows("wandb", tmp_path)
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
