"""A run folder: whole files, rows replaced on resumption, settings compared by name."""

import json
import shutil

import polars as pl
import pytest

from recoach.data.split import leave_last_out
from recoach.errors import ConfigError, DataError, RunError
from recoach.experiments import stages
from recoach.experiments.config import read_config
from recoach.experiments.data import run_dataset
from recoach.experiments.run_folder import RunFolder, write_frame
from recoach.experiments.stages import Run, planned_stages
from recoach.models.registry import build_model
from recoach.simulation.toy_logs import cycle
from recoach.training.callbacks import Callback, TrainResult

DATA = leave_last_out(cycle(16, 12, length=7))
FRAME = pl.DataFrame({"user_id": ["ü", "b"], "rank": [1, 2], "score": [0.5, None]})


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def rows(folder):
    return [(row["stage"], row["step"]) for row in folder.metrics()]


def test_rows_that_a_resumed_run_repeats_take_the_place_of_the_old(folder):
    for step in (10, 20, 30):
        folder.append_metrics("base", {"step": step, "loss": 1.0})
    folder.append_metrics("tuned", {"step": 20})
    folder.append_metrics("base", {"step": 20, "loss": 2.0})
    assert rows(folder) == [("base", 10), ("tuned", 20), ("base", 20)]
    assert folder.metrics()[-1]["loss"] == 2.0


def test_a_row_cut_off_by_a_crash_is_left_out(folder):
    folder.append_metrics("base", {"step": 10})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "base", "st')
    assert rows(folder) == [("base", 10)]
    folder.append_metrics("base", {"step": 20})
    assert rows(folder) == [("base", 10), ("base", 20)]


def test_a_new_folder_is_free_and_one_of_the_same_run_goes_on(folder):
    config = read_config(None)
    assert not folder.check(config, resume=False)
    assert not folder.path.exists()
    folder.begin(config, DATA)
    assert folder.config() == config
    assert folder.check(config, resume=True)
    with pytest.raises(RunError, match="unfinished run; add --resume"):
        folder.check(config, resume=False)


def test_a_finished_run_needs_no_resume(folder):
    config = read_config(None)
    folder.begin(config, DATA)
    folder.write_json("results.json", {"config": config.tables()})
    assert folder.has_results_for(config)
    assert folder.check(config, resume=False)
    assert not folder.has_results_for(read_config(None, ["seed=1"]))


def test_a_run_is_finished_though_a_setting_came_later(folder):
    config = read_config(None)
    folder.begin(config, DATA)
    tables = config.tables()
    del tables["grpo"]["ema_decay"]
    folder.write_json("results.json", {"config": tables})
    assert folder.has_results_for(config)
    folder.write_json("results.json", {"config": {"grpo": {"nonsense": 1}}})
    assert not folder.has_results_for(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=1", r"seed \(2020 there, 1 now\)"),
        ("grpo.beta=1", r"grpo.beta \(0.0 there, 1.0 now\)"),
        ("grpo.epsilon_high=0.5", r"grpo.epsilon_high \(None there, 0.5 now\)"),
        ("model.name=gsau", r"model\.\w+ \("),
        ("data.columns.user_id=who", r"data.columns.user_id \(None there, 'who' now\)"),
    ],
)
def test_the_first_different_setting_is_named(folder, change, words):
    folder.begin(read_config(None), DATA)
    with pytest.raises(RunError, match=words):
        folder.check(read_config(None, [change]), resume=True)


def test_the_environment_names_what_numbers_depend_on(folder):
    folder.begin(read_config(None), DATA)
    environment = json.loads((folder.path / "env.json").read_text())
    assert environment["run_format"] == 1
    assert set(environment["versions"]) >= {"recoach", "torch", "numpy", "polars"}


@pytest.mark.parametrize("content", ["", "{", '{"run_format": 99}'])
def test_a_folder_of_another_version_is_no_run(folder, content):
    folder.begin(read_config(None), DATA)
    (folder.path / "env.json").write_text(content)
    with pytest.raises(RunError, match=r"env.json is missing or damaged|run format 99"):
        folder.config()


def test_settings_damaged_by_hand_are_named(folder):
    folder.begin(read_config(None), DATA)
    (folder.path / "config.toml").write_text("[grpo\n")
    with pytest.raises(RunError, match=r"config.toml cannot be read"):
        folder.config()
    (folder.path / "config.toml").write_text("[grpo]\nbetta = 1\n")
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
def test_a_table_comes_back_as_it_was(tmp_path, name, read):
    write_frame(tmp_path / "new" / name, FRAME)
    assert read(tmp_path / "new" / name).equals(FRAME)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_table_of_another_ending_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"a.xlsx: tables are written as"):
        write_frame(tmp_path / "a.xlsx", FRAME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ([], ("base", "tuned", "control")),
        (["evaluation.control=false"], ("base", "tuned")),
        (["finetune=false"], ("base",)),
        (["model.name=popularity"], ("base",)),
    ],
)
def test_the_stages_are_those_the_settings_ask_for(changes, stages):
    assert planned_stages(read_config(None, changes)) == stages


def test_the_run_keeps_its_own_copy_of_the_data(tmp_path):
    lines = [f"u{user},i{(user + item) % 9}" for user in range(9) for item in range(6)]
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "\n".join(lines) + "\n")
    config = read_config(None, [f'data.path="{log}"', "data.name=mine"]).data
    first = run_dataset(config, tmp_path / "own")
    assert first.name == "mine"
    log.unlink()
    again = run_dataset(config, tmp_path / "own", begun=True)
    assert (again.name, again.fingerprint) == ("mine", first.fingerprint)
    with pytest.raises(Exception, match="there is no such file"):
        run_dataset(config, tmp_path / "other", begun=True)


def test_a_split_made_by_others_is_taken_as_it_is(tmp_path):
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
    again = run_dataset(config, tmp_path / "own", begun=True)
    assert again.fingerprint == data.fingerprint
    assert data.split == again.split == "as given"


def test_the_control_gets_grpo_s_budget_and_its_way_to_choose(tmp_path, monkeypatch):
    asked = {}

    def record(model, dataset, config, context, **settings):
        asked.update(config.model_dump(), **settings)
        return TrainResult(1, 0.0, 0, 0.0, None)

    monkeypatch.setattr(stages, "pretrain", record)
    monkeypatch.setattr(Run, "load_base", lambda self: build_model("lightgcn", self.dataset))
    changes = ["grpo.ema_decay=0.75", "grpo.learning_rate=0.02", "grpo.batch_size=7"]
    for interpolate in ("true", "false"):
        config = read_config(None, [*changes, f"grpo.interpolate={interpolate}"])
        dataset = run_dataset(config.data, tmp_path / "dataset")
        run = Run(config, RunFolder(tmp_path / "run"), dataset, lambda stage: Callback())
        run.control(40, 8)
        assert asked["interpolate"] is (interpolate == "true")
        wanted = {"ema_decay": 0.75, "learning_rate": 0.02, "batch_size": 7, "max_steps": 40}
        wanted |= {"eval_steps": 8, "patience": 0, "start_is_candidate": True}
        assert {name: asked[name] for name in wanted} == wanted


def test_data_deleted_from_a_run_is_made_again_and_refused_where_the_log_has_changed(tmp_path):
    log, path = tmp_path / "log.csv", tmp_path / "run"
    rows = [f"u{user},i{(user + item) % 9}" for user in range(9) for item in range(6)]
    log.write_text("user,item\n" + "\n".join(rows) + "\n")
    config = read_config(None, [f'data.path="{log}"'])

    def opened():
        return stages.open_run(config, path, resume=True, make_callback=lambda stage: Callback())

    first = opened().dataset.fingerprint
    assert RunFolder(path).read_json("env.json")["dataset"] == first
    shutil.rmtree(path / "dataset")
    assert opened().dataset.fingerprint == first
    shutil.rmtree(path / "dataset")
    log.write_text("user,item\n" + "\n".join(reversed(rows)) + "\n")
    with pytest.raises(RunError, match=f"began with data of fingerprint {first}"):
        opened()
    shutil.rmtree(path / "dataset")
    log.unlink()
    with pytest.raises(DataError, match=r"log\.csv: there is no such file"):
        opened()


def test_what_a_killed_process_left_is_swept_away_and_nothing_else(folder, tmp_path):
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
def test_records_of_another_shape_are_damaged(folder, content):
    folder.write_text("results.json", content)
    with pytest.raises(RunError, match="missing or damaged"):
        folder.read_json("results.json")
    folder.write_text("metrics.jsonl", content + "\n")
    assert folder.metrics() == []
