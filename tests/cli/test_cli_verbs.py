"""pretrain, finetune, evaluate, report, data, doctor and compare."""

import gzip
import json
import shutil
import tomllib

import polars as pl
import pytest

from recoach.cli import doctor, runs
from recoach.data.prepared import load_dataset

TINY = ["model.dim=16", "model.layers=1", "pretrain.epochs=3", "pretrain.batch_size=64", "seed=3"]
TINY.append("data.split=leave_last_out")
GRPO = ["finetune.epochs=2", "finetune.batch_size=256", "finetune.patience=0"]


@pytest.fixture(scope="module")
def pretrained(recoach, log, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "run"
    assert recoach("pretrain", log, "--output", path, "--set", *TINY).code == 0
    return path


@pytest.fixture
def base(pretrained, tmp_path):
    return shutil.copytree(pretrained, tmp_path / "base")


def test_a_base_of_future_items_is_fine_tuned_and_its_control_continues_it(
    recoach, log, tmp_path, run_files
):
    path = tmp_path / "run"
    trained = recoach(
        "pretrain", log, "--output", path, "--objective", "future", "--set", *TINY[:-1], "seed=4"
    )
    assert trained.code == 0, trained.err
    record = run_files.results(path)
    assert record["config"]["pretrain"]["objective"] == "future"
    valid = {name: record["models"][name]["valid"]["ndcg@10"] for name in ("base", "popularity")}
    assert valid["base"] > valid["popularity"]
    tuned = recoach("finetune", path, "--set", "finetune.max_steps=2")
    assert tuned.code == 0, tuned.err
    assert {"base", "tuned", "control"} <= set(run_files.results(path)["models"])
    stages = {row["stage"]: row for row in run_files.metrics(path)}
    # Only the cross-entropy with rewarded items logs this; the model's own loss does not.
    assert all("policy/p_mean" in stages[name] for name in ("base", "control"))


def test_pretraining_trains_only_the_base(pretrained, run_files):
    assert set(run_files.results(pretrained)["models"]) == {"popularity", "base"}
    assert [path.name for path in (pretrained / "checkpoints").iterdir()] == ["base"]
    assert (pretrained / "report.html").exists()


def test_pretrain_and_finetune_give_the_same_results_as_run(recoach, base, finished, run_files):
    assert recoach("finetune", base, "--set", *GRPO).code == 0
    assert run_files.weights(base) == run_files.weights(finished)
    assert run_files.numbers(base) == run_files.numbers(finished)


def test_fine_tuning_can_change_only_settings_of_grpo(recoach, base, run_files):
    for change in ("pretrain.epochs=9", "model.dim=8", "seed=1", "evaluation.ks=[3]"):
        result = recoach("finetune", base, "--set", change)
        assert result.code == 2
        assert f"--set {change}" in result.err
        assert "evaluation.control and evaluation.retrain can change" in result.err
    assert tomllib.loads((base / "config.toml").read_text())["finetune"]["enabled"] is False


def test_fine_tuning_can_skip_the_control(recoach, base):
    changes = ["finetune.epochs=1", "finetune.batch_size=512", "evaluation.control=false"]
    assert recoach("finetune", base, "--set", *changes).code == 0
    assert not (base / "checkpoints" / "control").exists()


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_one_base_is_fine_tuned_in_several_folders(recoach, finished, tmp_path, run_files):
    before, output = content(finished), tmp_path / "other"
    (tmp_path / ".other.part").mkdir()  # of a killed process
    words = ("finetune", finished, "--output", output)
    changes = ("--set", "finetune.epochs=1", "evaluation.control=false")
    assert recoach(*words, *changes).code == 0
    assert content(finished) == before
    assert not (tmp_path / ".other.part").exists()
    assert tomllib.loads((output / "config.toml").read_text())["finetune"]["epochs"] == 1
    numbers, others = (run_files.results(run)["models"] for run in (finished, output))
    assert others["base"] == numbers["base"]
    assert set(others) == {"popularity", "base", "tuned"}
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"base", "tuned"}

    result = recoach(*words, *changes)
    assert result.code == 2
    assert "is not empty; choose another --output, or add --resume" in result.err
    assert recoach(*words, *changes, "--resume").code == 0
    best = output / "checkpoints" / "base" / "best.safetensors"
    assert content(finished) == before
    best.unlink()
    best.write_bytes(b"another base")
    result = recoach(*words, *changes, "--resume")
    assert result.code == 2
    assert "another base than" in result.err


def test_a_base_is_not_copied_over_other_files(recoach, finished, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for output, words in (
        (tmp_path / "notes", "is not empty"),
        (finished, "is the run itself"),
    ):
        result = recoach("finetune", finished, "--output", output, "--resume")
        assert result.code == 2
        assert words in result.err
    result = recoach("finetune", tmp_path / "notes", "--output", tmp_path / "new")
    assert result.code == 2
    assert not (tmp_path / "new").exists()


def test_another_fine_tuning_in_the_same_folder_is_refused(recoach, run_copy):
    result = recoach("finetune", run_copy, "--set", "finetune.epochs=3")
    assert result.code == 2
    assert "another finetune.epochs (stored: 2, requested: 3)" in result.err
    assert recoach("finetune", run_copy).code == 0


def test_an_interrupted_fine_tuning_is_resumed(recoach, base, finished, run_files, monkeypatch):
    class Stopping(runs.StageProgress):
        def on_step(self, step, logs):
            if step == 6:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "StageProgress", Stopping)
        result = recoach("finetune", base, "--set", *GRPO)
    assert result.code == 130
    result = recoach("finetune", base, "--set", *GRPO)
    assert result.code == 2
    assert "unfinished fine-tuning; add --resume" in result.err
    assert recoach("evaluate", base).code == 2
    assert recoach("finetune", base, "--resume", "--set", *GRPO).code == 0
    assert run_files.weights(base) == run_files.weights(finished)


def test_an_unfinished_base_is_neither_evaluated_nor_fine_tuned(
    recoach, log, tmp_path, run_files, monkeypatch
):
    class Stopping(runs.StageProgress):
        def on_step(self, step, logs):
            if step == 20:
                raise KeyboardInterrupt

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "StageProgress", Stopping)
        assert recoach("pretrain", log, "--output", path, "--set", *TINY).code == 130
    before = run_files.weights(path)
    for verb, hint in {"evaluate": "unfinished run", "finetune": "no trained base yet"}.items():
        result = recoach(verb, path)
        assert result.code == 2
        assert hint in result.err
    assert recoach("report", path).code == 2
    assert run_files.weights(path) == before


def test_evaluating_again_gives_the_same_numbers(recoach, run_copy, finished, run_files):
    (run_copy / "results.json").unlink()
    (run_copy / "per_user.parquet").unlink()
    result = recoach("evaluate", run_copy)
    assert result.code == 0
    assert run_files.numbers(run_copy) == run_files.numbers(finished)
    assert run_files.metrics(run_copy) == run_files.metrics(finished)
    assert run_files.weights(run_copy) == run_files.weights(finished)
    theirs = pl.read_parquet(finished / "per_user.parquet")
    assert pl.read_parquet(run_copy / "per_user.parquet").equals(theirs)


def test_the_report_is_written_again(recoach, run_copy, finished):
    (run_copy / "report.html").unlink()
    result = recoach("report", run_copy)
    assert result.code == 0
    assert "NDCG@10" in result.out
    assert (run_copy / "report.html").read_text() == (finished / "report.html").read_text()


def test_popularity_is_a_run_like_any_other(recoach, log, tmp_path, run_files):
    path = tmp_path / "run"
    assert recoach("pretrain", log, "--output", path, "--model", "popularity").code == 0
    models = run_files.results(path)["models"]
    assert models["base"]["test"] == models["popularity"]["test"]
    assert recoach("evaluate", path).code == 0
    assert recoach("recommend", path, "--users", "u1").code == 0
    result = recoach("finetune", path)
    assert result.code == 2
    assert "popularity has no weights" in result.err


def test_a_prepared_folder_can_be_used_as_data(recoach, log, tmp_path, run_files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recoach("data", "prepare", log, "--output", "2024").code == 0
    args = ["--model", "popularity", "--output"]
    assert recoach("pretrain", "2024", *args, tmp_path / "a").code == 0  # a path, not a number
    assert recoach("pretrain", log, *args, tmp_path / "b").code == 0
    a, b = (run_files.results(tmp_path / name) for name in "ab")
    assert a["models"]["base"]["test"] == b["models"]["base"]["test"]
    assert a["dataset"]["fingerprint"] == b["dataset"]["fingerprint"]


# data


def test_describe_prints_a_row_for_each_log(recoach, log, tmp_path):
    (tmp_path / "b.tsv").write_text("user\titem\n1\t2\n1\t3\n2\t3\n")
    result = recoach("data", "describe", log, tmp_path / "b.tsv")
    assert result.code == 0
    assert "150" in result.out
    assert "│ none │" in result.out
    assert " 1.50 " in result.out


def test_describe_applies_the_filters_of_prepare(recoach, tmp_path):
    rows = "".join(f"{user},{item}\n" for user in "abc" for item in "xyz") + "d,x\n"
    (tmp_path / "a.csv").write_text("user,item\n" + rows)
    assert "│ 4 │ 3 │ 10 │" in recoach("data", "describe", tmp_path / "a.csv").out
    result = recoach("data", "describe", tmp_path / "a.csv", "--k-core", 3)
    assert "│ 3 │ 3 │ 9 │" in result.out


def test_columns_with_other_names_can_be_mapped(recoach, tmp_path):
    rows = "".join(f"{user},{item},{n}\n" for user in "abc" for n, item in enumerate("xyz"))
    (tmp_path / "a.csv").write_text("wer,was,wann\n" + rows)
    named = ["--column", "user_id=wer", "--column", "item_id=was", "timestamp=wann"]
    assert recoach("data", "describe", tmp_path / "a.csv").code == 2
    assert "1970-01-01" in recoach("data", "describe", tmp_path / "a.csv", *named).out
    where = ["--output", tmp_path / "out", "--k-core", 0]
    assert recoach("data", "prepare", tmp_path / "a.csv", *where, *named).code == 0
    dataset = load_dataset(tmp_path / "out")
    assert dataset.user_ids.to_list() == ["a", "b", "c"]
    assert dataset.item_ids.gather(dataset.test.values).to_list() == ["z"] * 3


def test_prepare_applies_the_k_core(recoach, log, tmp_path):
    sizes = []
    for k in (0, 5, 9):
        where = tmp_path / f"k{k}"
        assert recoach("data", "prepare", log, "--output", where, "--k-core", k).code == 0
        sizes.append(load_dataset(where).n_users)
    assert sizes[0] == sizes[1] == 150
    assert 0 < sizes[2] < 150


def test_prepare_holds_out_several_test_items(recoach, log, tmp_path):
    prepare = ("data", "prepare", log, "--output", tmp_path / "tail", "--test-items")
    assert recoach(*prepare, "3").code == 0
    dataset = load_dataset(tmp_path / "tail")
    assert set(dataset.test.lengths.tolist()) == {3}
    assert set(dataset.valid.lengths.tolist()) == {1}
    refused = recoach(*prepare, "0")
    assert refused.code == 2
    assert "--test-items must be at least 1" in refused.err


def test_a_prepared_folder_is_reused_until_log_or_settings_change(recoach, log, tmp_path):
    log_copy, where = tmp_path / "log.csv", tmp_path / "out"
    shutil.copy(log, log_copy)

    def prepare(*more):
        assert recoach("data", "prepare", log_copy, "--output", where, *more).code == 0
        return (where / "dataset.json").stat().st_mtime_ns

    first = prepare()
    assert prepare() == first
    second = prepare("--k-core", 0)
    assert second != first
    log_copy.write_text(log_copy.read_text() + "u1,i1,1600000000\n")
    assert prepare("--k-core", 0) != second


def test_a_compressed_log_has_the_same_statistics(recoach, log, tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(log.read_bytes()))
    for file in (log, tmp_path / "log.csv.gz"):
        assert "│ 150 │ 40 │ 1,349 │ 8.99 │ 22.4833% │" in recoach("data", "describe", file).out


def test_help_names_every_verb(recoach):
    result = recoach("--help")
    assert result.code == 0
    for verb in ("demo", "run", "pretrain", "finetune", "evaluate", "report", "recommend"):
        assert f" {verb} " in result.out


@pytest.mark.parametrize(
    ("name", "message"),
    [("mlflow", "recoach[trackers]"), ("mlflw", "mlflow")],
    ids=["absent", "typo"],
)
def test_an_unknown_or_missing_tracker_is_refused_before_the_run(
    recoach, log, tmp_path, monkeypatch, name, message
):
    monkeypatch.setattr("recoach.training.trackers.importlib.util.find_spec", lambda _: None)
    out = tmp_path / "run"
    refused = recoach("pretrain", log, "--output", out, "--report-to", name)
    assert refused.code == 2
    assert message in refused.err + refused.out
    assert not out.exists()


def test_the_doctor_lists_installed_and_missing_packages(recoach, monkeypatch):
    result = recoach("doctor")
    assert result.code == 0
    for word in ("Python", "torch", "GPU", "recoach search", "pandas DataFrames"):
        assert word in result.out
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("optuna", "pyarrow") else real(name, *rest),
    )
    result = recoach("doctor").out
    assert "pip install 'recoach[tune]'" in result
    assert "(missing: pyarrow)" in result


def test_the_doctor_lists_every_optional_extra():
    known = set(doctor.extras()) - {"docs", "test", "lint", "fuzz"}
    assert known == set(doctor._EXTRAS)


def test_the_doctor_finds_the_installed_extras(recoach):
    result = recoach("doctor").out
    assert "pip install 'recoach[recbole]'" not in result  # PyYAML's module is called yaml
    assert "pip install 'recoach[serve]'" not in result


@pytest.mark.parametrize(
    ("style", "mark"),
    [("console", "Comparison of runs"), ("markdown", "| --- |"), ("latex", "toprule")],
)
def test_runs_are_compared_in_one_table(recoach, finished, style, mark):
    result = recoach("compare", finished, finished, "--format", style, "--metrics", "ndcg@10")
    assert result.code == 0
    assert mark in result.out
    assert "NDCG@10" in result.out
