"""`recoach demo`: the simulated shop, interrupted and resumed, and a log."""

import json
import shutil
from dataclasses import replace

import pytest

from recoach.cli import demo
from recoach.demonstration import pipeline
from recoach.experiments import data
from recoach.simulation.purchases import add_purchases
from recoach.simulation.shop import BROWSING, shop

FEW = ("pretrain.epochs=1", "pretrain.batch_size=64", "model.dim=8", "model.layers=1")
OBJECTIVE = (*pipeline.OBJECTIVE, "finetune.max_steps=3", "finetune.eval_steps=3")


@pytest.fixture
def small(monkeypatch):
    """Make the demonstration small: 100 users, 200 items, one epoch, two weights."""

    def make():
        return add_purchases(shop(100, 200, seed=0, n_categories=4, habits=BROWSING))

    monkeypatch.setattr(data, "embedded_purchases", make)
    monkeypatch.setattr(pipeline, "embedded_purchases", make)
    plan = replace(
        demo._PLAN, settings=FEW, objective=OBJECTIVE, weights=(1.0, 4.0), tolerance=0.5, visits=25
    )
    monkeypatch.setattr(demo, "_PLAN", plan)


def test_the_demo_without_data_shows_the_simulated_shop(recoach, small, tmp_path, run_files):
    path = tmp_path / "demo"
    result = recoach("demo", "--output", path)
    assert result.code == 0, result
    assert set(run_files.results(path)["models"]) >= {"base", "tuned", "control"}
    record = json.loads((path / "demo.json").read_text())
    names = [row["method"] for row in record["rows"]]
    assert names[:2] == ["base", "continued training"]
    assert names[3] == "GRPO"
    assert "Value is rewarded: GRPO" in (path / "report.html").read_text()
    chosen = record["rows"][3]
    folders = path, path / "weights" / f"{chosen['knob']:g}"
    files = [run / "checkpoints" / "tuned" / "last.safetensors" for run in folders]
    assert files[0].read_bytes() == files[1].read_bytes()  # with the seconds of its one training
    assert chosen in [{"method": "GRPO", "keeps": True} | one for one in record["methods"]["GRPO"]]
    tuned = run_files.results(path)["models"]["tuned"]
    assert chosen["test"]["ndcg@10"] == pytest.approx(tuned["test"]["ndcg@10"], abs=1e-6)
    assert [row["model"] for row in record["forecasts"]] == ["base", "control", "tuned"]
    assert all(("reasons" in row) != ("forecast" in row) for row in record["forecasts"])
    last = result.out.rstrip().rpartition("Written:")[2]
    assert "demo.svg" in last
    assert last.endswith(("NDCG@10.", "NDCG@10 stays the same.", " %."))

    again = recoach("demo", "--output", path)
    assert again.code == 0
    assert "is finished and is not run again" in again.out
    assert json.loads((path / "demo.json").read_text()) == record
    ope = ("--rewards", path / "rewards.parquet", "--policy", path, "--stage", "base")
    evaluated = recoach("ope", path / "exposures", *ope)
    logged = record["forecasts"][0]
    for text in logged.get("reasons") or [f"{logged['forecast']:.4g}"]:
        assert text in evaluated.out, evaluated


@pytest.mark.slow
def test_an_interrupted_demo_ends_where_the_uninterrupted_one_does(
    recoach, small, tmp_path, monkeypatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    assert recoach("demo", "--output", first).code == 0

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "execute", stop)
        interrupted = recoach("demo", "--output", second)
    assert interrupted.code == 130
    assert f"recoach demo --output {second} --resume" in interrupted.err
    refused = recoach("demo", "--output", second)
    assert refused.code == 2
    assert "add --resume" in refused.err
    assert recoach("demo", "--output", second, "--resume").code == 0
    records = [json.loads((path / "demo.json").read_text()) for path in (first, second)]
    assert records[0] == records[1]


def test_a_run_without_purchases_is_refused(recoach, small, tmp_path, monkeypatch):
    plain = shop(100, 200, seed=0, n_categories=4, habits=BROWSING)
    path = tmp_path / "old"
    full = data.embedded_purchases()
    without = replace(full, interactions=plain.interactions)
    with monkeypatch.context() as patch:
        patch.setattr(data, "embedded_purchases", lambda: without)
        refused = recoach("demo", "--output", path)
    assert refused.code == 2
    assert "has no purchases" in refused.err


def test_torchrun_needs_a_log(recoach, monkeypatch, tmp_path):
    monkeypatch.setattr(demo.distributed, "world_size", lambda: 2)
    refused = recoach("demo", "--output", tmp_path / "demo")
    assert refused.code == 2
    assert "--data FILE" in refused.err


def test_the_demo_runs_all_stages_on_a_log(recoach, log, tmp_path, run_files, monkeypatch):
    few = ("pretrain.epochs=1", "pretrain.batch_size=64", "finetune.epochs=1", "model.dim=8")
    monkeypatch.setattr(demo, "_LOG_SETTINGS", few)
    log_copy = tmp_path / 'my "own" log.csv'
    shutil.copy(log, log_copy)
    result = recoach("demo", "--data", log_copy, "--output", tmp_path / "demo")
    assert result.code == 0, result
    assert set(run_files.results(tmp_path / "demo")["models"]) >= {"base", "tuned", "control"}
