"""Constraints in a run: settings, results, report, refusals."""

import pytest

from recoach.experiments.constraint_results import _status
from recoach.training.constraint_config import ConstraintConfig

TABLE = """
[[finetune.constraints]]
column = "maker"
member = "m3"
at_least = 0.3

[[finetune.constraints]]
column = "maker"
at_most = 0.9
"""


@pytest.fixture
def constrained(toml, tmp_path):
    items = tmp_path / "items.csv"
    rows = [f"i{n},m{n % 4}" for n in range(40)]
    items.write_text("\n".join(["item_id,maker", *rows]) + "\n")
    text = toml.read_text().replace("[data]", f'[data]\nitems = "{items}"')
    path = tmp_path / "constrained.toml"
    path.write_text(text + TABLE)
    return path


def test_a_run_reports_whether_the_test_lists_keep_its_constraints(
    recoach, constrained, tmp_path, run_files
):
    changes = ("finetune.epochs=12", "finetune.learning_rate=1e-2", "finetune.batch_size=64")
    result = recoach("run", constrained, "--output", tmp_path / "run", "--set", *changes)
    assert result.code == 0, result.err
    floor, cap = run_files.results(tmp_path / "run")["constraints"]
    assert (floor["name"], floor["at_least"]) == ("maker = m3", 0.3)
    assert set(floor["models"]) == {"base", "tuned", "control"}
    tuned, base = floor["models"]["tuned"], floor["models"]["base"]
    assert tuned["low"] <= tuned["value"] <= tuned["high"]
    assert base["value"] < 0.3
    assert tuned["value"] > base["value"]
    assert base["status"] == "violated"
    assert cap["models"]["tuned"]["status"] == "kept"
    assert "Constraint maker = m3, at least 30 %:" in result.out
    assert "Constraint maker, at most 90 %: kept on test with" in result.out


@pytest.mark.parametrize(
    ("settings", "found", "status"),
    [
        ({"at_least": 0.2}, (0.18, 0.2, 0.22), "kept"),
        ({"at_least": 0.2}, (0.18, 0.19, 0.21), "kept within the interval"),
        ({"at_least": 0.2}, (0.17, 0.18, 0.19), "violated"),
        ({"at_most": 0.2}, (0.19, 0.21, 0.22), "kept within the interval"),
        ({"at_most": 0.2}, (0.21, 0.22, 0.23), "violated"),
    ],
)
def test_a_bound_counts_as_kept_within_the_interval_on_its_own_side(settings, found, status):
    config = ConstraintConfig(column="maker", member="m1", **settings)
    assert _status(config, dict(zip(("low", "value", "high"), found, strict=True))) == status


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["evaluation.retrain=true"], "Set evaluation.retrain = false"),
        (["finetune.constraints=[{column='brand', at_most=0.1}]"], "no column 'brand'"),
        (["finetune.constraints=[{column='maker'}]"], "with one of at_least and at_most"),
    ],
)
def test_constraints_that_cannot_be_measured_are_refused_before_training(
    recoach, constrained, tmp_path, changes, message
):
    result = recoach("run", constrained, "--output", tmp_path / "run", "--set", *changes)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "run" / "checkpoints").exists()
