"""A reward that needs bases of its own, in a run and in a search."""

import os
import signal

import pytest

from recoach.cli import runs
from recoach.experiments import stages

CHANGES = ("grpo.reward_funcs=['cross_fitted']", "grpo.folds=2", "grpo.max_steps=4")
FOLDS = ["fold-1-of-2", "fold-2-of-2"]


@pytest.fixture
def trained(monkeypatch):
    """Return {stage: number of training items}, in the order in which they were trained."""
    found, plain = {}, stages.pretrain

    def watched(model, dataset, config, session, **options):
        found[session.folder.name] = len(dataset.train.values)
        return plain(model, dataset, config, session, **options)

    monkeypatch.setattr(stages, "pretrain", watched)
    return found


class Stopped(runs.Shown):
    """Presses Ctrl-C in the second fold."""

    def __init__(self, stage):
        super().__init__(stage)
        self.here = stage

    def on_step(self, step, logs):
        """Watch a step."""
        if (self.here, step) == (FOLDS[1], 20):
            os.kill(os.getpid(), signal.SIGINT)
        super().on_step(step, logs)


def test_a_run_trains_a_base_for_each_fold_and_goes_on_where_it_was(
    *, recoach, toml, tmp_path, trained, monkeypatch, look
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert recoach("run", toml, "--output", whole, "--set", *CHANGES).code == 0
    assert list(trained) == ["base", *FOLDS, "control"]
    held = [trained["base"] - trained[fold] for fold in FOLDS]
    users = look.results(whole)["dataset"]["users"]
    assert sum(held) == trained["base"] - users, "all but the first item of each history"
    assert trained["control"] == trained["base"]
    assert {row["stage"] for row in look.metrics(whole)} == {"base", "tuned", "control", *FOLDS}
    assert set(look.results(whole)["models"]) == {"popularity", "base", "tuned", "control"}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "Shown", Stopped)
        assert recoach("run", toml, "--output", broken, "--set", *CHANGES).code == 130
    said = recoach("run", toml, "--output", broken, "--resume", "--set", *CHANGES)
    assert said.code == 0, said.err
    assert "Training the base of fold 2 of 2 (from step 20)" in said.out
    assert look.numbers(broken) == look.numbers(whole)
    assert look.weights(broken) == look.weights(whole)


def test_what_it_pays_comes_from_the_folds(recoach, toml, tmp_path, monkeypatch, look):
    asked = []
    plain = stages.cross_fitted

    def watched(dataset, fit, args, mask_seen):
        asked.append((args.folds, args.discount, mask_seen))
        return plain(dataset, fit, args, mask_seen)

    monkeypatch.setattr(stages, "cross_fitted", watched)
    changes = (*CHANGES, "grpo.discount=0.5", "evaluation.mask_seen=none")
    path = tmp_path / "run"
    assert recoach("run", toml, "--output", path, "--set", *changes).code == 0
    assert asked == [(2, 0.5, "none")]
    first = look.results(path)["diagnostics"]["first"]
    assert first["frac_reward_zero_std"] < 1


def test_a_search_trains_the_folds_once(recoach, toml, tmp_path, trained):
    command = ("search", toml, "--output", tmp_path / "search", "--trials", 2)
    command += ("--vary", "grpo.learning_rate=1e-3,2e-3", "--set", *CHANGES)
    said = recoach(*command)
    assert said.code == 0, said.err
    assert list(trained) == ["base", *FOLDS]
    assert said.out.count("Training the base of fold 1 of 2") == 1
