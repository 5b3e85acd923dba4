"""`recoach run`: what it leaves behind, and that it may be repeated, refused, interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from recoach.cli import runs
from recoach.data.prepared import load_dataset
from recoach.evaluation.beyond_accuracy import list_metrics
from recoach.evaluation.evaluator import evaluate, top_lists
from recoach.models import checkpoint
from recoach.models.checkpoint import load_model

STAGES = ("base", "control", "tuned")


def test_a_run_leaves_its_whole_record(finished, look):
    kept = {"config.toml", "env.json", "metrics.jsonl", "results.json", "per_user.parquet"}
    kept |= {"lists.json", "report.html", "dataset", "checkpoints"}
    assert {path.name for path in finished.iterdir()} == kept
    weights = {"model.json", "best.safetensors", "last.safetensors"}
    for stage in STAGES:
        assert {path.name for path in (finished / "checkpoints" / stage).iterdir()} == weights
    assert {row["stage"] for row in look.metrics(finished)} == set(STAGES)


def test_the_results_carry_their_protocol(finished, look):
    record = look.results(finished)
    assert set(record["models"]) == {"popularity", "base", "control", "tuned"}
    protocol = record["protocol"]
    assert protocol["split"] == "leave_last_out"
    assert protocol["ranking"] == "full"
    assert protocol["mask_seen"] == "all"
    assert protocol["ties"] == "against the model"
    assert protocol["n_users"] == record["dataset"]["users"] == 150
    assert protocol["n_items"] == record["dataset"]["items"] == 40
    assert protocol["ks"] == [1, 5, 10, 50]
    assert "step 0 a candidate" in protocol["selection"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_results_are_those_of_the_weights_that_were_kept(finished, look, stage):
    dataset = load_dataset(finished / "dataset")
    model = load_model(finished / "checkpoints" / stage, dataset)
    summary = look.results(finished)["models"][stage]
    for split in ("valid", "test"):
        means = evaluate(model, dataset, split, ks=(1, 5, 10, 50)).means()
        assert summary[split] == pytest.approx(means, abs=1e-6)


def test_the_results_say_what_the_lists_are_like_and_whom_they_serve(finished, look):
    record, dataset = look.results(finished), load_dataset(finished / "dataset")
    for stage in STAGES:
        model = load_model(finished / "checkpoints" / stage, dataset)
        there = record["models"][stage]
        lists = top_lists(model, dataset, np.arange(150), 10)
        assert there["lists"] == pytest.approx(list_metrics(lists, dataset.train, 40), abs=1e-6)
        buckets = there["popularity_buckets"]
        assert sum(bucket["items"] for bucket in buckets) == 40
        hits = sum(bucket["targets"] * bucket["recall@10"] for bucket in buckets)
        assert hits / 150 == pytest.approx(there["test"]["recall@10"], abs=1e-5)


def test_the_control_takes_as_many_steps_as_grpo(finished, look):
    models = look.results(finished)["models"]
    assert models["control"]["steps"] == models["tuned"]["steps"] == 8
    assert {models["control"]["share"], models["tuned"]["share"]} <= {0.25, 0.5, 0.75, 1.0}
    assert "share" not in models["base"]
    steps = {stage: [] for stage in STAGES}
    for row in look.metrics(finished):
        steps[row["stage"]].append(row["step"])
    assert steps == {"base": [15, 30, 45], "tuned": [0, 4, 8], "control": [0, 4, 8]}


def test_the_stages_after_the_base_begin_with_the_base(finished, look):
    rows = {(row["stage"], row["step"]): row for row in look.metrics(finished)}
    kept = look.results(finished)["models"]["base"]["best_step"]
    start = rows["base", kept]["valid/ndcg@10"]
    assert rows["tuned", 0]["valid/ndcg@10"] == rows["control", 0]["valid/ndcg@10"] == start


def test_averages_over_users_are_those_of_the_results(finished, look):
    frame = pl.read_parquet(finished / "per_user.parquet")
    assert frame.height == 4 * 150
    means = frame.drop("user_id").group_by("model").mean().rows_by_key("model", named=True)
    for model, summary in look.results(finished)["models"].items():
        for metric, value in summary["test"].items():
            assert means[model][0][metric] == pytest.approx(value, abs=2e-6)


def test_shown_lists_hold_ten_items_and_the_rank_of_the_target(finished):
    shown = json.loads((finished / "lists.json").read_text())
    assert len(shown) == 6
    for row in shown:
        for model in ("base", "tuned"):
            assert len(row[model]) == 10
            assert not set(row[model]) & set(row["history"])
            place = row[model].index(row["target"]) + 1 if row["target"] in row[model] else None
            assert row[f"{model}_rank"] == place or (place is None and row[f"{model}_rank"] > 10)


def test_the_resolved_settings_repeat_the_run(recoach, finished, tmp_path, look):
    said = recoach("run", finished / "config.toml", "--output", tmp_path / "again")
    assert said.code == 0
    assert look.numbers(tmp_path / "again") == look.numbers(finished)
    assert look.weights(tmp_path / "again") == look.weights(finished)
    again = (tmp_path / "again" / "config.toml").read_text()
    assert again == (finished / "config.toml").read_text()


def test_a_finished_run_is_not_run_again(recoach, mine, toml, look):
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*.safetensors")}
    said = recoach("run", toml, "--output", mine)
    assert said.code == 0
    assert "is finished and is not run again" in said.out
    assert "Training" not in said.out
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("*.safetensors")} == before


def test_the_folder_is_named_after_the_file(recoach, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text(f'finetune = false\n[data]\npath = "{log}"\n')
    changes = ["model.name=popularity"]
    assert recoach("run", "plain.toml", "--set", *changes).code == 0
    assert (tmp_path / "runs" / "plain" / "results.json").exists()


def test_the_console_script_runs_by_itself(toml, tmp_path):
    command = [sys.executable, "-m", "recoach.cli.main", "run", str(toml), "--output", "here"]
    command += ["--set", "model={name='popularity'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "NDCG@10" in done.stdout
    assert (tmp_path / "here" / "report.html").exists()


def stop_at(patch, stage, step, act):
    """Have the callback of a stage act at a step."""

    class Stopping(runs.StageProgress):
        def __init__(self, here):
            super().__init__(here)
            self.here = here

        def on_step(self, number, logs):
            if self.here == stage and number == step:
                act()
            super().on_step(number, logs)

    patch.setattr(runs, "StageProgress", Stopping)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def press_twice():
    press()
    press()


STOPS = {
    "before anything is saved": ("base", 3, interrupt, 130, "Training the base step"),
    "in the base, in the middle of a step": ("base", 20, interrupt, 130, "base (from step 15)"),
    "in the base": ("base", 20, press, 130, "Training the base (from step 20)"),
    "in the base, at the end of an epoch": ("base", 30, press, 130, "base (from step 30)"),
    "twice": ("base", 20, press_twice, 130, "Training the base (from step 15)"),
    "in the tuning": ("tuned", 6, press, 130, "Fine-tuning with GRPO (from step 6)"),
    "in the tuning, at an evaluation": ("tuned", 4, press, 130, "with GRPO (from step 4)"),
    "at the last step of a stage": ("tuned", 8, press, 130, "with GRPO (from step 8)"),
    "in the control, by SIGTERM": (
        "control",
        6,
        terminate,
        143,
        "training of the base (control) (from step 6)",
    ),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    *, recoach, toml, finished, tmp_path, look, monkeypatch, case
):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, *STOPS[case][:3])
        said = recoach("run", toml, "--output", path)
    assert said.code == STOPS[case][3]
    assert "Traceback" not in said.err
    command = f"Continue with: recoach run {toml} --output {path} --resume\n"
    assert said.err.endswith(f"Interrupted. Finished work is saved. {command}")
    assert not (path / "results.json").exists()

    said = recoach("run", toml, "--output", path)
    assert said.code == 2
    assert f"{path} holds an unfinished run; add --resume" in said.err

    said = recoach("run", toml, "--output", path, "--resume")
    assert said.code == 0
    assert STOPS[case][4] in said.out
    assert look.weights(path) == look.weights(finished)
    assert look.numbers(path) == look.numbers(finished)
    assert look.metrics(path) == look.metrics(finished)


def test_a_disk_that_fills_up_in_training_costs_nothing_once_there_is_room(
    recoach, toml, finished, tmp_path, look, monkeypatch
):
    path, calls = tmp_path / "run", []

    def full(where, content):
        calls.append(where)
        if len(calls) == 4:
            raise checkpoint.RunError(f"Cannot write {where}: No space left on device.")
        return write(where, content)

    write = checkpoint.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full)
        said = recoach("run", toml, "--output", path)
    assert said.code == 2
    assert "No space left" in said.err
    assert recoach("run", toml, "--output", path, "--resume").code == 0
    assert look.weights(path) == look.weights(finished)
    assert look.numbers(path) == look.numbers(finished)


def test_other_settings_in_the_same_folder_are_named(recoach, mine, toml, look):
    before = look.files(mine)
    said = recoach("run", toml, "--output", mine, "--set", "pretrain.epochs=5", "--resume")
    assert said.code == 2
    assert "pretrain.epochs (stored: 3, requested: 5)" in said.err
    assert "epochs = 3" in (mine / "config.toml").read_text()
    assert look.files(mine) == before


def test_a_run_of_another_version_is_refused(recoach, mine, toml):
    environment = json.loads((mine / "env.json").read_text())
    (mine / "env.json").write_text(json.dumps(environment | {"run_format": 99}))
    for verb in (["run", toml, "--output"], ["evaluate"], ["finetune"], ["recommend"]):
        said = recoach(*verb, mine)
        assert said.code == 2
        assert "run format 99, this version reads 1" in said.err
    assert json.loads((mine / "env.json").read_text())["run_format"] == 99


def test_a_foreign_folder_is_left_alone(recoach, toml, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    said = recoach("run", toml, "--output", tmp_path / "photos", "--resume")
    assert said.code == 2
    assert "photos is not a run folder" in said.err
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_file_is_no_folder(recoach, toml, tmp_path):
    (tmp_path / "taken").write_text("mine")
    said = recoach("run", toml, "--output", tmp_path / "taken")
    assert said.code == 2
    assert "taken is a file" in said.err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_run_that_got_no_further_than_its_data_begins_anew(recoach, toml, finished, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(finished / "env.json", path)
    shutil.copytree(finished / "dataset", path / "dataset")
    changes = ["model={name='popularity'}", "finetune=false"]
    assert recoach("run", toml, "--output", path, "--set", *changes).code == 0


def test_a_run_stands_alone_without_its_log(recoach, log, tmp_path, look):
    own = shutil.copy(log, tmp_path / "log.csv")
    path = tmp_path / "run"
    assert recoach("pretrain", own, "--output", path, "--model", "popularity").code == 0
    before = look.numbers(path)
    (tmp_path / "log.csv").unlink()
    assert recoach("evaluate", path).code == 0
    assert look.numbers(path) == before


def test_a_log_that_changed_does_not_change_a_run(recoach, log, tmp_path, look):
    own, path = tmp_path / "log.csv", tmp_path / "run"
    shutil.copy(log, own)
    assert recoach("pretrain", own, "--output", path, "--model", "popularity").code == 0
    before = look.numbers(path)
    lines = own.read_text().splitlines(keepends=True)
    own.write_text("".join(lines[: len(lines) // 2]))
    assert recoach("evaluate", path).code == 0
    assert look.numbers(path) == before


def test_what_is_held_out_of_the_base_is_for_grpo_and_the_control(recoach, toml, tmp_path):
    from recoach.experiments import stages

    trained, plain = {}, stages.pretrain

    def watched(model, dataset, config, context, **options):
        trained[context.folder.name] = (config.hold_out, int(model.train_pairs.numel()))
        return plain(model, dataset, config, context, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "pretrain", watched)
        settings = ("model.name=lightgcn", "model.dim=8", "pretrain.hold_out=1", "grpo.max_steps=1")
        minimal = toml.with_name("minimal.toml")
        minimal.write_text(f'[data]\npath = "{toml.with_name("log.csv")}"\n')
        said = recoach("run", minimal, "--output", tmp_path / "run", "--set", *settings)
    assert said.code == 0, said.err
    assert (trained["base"][0], trained["control"][0]) == (1, 0)
    assert trained["base"][1] < trained["control"][1]
