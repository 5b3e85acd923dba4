"""`recoach run`: its files, and how it repeats, resumes and refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys

import polars as pl
import pytest

from recoach.cli import runs
from recoach.data.prepared import load_dataset
from recoach.data.targets import targets_of
from recoach.evaluation.beyond_accuracy import RecommendationLists, list_metrics
from recoach.evaluation.evaluator import evaluate, top_lists
from recoach.models import checkpoint
from recoach.models.checkpoint import load_model
from recoach.models.registry import build_model

STAGES = ("base", "control", "tuned")


def test_a_run_writes_all_its_files(finished, run_files):
    files = {"config.toml", "env.json", "metrics.jsonl", "results.json", "per_user.parquet"}
    files |= {"lists.json", "report.html", "dataset", "checkpoints"}
    assert {path.name for path in finished.iterdir()} == files
    weights = {"model.json", "best.safetensors", "last.safetensors"}
    for stage in STAGES:
        assert {path.name for path in (finished / "checkpoints" / stage).iterdir()} == weights
    assert {row["stage"] for row in run_files.metrics(finished)} == set(STAGES)


def test_the_results_contain_the_evaluation_protocol(finished, run_files):
    record = run_files.results(finished)
    assert set(record["models"]) == {"popularity", "base", "control", "tuned"}
    protocol = record["protocol"]
    assert protocol["split"] == "leave_last_out"
    assert protocol["ranking"] == "full"
    assert protocol["repeats"] == "new"
    assert protocol["ties"] == "against the model"
    # Every repeated test item is left out, and here each user has one test item.
    assert record["dataset"]["users"] == 150
    assert protocol["n_users"] == 150 - protocol["excluded"]["repeated items"] == 130
    assert protocol["n_items"] == record["dataset"]["items"] == 40
    assert protocol["ks"] == [1, 5, 10, 50]
    assert "step 0 a candidate" in protocol["selection"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_results_are_those_of_the_selected_weights(finished, run_files, stage):
    dataset = load_dataset(finished / "dataset")
    model = load_model(finished / "checkpoints" / stage, dataset)
    summary = run_files.results(finished)["models"][stage]
    for split in ("valid", "test"):
        means = evaluate(model, dataset, split, ks=(1, 5, 10, 50)).means()
        assert summary[split] == pytest.approx(means, abs=1e-6)


def test_the_results_contain_beyond_accuracy_metrics_and_item_groups(finished, run_files):
    record, dataset = run_files.results(finished), load_dataset(finished / "dataset")
    targets = targets_of(dataset, "test")
    pairs = (targets.states, targets.items)
    popular = top_lists(build_model("popularity", dataset), dataset, targets, 10)
    for stage in STAGES:
        model = load_model(finished / "checkpoints" / stage, dataset)
        model_results = record["models"][stage]
        lists = RecommendationLists(
            top_lists(model, dataset, targets, 10), dataset.train, 40, pairs, popular
        )
        assert model_results["lists"] == pytest.approx(list_metrics(lists), abs=1e-6)
        buckets = model_results["popularity_buckets"]
        assert sum(bucket["items"] for bucket in buckets) == 40
        hits = sum(bucket["targets"] * bucket["recall@10"] for bucket in buckets)
        assert hits / 130 == pytest.approx(model_results["test"]["recall@10"], abs=1e-5)


def test_the_results_have_intervals_and_adjust_all_but_the_primary_metric(finished, run_files):
    record = run_files.results(finished)
    assert record["protocol"]["primary"] == "ndcg@10"
    assert record["protocol"]["control_missing"] is None
    assert record["resolved"]["finetune.state"] == "prefix"
    for stage in STAGES:
        found = record["models"][stage]
        values = [(found["test"], found["intervals"]), (found["lists"], found["list_intervals"])]
        for means, intervals in values:
            assert all(low <= means[name] <= high for name, (low, high) in intervals.items())
        assert set(found["intervals"]) == set(found["test"])
        for group in found["popularity_buckets"] + found["activity_groups"]:
            assert group["interval"][0] <= group["recall@10"] <= group["interval"][1]
    family = {f"{name}@{k}" for name in ("recall", "ndcg") for k in (1, 5, 10, 50)} - {"ndcg@10"}
    for entry in record["comparisons"]:
        assert ("adjusted" in entry) == (entry["metric"] in family)
        if "adjusted" in entry:
            adjusted = entry["adjusted"]
            assert adjusted["low"] <= entry["low"] <= entry["high"] <= adjusted["high"]
            assert adjusted["p_value"] >= entry["p_value"]


def test_the_control_takes_as_many_steps_as_grpo(finished, run_files):
    models = run_files.results(finished)["models"]
    assert models["control"]["steps"] == models["tuned"]["steps"] == 8
    assert {models["control"]["share"], models["tuned"]["share"]} <= {0.25, 0.5, 0.75, 1.0}
    assert "share" not in models["base"]
    steps = {stage: [] for stage in STAGES}
    for row in run_files.metrics(finished):
        steps[row["stage"]].append(row["step"])
    assert steps == {"base": [15, 30, 45], "tuned": [0, 4, 8], "control": [0, 4, 8]}


def test_control_and_fine_tuning_start_from_the_base(finished, run_files):
    rows = {(row["stage"], row["step"]): row for row in run_files.metrics(finished)}
    best_step = run_files.results(finished)["models"]["base"]["best_step"]
    start = rows["base", best_step]["valid/ndcg@10"]
    assert rows["tuned", 0]["valid/ndcg@10"] == rows["control", 0]["valid/ndcg@10"] == start


def test_the_per_user_metrics_average_to_the_results(finished, run_files):
    frame = pl.read_parquet(finished / "per_user.parquet")
    assert frame.height == 4 * 130
    means = frame.drop("user_id").group_by("model").mean().rows_by_key("model", named=True)
    for model, summary in run_files.results(finished)["models"].items():
        for metric, value in summary["test"].items():
            assert means[model][0][metric] == pytest.approx(value, abs=2e-6)


def test_example_lists_have_ten_items_and_the_rank_of_the_target(finished):
    entries = json.loads((finished / "lists.json").read_text())
    assert len(entries) == 6
    for row in entries:
        for model in ("base", "tuned"):
            assert len(row[model]) == 10
            assert not set(row[model]) & set(row["history"])
            place = row[model].index(row["target"]) + 1 if row["target"] in row[model] else None
            assert row[f"{model}_rank"] == place or (place is None and row[f"{model}_rank"] > 10)


def test_the_written_settings_reproduce_the_run(recoach, finished, tmp_path, run_files):
    result = recoach("run", finished / "config.toml", "--output", tmp_path / "again")
    assert result.code == 0
    assert run_files.numbers(tmp_path / "again") == run_files.numbers(finished)
    assert run_files.weights(tmp_path / "again") == run_files.weights(finished)
    again = (tmp_path / "again" / "config.toml").read_text()
    assert again == (finished / "config.toml").read_text()


def test_a_finished_run_is_not_run_again(recoach, run_copy, toml, run_files):
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*.safetensors")}
    result = recoach("run", toml, "--output", run_copy)
    assert result.code == 0
    assert "is finished and is not run again" in result.out
    assert "Training" not in result.out
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*.safetensors")} == before


def test_the_folder_is_named_after_the_file(recoach, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text(f'finetune.enabled = false\n[data]\npath = "{log}"\n')
    changes = ["model.name=popularity"]
    assert recoach("run", "plain.toml", "--set", *changes).code == 0
    assert (tmp_path / "runs" / "plain" / "results.json").exists()


def test_the_module_runs_as_a_program(toml, tmp_path):
    command = [sys.executable, "-m", "recoach.cli.main", "run", str(toml), "--output", "here"]
    command += ["--set", "model={name='popularity'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "NDCG@10" in done.stdout
    assert (tmp_path / "here" / "report.html").exists()


def stop_at(patch, stage, step, act):
    """Call `act` at a step of a stage."""

    class Stopping(runs.StageProgress):
        def __init__(self, stage_name):
            super().__init__(stage_name)
            self.stage_name = stage_name

        def on_step(self, number, logs):
            if self.stage_name == stage and number == step:
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
    "before the first checkpoint": ("base", 3, interrupt, 130, "Training the base step"),
    "in the base, in the middle of a step": ("base", 20, interrupt, 130, "base (from step 15)"),
    "in the base": ("base", 20, press, 130, "Training the base (from step 20)"),
    "in the base, at the end of an epoch": ("base", 30, press, 130, "base (from step 30)"),
    "twice": ("base", 20, press_twice, 130, "Training the base (from step 15)"),
    "in the tuning": ("tuned", 6, press, 130, "Fine-tuning (from step 6)"),
    "in the tuning, at an evaluation": ("tuned", 4, press, 130, "Fine-tuning (from step 4)"),
    "at the last step of a stage": ("tuned", 8, press, 130, "Fine-tuning (from step 8)"),
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
    *, recoach, toml, finished, tmp_path, run_files, monkeypatch, case
):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, *STOPS[case][:3])
        result = recoach("run", toml, "--output", path)
    assert result.code == STOPS[case][3]
    assert "Traceback" not in result.err
    command = f"Continue with: recoach run {toml} --output {path} --resume\n"
    assert result.err.endswith(f"Interrupted. Finished work is saved. {command}")
    assert not (path / "results.json").exists()

    result = recoach("run", toml, "--output", path)
    assert result.code == 2
    assert f"{path} holds an unfinished run; add --resume" in result.err

    result = recoach("run", toml, "--output", path, "--resume")
    assert result.code == 0
    assert STOPS[case][4] in result.out
    assert run_files.weights(path) == run_files.weights(finished)
    assert run_files.numbers(path) == run_files.numbers(finished)
    assert run_files.metrics(path) == run_files.metrics(finished)


def test_a_run_resumes_after_a_full_disk(recoach, toml, finished, tmp_path, run_files, monkeypatch):
    path, calls = tmp_path / "run", []

    def full(where, content):
        calls.append(where)
        if len(calls) == 4:
            raise checkpoint.RunError(f"Cannot write {where}: No space left on device.")
        return write(where, content)

    write = checkpoint.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full)
        result = recoach("run", toml, "--output", path)
    assert result.code == 2
    assert "No space left" in result.err
    assert recoach("run", toml, "--output", path, "--resume").code == 0
    assert run_files.weights(path) == run_files.weights(finished)
    assert run_files.numbers(path) == run_files.numbers(finished)


def test_other_settings_in_the_same_folder_are_named(recoach, run_copy, toml, run_files):
    before = run_files.files(run_copy)
    result = recoach("run", toml, "--output", run_copy, "--set", "pretrain.epochs=5", "--resume")
    assert result.code == 2
    assert "pretrain.epochs (stored: 3, requested: 5)" in result.err
    assert "epochs = 3" in (run_copy / "config.toml").read_text()
    assert run_files.files(run_copy) == before


def test_a_run_of_another_version_is_refused(recoach, run_copy, toml):
    environment = json.loads((run_copy / "env.json").read_text())
    (run_copy / "env.json").write_text(json.dumps(environment | {"run_format": 99}))
    for verb in (["run", toml, "--output"], ["evaluate"], ["finetune"], ["recommend"]):
        result = recoach(*verb, run_copy)
        assert result.code == 2
        assert "run format 99, this version reads 1" in result.err
    assert json.loads((run_copy / "env.json").read_text())["run_format"] == 99


def test_a_folder_with_other_files_is_left_alone(recoach, toml, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    result = recoach("run", toml, "--output", tmp_path / "photos", "--resume")
    assert result.code == 2
    assert "photos is not a run folder" in result.err
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_file_as_output_is_refused(recoach, toml, tmp_path):
    (tmp_path / "taken").write_text("mine")
    result = recoach("run", toml, "--output", tmp_path / "taken")
    assert result.code == 2
    assert "taken is a file" in result.err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_run_that_has_only_its_data_starts_again(recoach, toml, finished, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(finished / "env.json", path)
    shutil.copytree(finished / "dataset", path / "dataset")
    changes = ["model={name='popularity'}", "finetune.enabled=false"]
    assert recoach("run", toml, "--output", path, "--set", *changes).code == 0


def test_a_run_is_evaluated_without_its_log(recoach, log, tmp_path, run_files):
    log_copy = shutil.copy(log, tmp_path / "log.csv")
    path = tmp_path / "run"
    assert recoach("pretrain", log_copy, "--output", path, "--model", "popularity").code == 0
    before = run_files.numbers(path)
    (tmp_path / "log.csv").unlink()
    assert recoach("evaluate", path).code == 0
    assert run_files.numbers(path) == before


def test_a_log_that_changed_does_not_change_a_run(recoach, log, tmp_path, run_files):
    log_copy, path = tmp_path / "log.csv", tmp_path / "run"
    shutil.copy(log, log_copy)
    assert recoach("pretrain", log_copy, "--output", path, "--model", "popularity").code == 0
    before = run_files.numbers(path)
    lines = log_copy.read_text().splitlines(keepends=True)
    log_copy.write_text("".join(lines[: len(lines) // 2]))
    assert recoach("evaluate", path).code == 0
    assert run_files.numbers(path) == before


def test_items_held_out_of_the_base_are_used_by_grpo_and_the_control(recoach, toml, tmp_path):
    from recoach.experiments import stages

    trained, original = {}, stages.pretrain

    def recording(model, dataset, config, context, **options):
        trained[context.folder.name] = (config.hold_out, int(model.train_pairs.numel()))
        return original(model, dataset, config, context, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "pretrain", recording)
        settings = (
            "data.split=leave_last_out",
            "model.name=lightgcn",
            "model.dim=8",
            "pretrain.hold_out=1",
            "finetune.max_steps=1",
        )
        minimal = toml.with_name("minimal.toml")
        minimal.write_text(f'[data]\npath = "{toml.with_name("log.csv")}"\n')
        result = recoach("run", minimal, "--output", tmp_path / "run", "--set", *settings)
    assert result.code == 0, result.err
    assert (trained["base"][0], trained["control"][0]) == (1, 0)
    assert trained["base"][1] < trained["control"][1]
