"""The cross-fitted reward, which trains a base for each fold, in runs and searches."""

import os
import shutil
import signal

import pytest
import torch

from recoach.cli import runs
from recoach.data.prepared import load_dataset
from recoach.experiments import stages
from recoach.training.crossfit import CrossFitted, deal

CHANGES = ("finetune.reward_funcs=['cross_fitted']", "finetune.folds=2", "finetune.max_steps=4")
FOLDS = ["fold-1-of-2", "fold-2-of-2"]


@pytest.fixture
def trained(monkeypatch):
    """Return {stage: number of training items}, in the order in which they were trained."""
    item_counts, original = {}, stages.pretrain

    def recording(model, dataset, config, context, **options):
        item_counts[context.folder.name] = len(dataset.train.values)
        return original(model, dataset, config, context, **options)

    monkeypatch.setattr(stages, "pretrain", recording)
    return item_counts


class Stopped(runs.StageProgress):
    """Sends SIGINT while the second fold is trained."""

    def __init__(self, stage):
        super().__init__(stage)
        self.stage_name = stage

    def on_step(self, step, logs):
        """Send the signal at step 20."""
        if (self.stage_name, step) == (FOLDS[1], 20):
            os.kill(os.getpid(), signal.SIGINT)
        super().on_step(step, logs)


def test_a_run_trains_a_base_for_each_fold_and_resumes(
    *, recoach, toml, tmp_path, trained, monkeypatch, run_files
):
    complete, interrupted = tmp_path / "whole", tmp_path / "broken"
    assert recoach("run", toml, "--output", complete, "--set", *CHANGES).code == 0
    assert list(trained) == ["base", *FOLDS, "control"]
    fold = deal(load_dataset(complete / "dataset"), 2).fold
    expected = [trained["base"] - (fold == number).sum() for number in range(2)]
    assert expected == [trained[stage] for stage in FOLDS]
    assert trained["control"] == trained["base"]
    assert {row["stage"] for row in run_files.metrics(complete)} == {
        "base",
        "tuned",
        "control",
        *FOLDS,
    }
    assert set(run_files.results(complete)["models"]) == {"popularity", "base", "tuned", "control"}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "StageProgress", Stopped)
        assert recoach("run", toml, "--output", interrupted, "--set", *CHANGES).code == 130
    result = recoach("run", toml, "--output", interrupted, "--resume", "--set", *CHANGES)
    assert result.code == 0, result.err
    assert "Training the base of fold 2 of 2 (from step 20)" in result.out
    assert result.out.index("Training the base of fold 2") < result.out.index("Fine-tuning")
    assert run_files.numbers(interrupted) == run_files.numbers(complete)
    assert run_files.weights(interrupted) == run_files.weights(complete)


def test_the_reward_uses_the_settings_of_the_run(recoach, toml, tmp_path, monkeypatch):
    settings, original = [], CrossFitted.__init__

    def recording(self, dataset, fit, args, repeats):
        settings.append((args.folds, args.discount, repeats))
        original(self, dataset, fit, args, repeats)

    monkeypatch.setattr(CrossFitted, "__init__", recording)
    monkeypatch.setattr(CrossFitted, "weights", lambda self: torch.ones(len(self._dealt.pairs)))
    changes = (*CHANGES, "finetune.discount=0.5", "evaluation.repeats=all")
    path = tmp_path / "run"
    assert recoach("run", toml, "--output", path, "--set", *changes).code == 0
    assert settings == [(2, 0.5, "all")]


def test_a_graph_model_gives_the_same_weights_with_existing_folds(
    *, recoach, log, tmp_path, trained, run_files, monkeypatch
):
    loaded, original = [], stages.load_model

    def recording(directory, dataset):
        loaded.append((directory.name, len(dataset.train.values)))
        return original(directory, dataset)

    monkeypatch.setattr(stages, "load_model", recording)
    minimal, path = tmp_path / "minimal.toml", tmp_path / "run"
    minimal.write_text(f'[data]\npath = "{log}"\nsplit = "leave_last_out"\n')
    changes = ("model.name=lightgcn", "model.dim=8", "pretrain.max_steps=20", *CHANGES)
    changes += ("pretrain.hold_out=1", "evaluation.control=false")
    command = ("run", minimal, "--output", path, "--set", *changes)
    assert recoach(*command).code == 0
    assert {*loaded} == {(stage, items) for stage, items in trained.items() if stage != "control"}
    before = run_files.weights(path)
    shutil.rmtree(path / "checkpoints" / "tuned")
    (path / "results.json").unlink()
    trained.clear()
    assert recoach(*command, "--resume").code == 0
    assert list(trained) == ["base"], "the finished base is loaded"
    assert run_files.weights(path) == before


def test_a_finished_run_is_evaluated_without_its_folds(recoach, toml, tmp_path, trained, run_files):
    path = tmp_path / "run"
    assert recoach("run", toml, "--output", path, "--set", *CHANGES).code == 0
    before = run_files.numbers(path)
    for fold in FOLDS:
        shutil.rmtree(path / "checkpoints" / fold)
    trained.clear()
    assert recoach("evaluate", path).code == 0
    assert list(trained) == ["base", "control"], "the finished stages are loaded"
    after = run_files.numbers(path)
    for record in (before, after):  # the work of the folds is recorded in their folders
        record["models"]["tuned"].pop("budget")
    assert after == before


def test_an_invalid_reward_is_refused_before_anything_is_trained(recoach, toml, tmp_path, trained):
    changes = (*CHANGES, "finetune.reward_funcs=['cross_fitted', 'rated']")
    result = recoach("run", toml, "--output", tmp_path / "run", "--set", *changes)
    assert result.code == 2
    assert "reward 'rated' needs ratings" in result.err
    assert list(trained) == []


def test_a_search_trains_the_folds_once(recoach, toml, tmp_path, trained):
    command = ("search", toml, "--output", tmp_path / "search", "--trials", 2)
    command += ("--vary", "finetune.learning_rate=1e-3,2e-3", "--set", *CHANGES)
    result = recoach(*command)
    assert result.code == 0, result.err
    assert list(trained) == ["base", *FOLDS]
    assert result.out.count("Training the base of fold 1 of 2") == 1
