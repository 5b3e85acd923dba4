"""The model of a run that is used where none is named: the best on validation."""

import json

import pytest

import recoach as package
from recoach.cli.serve import file_versions, read_snapshot
from recoach.experiments.results import _served
from recoach.experiments.run_folder import RunFolder
from recoach.report.tables import summary
from recoach.training.algorithms.grpo.config import GRPOConfig

METRIC = "ndcg@10"


def models(**values):
    return {stage: {"valid": {METRIC: value}} for stage, value in values.items()}


@pytest.mark.parametrize(
    ("values", "changes", "served"),
    [
        ({"base": 0.2, "tuned": 0.3, "control": 0.25}, {}, "tuned"),
        ({"base": 0.2, "tuned": 0.3, "control": 0.31}, {}, "control"),
        ({"base": 0.3, "tuned": 0.3, "control": 0.3}, {}, "tuned"),
        ({"base": 0.3, "tuned": 0.2, "control": 0.3}, {"start": "scratch"}, "base"),
        ({"base": 0.2, "tuned": 0.1, "control": 0.3}, {"select": "last"}, "tuned"),
        ({"base": 0.2, "tuned": 0.1, "control": 0.3}, {"select": "best_tuned"}, "tuned"),
        ({"base": 0.2}, {}, "base"),
    ],
)
def test_the_best_model_on_validation_is_served(values, changes, served):
    assert _served(models(**values), GRPOConfig(**changes)) == served


def test_without_validation_metrics_the_fine_tuned_model_is_served():
    assert _served({"base": {}, "tuned": {}, "control": {}}, GRPOConfig()) == "tuned"


def test_a_run_records_which_model_is_served(finished, run_files):
    record = run_files.results(finished)
    values = {name: record["models"][name]["valid"][METRIC] for name in ("base", "tuned")}
    assert values["tuned"] >= values["base"]
    best = max(("tuned", "control"), key=lambda name: record["models"][name]["valid"][METRIC])
    assert record["served"] == best


@pytest.fixture
def with_control(run_copy):
    """Return a run whose control is recorded as the best."""
    path = run_copy / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"served": "control"}))
    return run_copy


def test_continued_training_is_used_everywhere_if_it_is_the_best(recoach, with_control, tmp_path):
    assert package.load(with_control).stage == "control"
    assert package.load(with_control, "tuned").stage == "tuned"
    lists = tmp_path / "lists.csv"
    result = recoach("recommend", with_control, "--users", "u3", "--output", lists)
    assert "of the control model" in result.out
    snapshot = read_snapshot(RunFolder(with_control))
    assert (snapshot.default_model, set(snapshot.models)) == (
        "control",
        {"base", "tuned", "control"},
    )
    record = json.loads((with_control / "results.json").read_text())
    assert "continued training is better" in summary(record)


def test_a_service_notices_new_weights_of_continued_training(with_control):
    before = file_versions(RunFolder(with_control))
    weights = with_control / "checkpoints" / "control" / "best.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert file_versions(RunFolder(with_control)) != before


def test_runs_of_earlier_versions_serve_the_fine_tuned_model(run_copy):
    path = run_copy / "results.json"
    record = json.loads(path.read_text())
    del record["served"]
    path.write_text(json.dumps(record))
    assert package.load(run_copy).stage == "tuned"
    assert list(read_snapshot(RunFolder(run_copy)).models) == ["base", "tuned"]
