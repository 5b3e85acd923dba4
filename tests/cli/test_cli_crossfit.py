"""A reward that needs bases of its own, in a run and in a search."""

import os
import shutil
import signal

import pytest
import torch

from recoach.cli import runs
from recoach.data.prepared import load_dataset
from recoach.experiments import stages
from recoach.training.crossfit import CrossFitted, deal

CHANGES = ("grpo.reward_funcs=['cross_fitted']", "grpo.folds=2", "grpo.max_steps=4")
FOLDS = ["fold-1-of-2", "fold-2-of-2"]


@pytest.fixture
def trained(monkeypatch):
    """Return {stage: number of training items}, in the order in which they were trained."""
    found, plain = {}, stages.pretrain

    def watched(model, dataset, config, context, **options):
        found[context.folder.name] = len(dataset.train.values)
        return plain(model, dataset, config, context, **options)

    monkeypatch.setattr(stages, "pretrain", watched)
    return found


class Stopped(runs.StageProgress):
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
    fold = deal(load_dataset(whole / "dataset"), 2).fold
    kept = [trained["base"] - (fold == number).sum() for number in range(2)]
    assert kept == [trained[stage] for stage in FOLDS]
    assert trained["control"] == trained["base"]
    assert {row["stage"] for row in look.metrics(whole)} == {"base", "tuned", "control", *FOLDS}
    assert set(look.results(whole)["models"]) == {"popularity", "base", "tuned", "control"}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "StageProgress", Stopped)
        assert recoach("run", toml, "--output", broken, "--set", *CHANGES).code == 130
    said = recoach("run", toml, "--output", broken, "--resume", "--set", *CHANGES)
    assert said.code == 0, said.err
    assert "Training the base of fold 2 of 2 (from step 20)" in said.out
    assert said.out.index("Training the base of fold 2") < said.out.index("Fine-tuning with GRPO")
    assert look.numbers(broken) == look.numbers(whole)
    assert look.weights(broken) == look.weights(whole)


def test_the_reward_is_asked_as_the_run_is_set(recoach, toml, tmp_path, monkeypatch):
    asked, plain = [], CrossFitted.__init__

    def watched(self, dataset, fit, args, mask_seen):
        asked.append((args.folds, args.discount, mask_seen))
        plain(self, dataset, fit, args, mask_seen)

    monkeypatch.setattr(CrossFitted, "__init__", watched)
    monkeypatch.setattr(CrossFitted, "weights", lambda self: torch.ones(len(self._dealt.pairs)))
    changes = (*CHANGES, "grpo.discount=0.5", "evaluation.mask_seen=none")
    path = tmp_path / "run"
    assert recoach("run", toml, "--output", path, "--set", *changes).code == 0
    assert asked == [(2, 0.5, "none")]


def test_a_graph_is_the_same_when_its_fold_is_there_already(
    *, recoach, log, tmp_path, trained, look, monkeypatch
):
    loaded, plain = [], stages.load_model

    def watched(directory, dataset):
        loaded.append((directory.name, len(dataset.train.values)))
        return plain(directory, dataset)

    monkeypatch.setattr(stages, "load_model", watched)
    minimal, path = tmp_path / "minimal.toml", tmp_path / "run"
    minimal.write_text(f'[data]\npath = "{log}"\n')
    changes = ("model.name=lightgcn", "model.dim=8", "pretrain.max_steps=20", *CHANGES)
    changes += ("pretrain.hold_out=1", "evaluation.control=false")
    command = ("run", minimal, "--output", path, "--set", *changes)
    assert recoach(*command).code == 0
    assert {*loaded} == {(stage, items) for stage, items in trained.items() if stage != "control"}
    before = look.weights(path)
    shutil.rmtree(path / "checkpoints" / "tuned")
    (path / "results.json").unlink()
    trained.clear()
    assert recoach(*command, "--resume").code == 0
    assert list(trained) == ["base"], "which is finished, and looked at again"
    assert look.weights(path) == before


def test_what_is_finished_needs_no_folds(recoach, toml, tmp_path, trained, look):
    path = tmp_path / "run"
    assert recoach("run", toml, "--output", path, "--set", *CHANGES).code == 0
    before = look.numbers(path)
    for fold in FOLDS:
        shutil.rmtree(path / "checkpoints" / fold)
    trained.clear()
    assert recoach("evaluate", path).code == 0
    assert list(trained) == ["base", "control"], "finished ones, looked at again"
    assert look.numbers(path) == before


def test_what_the_trainer_refuses_is_refused_before_anything_is_trained(
    recoach, toml, tmp_path, trained
):
    changes = (*CHANGES, "grpo.reward_funcs=['cross_fitted', 'rated']")
    said = recoach("run", toml, "--output", tmp_path / "run", "--set", *changes)
    assert said.code == 2
    assert "reward 'rated' needs ratings" in said.err
    assert list(trained) == ["base"]


def test_a_search_trains_the_folds_once(recoach, toml, tmp_path, trained):
    command = ("search", toml, "--output", tmp_path / "search", "--trials", 2)
    command += ("--vary", "grpo.learning_rate=1e-3,2e-3", "--set", *CHANGES)
    said = recoach(*command)
    assert said.code == 0, said.err
    assert list(trained) == ["base", *FOLDS]
    assert said.out.count("Training the base of fold 1 of 2") == 1
