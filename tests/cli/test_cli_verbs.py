"""pretrain, finetune, evaluate, report, data: one folder handed from verb to verb."""

import gzip
import json
import shutil

import polars as pl
import pytest

from recoach.cli import doctor, runs
from recoach.data.prepared import load_dataset

TINY = ["model.dim=16", "model.layers=1", "pretrain.epochs=3", "pretrain.batch_size=64", "seed=3"]
GRPO = ["grpo.epochs=2", "grpo.batch_size=256", "grpo.patience=0"]


@pytest.fixture(scope="module")
def pretrained(recoach, log, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "run"
    assert recoach("pretrain", log, "--output", path, "--set", *TINY).code == 0
    return path


@pytest.fixture
def base(pretrained, tmp_path):
    return shutil.copytree(pretrained, tmp_path / "base")


def test_pretraining_stops_at_the_base(pretrained, look):
    assert set(look.results(pretrained)["models"]) == {"popularity", "base"}
    assert [path.name for path in (pretrained / "checkpoints").iterdir()] == ["base"]
    assert (pretrained / "report.html").exists()


def test_fine_tuning_afterwards_equals_running_at_once(recoach, base, finished, look):
    assert recoach("finetune", base, "--set", *GRPO).code == 0
    assert look.weights(base) == look.weights(finished)
    assert look.numbers(base) == look.numbers(finished)


def test_fine_tuning_changes_nothing_but_grpo(recoach, base, look):
    for change in ("pretrain.epochs=9", "model.dim=8", "seed=1", "evaluation.ks=[3]"):
        said = recoach("finetune", base, "--set", change)
        assert said.code == 2
        assert f"--set {change}" in said.err
        assert "only grpo can change" in said.err
    assert "finetune = false" in (base / "config.toml").read_text()


def test_fine_tuning_may_leave_the_control_out(recoach, base):
    changes = ["grpo.epochs=1", "grpo.batch_size=512", "evaluation.control=false"]
    assert recoach("finetune", base, "--set", *changes).code == 0
    assert not (base / "checkpoints" / "control").exists()


def test_another_fine_tuning_in_the_same_folder_is_refused(recoach, mine):
    said = recoach("finetune", mine, "--set", "grpo.epochs=3")
    assert said.code == 2
    assert "another grpo.epochs (stored: 2, requested: 3)" in said.err
    assert recoach("finetune", mine).code == 0


def test_an_interrupted_fine_tuning_is_resumed(recoach, base, finished, look, monkeypatch):
    class Stopping(runs.StageProgress):
        def on_step(self, step, logs):
            if step == 6:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "StageProgress", Stopping)
        said = recoach("finetune", base, "--set", *GRPO)
    assert said.code == 130
    said = recoach("finetune", base, "--set", *GRPO)
    assert said.code == 2
    assert "unfinished fine-tuning; add --resume" in said.err
    assert recoach("evaluate", base).code == 2
    assert recoach("finetune", base, "--resume", "--set", *GRPO).code == 0
    assert look.weights(base) == look.weights(finished)


def test_an_unfinished_base_is_neither_judged_nor_tuned(recoach, log, tmp_path, look, monkeypatch):
    class Stopping(runs.StageProgress):
        def on_step(self, step, logs):
            if step == 20:
                raise KeyboardInterrupt

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "StageProgress", Stopping)
        assert recoach("pretrain", log, "--output", path, "--set", *TINY).code == 130
    before = look.weights(path)
    for verb, hint in {"evaluate": "unfinished run", "finetune": "no trained base yet"}.items():
        said = recoach(verb, path)
        assert said.code == 2
        assert hint in said.err
    assert recoach("report", path).code == 2
    assert look.weights(path) == before


def test_evaluating_again_gives_the_same_numbers(recoach, mine, finished, look):
    (mine / "results.json").unlink()
    (mine / "per_user.parquet").unlink()
    said = recoach("evaluate", mine)
    assert said.code == 0
    assert look.numbers(mine) == look.numbers(finished)
    assert look.metrics(mine) == look.metrics(finished)
    assert look.weights(mine) == look.weights(finished)
    theirs = pl.read_parquet(finished / "per_user.parquet")
    assert pl.read_parquet(mine / "per_user.parquet").equals(theirs)


def test_the_report_is_written_again(recoach, mine, finished):
    (mine / "report.html").unlink()
    said = recoach("report", mine)
    assert said.code == 0
    assert "NDCG@10" in said.out
    assert (mine / "report.html").read_text() == (finished / "report.html").read_text()


def test_popularity_is_a_run_like_any_other(recoach, log, tmp_path, look):
    path = tmp_path / "run"
    assert recoach("pretrain", log, "--output", path, "--model", "popularity").code == 0
    models = look.results(path)["models"]
    assert models["base"]["test"] == models["popularity"]["test"]
    assert recoach("evaluate", path).code == 0
    assert recoach("recommend", path, "--users", "u1").code == 0
    said = recoach("finetune", path)
    assert said.code == 2
    assert "popularity has no weights" in said.err


def test_a_prepared_folder_serves_as_data(recoach, log, tmp_path, look, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recoach("data", "prepare", log, "--output", "2024").code == 0
    args = ["--model", "popularity", "--output"]
    assert recoach("pretrain", "2024", *args, tmp_path / "a").code == 0  # a path, not a number
    assert recoach("pretrain", log, *args, tmp_path / "b").code == 0
    a, b = (look.results(tmp_path / name) for name in "ab")
    assert a["models"]["base"]["test"] == b["models"]["base"]["test"]
    assert a["dataset"]["fingerprint"] == b["dataset"]["fingerprint"]


def test_the_demo_takes_a_log_and_goes_all_the_way(recoach, log, tmp_path, look, monkeypatch):
    few = ("pretrain.epochs=1", "pretrain.batch_size=64", "grpo.epochs=1", "model.dim=8")
    monkeypatch.setattr(runs, "_DEMO_SETTINGS", few)
    own = tmp_path / 'my "own" log.csv'
    shutil.copy(log, own)
    said = recoach("demo", "--data", own, "--output", tmp_path / "demo")
    assert said.code == 0, said
    assert set(look.results(tmp_path / "demo")["models"]) >= {"base", "tuned", "control"}


def test_the_demo_without_data_is_the_shop(recoach, tmp_path, look, monkeypatch):
    monkeypatch.setattr(runs, "_DEMO_SETTINGS", ("model={name='popularity'}",))
    assert recoach("demo", "--output", tmp_path / "demo").code == 0
    assert look.results(tmp_path / "demo")["dataset"]["name"] == "shop"
    shown = json.loads((tmp_path / "demo" / "lists.json").read_text())
    assert not shown[0]["target"].isdigit()  # titles, not numbers


# data


def test_describe_prints_a_row_for_each_log(recoach, log, tmp_path):
    (tmp_path / "b.tsv").write_text("user\titem\n1\t2\n1\t3\n2\t3\n")
    said = recoach("data", "describe", log, tmp_path / "b.tsv")
    assert said.code == 0
    assert "150" in said.out
    assert "│ none │" in said.out
    assert " 1.50 " in said.out


def test_describe_filters_as_prepare_does(recoach, tmp_path):
    rows = "".join(f"{user},{item}\n" for user in "abc" for item in "xyz") + "d,x\n"
    (tmp_path / "a.csv").write_text("user,item\n" + rows)
    assert "│ 4 │ 3 │ 10 │" in recoach("data", "describe", tmp_path / "a.csv").out
    said = recoach("data", "describe", tmp_path / "a.csv", "--k-core", 3)
    assert "│ 3 │ 3 │ 9 │" in said.out


def test_columns_with_unusual_names_are_mapped(recoach, tmp_path):
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


def test_the_core_of_a_prepared_set_is_the_one_asked_for(recoach, log, tmp_path):
    sizes = []
    for k in (0, 5, 9):
        where = tmp_path / f"k{k}"
        assert recoach("data", "prepare", log, "--output", where, "--k-core", k).code == 0
        sizes.append(load_dataset(where).n_users)
    assert sizes[0] == sizes[1] == 150
    assert 0 < sizes[2] < 150


def test_a_longer_test_tail_is_held_out_where_asked_for(recoach, log, tmp_path):
    prepare = ("data", "prepare", log, "--output", tmp_path / "tail", "--test-items")
    assert recoach(*prepare, "3").code == 0
    dataset = load_dataset(tmp_path / "tail")
    assert set(dataset.test.lengths.tolist()) == {3}
    assert set(dataset.valid.lengths.tolist()) == {1}
    refused = recoach(*prepare, "0")
    assert refused.code == 2
    assert "--test-items must be at least 1" in refused.err


def test_a_prepared_set_is_reused_until_something_changes(recoach, log, tmp_path):
    own, where = tmp_path / "log.csv", tmp_path / "out"
    shutil.copy(log, own)

    def made(*more):
        assert recoach("data", "prepare", own, "--output", where, *more).code == 0
        return (where / "dataset.json").stat().st_mtime_ns

    first = made()
    assert made() == first
    second = made("--k-core", 0)
    assert second != first
    own.write_text(own.read_text() + "u1,i1,1600000000\n")
    assert made("--k-core", 0) != second


def test_a_compressed_log_is_the_same_log(recoach, log, tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(log.read_bytes()))
    for file in (log, tmp_path / "log.csv.gz"):
        assert "│ 150 │ 40 │ 1,349 │ 8.99 │ 22.4833% │" in recoach("data", "describe", file).out


def test_help_names_every_verb(recoach):
    said = recoach("--help")
    assert said.code == 0
    for verb in ("demo", "run", "pretrain", "finetune", "evaluate", "report", "recommend"):
        assert f" {verb} " in said.out


@pytest.mark.parametrize(
    ("name", "told"), [("mlflow", "recoach[trackers]"), ("mlflw", "mlflow")], ids=["absent", "typo"]
)
def test_a_tracker_that_cannot_be_is_refused_before_anything_begins(
    recoach, log, tmp_path, monkeypatch, name, told
):
    monkeypatch.setattr("recoach.experiments.trackers.importlib.util.find_spec", lambda _: None)
    out = tmp_path / "run"
    refused = recoach("pretrain", log, "--output", out, "--report-to", name)
    assert refused.code == 2
    assert told in refused.err + refused.out
    assert not out.exists()


def test_the_doctor_names_what_is_here_and_what_is_missing(recoach, monkeypatch):
    plain = recoach("doctor")
    assert plain.code == 0
    for word in ("Python", "torch", "GPU", "recoach search", "pandas DataFrames"):
        assert word in plain.out
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("optuna", "pyarrow") else real(name, *rest),
    )
    told = recoach("doctor").out
    assert "pip install 'recoach[tune]'" in told
    assert "(missing: pyarrow)" in told


def test_the_doctor_knows_every_extra_a_user_can_choose():
    known = set(doctor.extras()) - {"docs", "test", "lint", "fuzz"}
    assert known == set(doctor._EXTRAS)


def test_the_doctor_finds_what_the_tests_have_installed(recoach):
    told = recoach("doctor").out
    assert "pip install 'recoach[recbole]'" not in told  # PyYAML's module is called yaml
    assert "pip install 'recoach[serve]'" not in told


@pytest.mark.parametrize(
    ("style", "mark"),
    [("console", "Comparison of runs"), ("markdown", "| --- |"), ("latex", "toprule")],
)
def test_runs_are_compared_in_one_table(recoach, finished, style, mark):
    told = recoach("compare", finished, finished, "--format", style, "--metrics", "ndcg@10")
    assert told.code == 0
    assert mark in told.out
    assert "NDCG@10" in told.out
