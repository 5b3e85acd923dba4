"""A run folder: atomic files, rows replaced on resumption, settings compared by name."""

import json
import shutil

import polars as pl
import pytest

from recoach.data.protocol import Given
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, DataError, RunError
from recoach.experiments import stages
from recoach.experiments.config import read_config
from recoach.experiments.data import run_dataset
from recoach.experiments.run_folder import RunFolder, write_frame
from recoach.experiments.stages import Run, planned_stages
from recoach.models.registry import build_model
from recoach.training.callbacks import Callback, TrainResult
from toy_logs import cycle

DATA = leave_last_out(cycle(16, 12, length=7))
FRAME = pl.DataFrame({"user_id": ["ü", "b"], "rank": [1, 2], "score": [0.5, None]})


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def rows(folder):
    return [(row["stage"], row["step"]) for row in folder.metrics()]


def test_repeated_rows_of_a_resumed_run_replace_the_earlier_ones(folder):
    for step in (10, 20, 30):
        folder.append_metrics("base", {"step": step, "loss": 1.0})
    folder.append_metrics("tuned", {"step": 20})
    folder.append_metrics("base", {"step": 20, "loss": 2.0})
    assert rows(folder) == [("base", 10), ("tuned", 20), ("base", 20)]
    assert folder.metrics()[-1]["loss"] == 2.0


def test_a_row_cut_off_by_a_crash_is_skipped(folder):
    folder.append_metrics("base", {"step": 10})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "base", "st')
    assert rows(folder) == [("base", 10)]
    folder.append_metrics("base", {"step": 20})
    assert rows(folder) == [("base", 10), ("base", 20)]


def test_a_run_starts_in_a_new_folder_and_resumes_in_its_own(folder):
    config = read_config(None)
    assert not folder.check(config, resume=False)
    assert not folder.path.exists()
    folder.begin(config, DATA)
    assert folder.config() == config
    assert folder.check(config, resume=True)
    with pytest.raises(RunError, match="unfinished run; add --resume"):
        folder.check(config, resume=False)


def test_a_finished_run_does_not_need_resume(folder):
    config = read_config(None)
    folder.begin(config, DATA)
    folder.write_json("results.json", {"config": config.tables()})
    assert folder.has_results_for(config)
    assert folder.check(config, resume=False)
    assert not folder.has_results_for(read_config(None, ["seed=1"]))


def test_results_stay_valid_when_a_setting_is_added_later(folder):
    config = read_config(None)
    folder.begin(config, DATA)
    tables = config.tables()
    del tables["finetune"]["ema_decay"]
    folder.write_json("results.json", {"config": tables})
    assert folder.has_results_for(config)
    folder.write_json("results.json", {"config": {"finetune": {"nonsense": 1}}})
    assert not folder.has_results_for(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=1", r"seed \(stored: 2020, requested: 1\)"),
        ("finetune.beta=1", r"finetune.beta \(stored: 0.0, requested: 1.0\)"),
        ("finetune.epsilon_high=0.5", r"finetune.epsilon_high \(stored: None, requested: 0.5\)"),
        ("model.name=gsau", r"model\.\w+ \("),
        ("data.items=a.csv", r"data.items \(stored: None, requested: 'a.csv'\)"),
    ],
)
def test_the_error_names_the_first_different_setting(folder, change, words):
    folder.begin(read_config(None), DATA)
    with pytest.raises(RunError, match=words):
        folder.check(read_config(None, [change]), resume=True)


def test_env_json_holds_the_versions(folder):
    folder.begin(read_config(None), DATA)
    environment = json.loads((folder.path / "env.json").read_text())
    assert environment["run_format"] == 1
    assert set(environment["versions"]) >= {"recoach", "torch", "numpy", "polars"}


@pytest.mark.parametrize("content", ["", "{", '{"run_format": 99}'])
def test_a_folder_of_another_run_format_is_rejected(folder, content):
    folder.begin(read_config(None), DATA)
    (folder.path / "env.json").write_text(content)
    with pytest.raises(RunError, match=r"env.json is missing or damaged|run format 99"):
        folder.config()


def test_a_damaged_config_is_rejected(folder):
    folder.begin(read_config(None), DATA)
    (folder.path / "config.toml").write_text("[finetune\n")
    with pytest.raises(RunError, match=r"config.toml cannot be read"):
        folder.config()
    (folder.path / "config.toml").write_text("[finetune]\nbetta = 1\n")
    with pytest.raises(ConfigError, match=r"config.toml.*'betta'"):
        folder.config()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.parquet", pl.read_parquet),
        ("a.csv", pl.read_csv),
        ("a.jsonl", pl.read_ndjson),
        ("a.ndjson", pl.read_ndjson),
    ],
)
def test_a_written_table_reads_back_unchanged(tmp_path, name, read):
    write_frame(tmp_path / "new" / name, FRAME)
    assert read(tmp_path / "new" / name).equals(FRAME)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_another_suffix_is_rejected(tmp_path):
    with pytest.raises(RunError, match=r"a.xlsx: tables are written as"):
        write_frame(tmp_path / "a.xlsx", FRAME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ([], ("base", "tuned", "control")),
        (["evaluation.control=false"], ("base", "tuned")),
        (["finetune.enabled=false"], ("base",)),
        (["model.name=popularity"], ("base",)),
    ],
)
def test_the_config_determines_the_stages(changes, stages):
    assert planned_stages(read_config(None, changes), DATA) == stages


def test_a_run_keeps_a_copy_of_its_data(tmp_path):
    lines = [f"u{user},i{(user + item) % 9}" for user in range(9) for item in range(6)]
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "\n".join(lines) + "\n")
    config = read_config(None, [f'data.path="{log}"', "data.name=mine"]).data
    first = run_dataset(config, tmp_path / "own")
    assert first.name == "mine"
    log.unlink()
    resumed = run_dataset(config, tmp_path / "own", resumed=True)
    assert (resumed.name, resumed.fingerprint) == ("mine", first.fingerprint)
    with pytest.raises(Exception, match="there is no such file"):
        run_dataset(config, tmp_path / "other", resumed=True)


def test_a_folder_with_train_valid_and_test_files_keeps_its_split(tmp_path):
    source = tmp_path / "split"
    source.mkdir()
    for part, rows in {"train": ["a x", "a y", "b x"], "valid": ["a z"], "test": ["b w"]}.items():
        lines = ["user_id:token item_id:token", *rows]
        text = "\n".join(line.replace(" ", "\t") for line in lines) + "\n"
        (source / f"log.{part}.inter").write_text(text)
    config = read_config(None, [f'data.path="{source}"', "data.name=theirs"]).data
    data = run_dataset(config, tmp_path / "own")
    assert (data.name, data.n_users, data.n_items) == ("theirs", 2, 4)
    assert [len(part.values) for part in (data.train, data.valid, data.test)] == [3, 1, 1]
    shutil.rmtree(source)
    resumed = run_dataset(config, tmp_path / "own", resumed=True)
    assert resumed.fingerprint == data.fingerprint
    assert data.split == resumed.split == Given(valid="given")


def test_the_control_has_the_budget_and_selection_of_grpo(tmp_path, monkeypatch):
    called_with = {}

    def fake_pretrain(model, dataset, config, context, **settings):
        called_with.update(config.model_dump(), **settings)
        return TrainResult(1, 0.0, 0, 0.0, None)

    monkeypatch.setattr(stages, "pretrain", fake_pretrain)
    monkeypatch.setattr(Run, "load_base", lambda self: build_model("lightgcn", self.dataset))
    changes = ["finetune.ema_decay=0.75", "finetune.learning_rate=0.02", "finetune.batch_size=7"]
    for interpolate in ("true", "false"):
        config = read_config(None, [*changes, f"finetune.interpolate={interpolate}"])
        dataset = run_dataset(config.data, tmp_path / "dataset")
        run = Run(config, RunFolder(tmp_path / "run"), dataset, lambda stage: Callback())
        run.train_control(40, 8)
        assert called_with["interpolate"] is (interpolate == "true")
        expected = {"ema_decay": 0.75, "learning_rate": 0.02, "batch_size": 7, "max_steps": 40}
        expected |= {"eval_steps": 8, "patience": 0, "start_is_candidate": True}
        assert {name: called_with[name] for name in expected} == expected


def test_deleted_data_is_prepared_again_unless_the_log_has_changed(tmp_path):
    log, path = tmp_path / "log.csv", tmp_path / "run"
    rows = [f"u{user},i{(user + item) % 9}" for user in range(9) for item in range(6)]
    log.write_text("user,item\n" + "\n".join(rows) + "\n")
    config = read_config(None, [f'data.path="{log}"'])

    def open_again():
        return stages.open_run(config, path, resume=True, make_callback=lambda stage: Callback())

    first = open_again().dataset.fingerprint
    assert RunFolder(path).read_json("env.json")["dataset"] == first
    shutil.rmtree(path / "dataset")
    assert open_again().dataset.fingerprint == first
    shutil.rmtree(path / "dataset")
    log.write_text("user,item\n" + "\n".join(reversed(rows)) + "\n")
    with pytest.raises(RunError, match=f"started with data of fingerprint {first}"):
        open_again()
    shutil.rmtree(path / "dataset")
    log.unlink()
    with pytest.raises(DataError, match=r"log\.csv: there is no such file"):
        open_again()


def test_the_lock_removes_only_partial_files_of_killed_processes(folder, tmp_path):
    folder.begin(read_config(None), DATA)
    (folder.path / "checkpoints" / "base").mkdir(parents=True)
    (folder.path / "checkpoints" / ".base.part").mkdir()
    for name in (".config.toml.part", "checkpoints/base/.last.safetensors.part", "mine.part"):
        (folder.path / name).touch()
    with folder.lock():
        pass
    assert not list(folder.path.rglob(".*"))
    assert (folder.path / "mine.part").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".theirs.part").touch()
    with RunFolder(tmp_path / "other").lock():
        pass
    assert (tmp_path / "other" / ".theirs.part").exists()


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, "3", "null"])
def test_json_of_another_shape_is_rejected(folder, content):
    folder.write_text("results.json", content)
    with pytest.raises(RunError, match="missing or damaged"):
        folder.read_json("results.json")
    folder.write_text("metrics.jsonl", content + "\n")
    assert folder.metrics() == []
