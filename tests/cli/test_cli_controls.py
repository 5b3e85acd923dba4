"""`recoach run --controls ladder`."""

import json

import pytest

from recoach.reproduction import controls
from recoach.reproduction.ladder_cells import RUNGS
from recoach.training.trainer import RLTrainer

NAMES = ("recipe", "dense", "scratch", "fut-head")


@pytest.fixture
def few(monkeypatch):
    """Keep four rungs and two learning rates."""
    monkeypatch.setattr(controls, "RATES", (1e-3, 3e-3))
    monkeypatch.setattr(controls, "rungs_of", lambda _: {name: RUNGS[name] for name in NAMES})


@pytest.mark.usefixtures("few")
def test_the_ladder_of_a_run_compares_it_with_its_controls_and_resumes(
    recoach, toml, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    # The heads of SQN need the vectors of a state.
    settings = ("--set", "finetune.max_steps=2", "finetune.horizon=3")
    first = recoach("run", toml, "--output", run, "--controls", "ladder", *settings)
    assert first.code == 0, first.err
    rows = json.loads((run / "ladder.json").read_text())
    assert [(row["rung"], row["stage"]) for row in rows] == [
        ("recipe", "base"),
        ("recipe", "tuned"),
        ("recipe", "control"),
        ("dense", "tuned"),
        ("scratch", "tuned"),
        ("fut-head", "tuned"),
    ]
    assert {row["trials"] for row in rows} == {2}
    config = (run / "ladder" / "dense-0.001-3" / "config.toml").read_text()
    assert "horizon = 3" in config  # the run's own setting
    assert "dense all-action cross-entropy" in (run / "ladder.md").read_text()
    assert "dense all-action cross-entropy" in first.out

    def train(_):
        raise AssertionError("a finished trial is trained again")

    monkeypatch.setattr(RLTrainer, "train", train)
    again = recoach("run", toml, "--output", run, "--controls", "ladder", *settings)
    assert again.code == 0, again.err
    assert json.loads((run / "ladder.json").read_text()) == rows


@pytest.mark.usefixtures("few")
def test_a_rung_that_does_not_fit_the_model_is_left_out_with_its_reason(recoach, toml, tmp_path):
    run = tmp_path / "run"
    settings = ("--set", "model.name=neumf", "model.dim=8", "finetune.max_steps=1")
    minimal = toml.with_name("neumf.toml")
    minimal.write_text(
        f'[data]\npath = "{toml.with_name("log.csv")}"\nsplit = "leave_last_out"\n'
        "[pretrain]\nepochs = 1\n"
    )
    result = recoach("run", minimal, "--output", run, "--controls", "ladder", *settings)
    assert result.code == 0, result.err
    assert "fut-head-0.001: left out." in result.out
    rows = json.loads((run / "ladder.json").read_text())
    assert {row["rung"] for row in rows} == {"recipe", "dense", "scratch"}
