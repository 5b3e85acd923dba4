"""The data of a run: compared with their source, recorded with their filters, fit to train on."""

import os
import shutil

import pytest

from recoach.data.config import PrepareConfig
from recoach.data.prepared import load_dataset, prepare, read_manifest
from recoach.data.protocol import ByUsers
from recoach.data.split import split_log
from recoach.errors import ConfigError, DataError, RunError
from recoach.experiments.config import read_config, resolve
from recoach.experiments.data import applied_settings, check_trainable
from recoach.experiments.data_notes import data_notes
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import open_run
from recoach.training.callbacks import Callback
from toy_logs import cycle

ROWS = [(f"u{user}", f"i{(user + step) % 7}") for user in range(9) for step in range(6)]


def write_log(path, rows=ROWS):
    path.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows))
    return path


def settings(path, *changes):
    data = [] if path is None else [f'data.path="{path}"']
    return read_config(None, [*data, "model.name=lightgcn", *changes])


def opened(config, folder, **options):
    options = {"resume": True, "make_callback": lambda _: Callback()} | options
    return open_run(config, folder, **options)


# the source


@pytest.fixture
def source(tmp_path):
    return write_log(tmp_path / "log.csv")


def test_a_run_continues_with_an_unchanged_or_touched_log(tmp_path, source):
    config = settings(source, "data.k_core=0")
    first = opened(config, tmp_path / "b").dataset
    os.utime(source, (1, 1))
    assert opened(config, tmp_path / "b").dataset.fingerprint == first.fingerprint


@pytest.mark.parametrize("rows", [[*ROWS, ("u0", "i6")], ROWS[::-1], ROWS[:-1]])
def test_a_changed_log_is_refused_with_both_fingerprints(tmp_path, source, rows):
    config = settings(source, "data.k_core=0")
    first = opened(config, tmp_path / "b").dataset
    state = source.stat()
    write_log(source, rows)
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    now = prepare(source, tmp_path / "now", PrepareConfig(k_core=0)).fingerprint
    with pytest.raises(RunError) as error:
        opened(config, tmp_path / "b")
    assert str(error.value) == (
        f"{tmp_path / 'b'} was made from an earlier log.csv (fingerprint {first.fingerprint}, now "
        f"{now}). Choose another --output."
    )
    stored = opened(RunFolder(tmp_path / "b").config(), tmp_path / "b", stored=True)
    assert stored.dataset.fingerprint == first.fingerprint


def test_a_log_that_is_gone_does_not_stop_its_run(tmp_path, source):
    config = settings(source, "data.k_core=0")
    first = opened(config, tmp_path / "b").dataset
    source.unlink()
    run = opened(config, tmp_path / "b")
    assert run.dataset.fingerprint == first.fingerprint
    notes = data_notes(run.config, run.dataset, run.folder.dataset)
    assert f"{source} is gone; the run's own copy of the data is used." in notes


def test_a_changed_prepared_folder_is_refused(tmp_path, source):
    prepare(source, tmp_path / "p", PrepareConfig(k_core=0))
    config = settings(tmp_path / "p")
    opened(config, tmp_path / "b")
    opened(config, tmp_path / "b")
    write_log(source, [*ROWS, ("u0", "i6")])
    prepare(source, tmp_path / "p", PrepareConfig(k_core=0))
    with pytest.raises(RunError, match=r"b was made from an earlier p \(fingerprint \w{16}, now"):
        opened(config, tmp_path / "b")


def write_parts(folder, test="a i1\nb i2\n"):
    folder.mkdir(exist_ok=True)
    (folder / "train.txt").write_text("a i2 i3 i4\nb i3 i4 i1\nc i1\n")
    (folder / "test.txt").write_text(test)
    return folder


def test_a_changed_folder_of_parts_is_refused(tmp_path):
    config = settings(write_parts(tmp_path / "parts"))
    opened(config, tmp_path / "b")
    opened(config, tmp_path / "b")
    write_parts(tmp_path / "parts", "a i1\nb i2 i3\n")
    with pytest.raises(RunError, match=r"was made from an earlier parts \(fingerprint"):
        opened(config, tmp_path / "b")


def test_a_changed_table_of_items_is_refused(tmp_path, source):
    (tmp_path / "items.csv").write_text("item_id,title\ni0,Zero\n")
    config = settings(source, f'data.items="{tmp_path / "items.csv"}"')
    opened(config, tmp_path / "b")
    opened(config, tmp_path / "b")
    (tmp_path / "items.csv").write_text("item_id,title\ni0,Nought\n")
    with pytest.raises(RunError, match=r"b was made with an earlier items\.csv\. Choose another"):
        opened(config, tmp_path / "b")
    (tmp_path / "items.csv").unlink()
    opened(config, tmp_path / "b")


# filters


@pytest.mark.parametrize(
    "change",
    [
        "data.k_core=50",
        "data.k_core=5",
        "data.min_rating=3",
        'data.dedup="last"',
        "data.test_items=3",
        "data.columns.user_id=who",
        'data.split="ratio"',
        'data.format="csv"',
    ],
)
def test_filters_of_a_prepared_folder_are_refused(tmp_path, source, change):
    prepare(source, tmp_path / "p", PrepareConfig(k_core=3))
    name = change.split("=")[0].split(".")[1].replace("test_items", "split")
    with pytest.raises(ConfigError, match=rf"data\.{name} = .*p is a prepared folder with {name}"):
        opened(settings(tmp_path / "p", change), tmp_path / "b")
    assert not (tmp_path / "b" / "config.toml").exists()


def test_only_the_settings_of_a_split_that_differ_are_named(tmp_path, source):
    prepare(source, tmp_path / "p", PrepareConfig(k_core=3, split="leave_last_out"))
    with pytest.raises(ConfigError, match=r"= \{'test_items': 3\}: .* = \{'test_items': 1\}\. "):
        opened(settings(tmp_path / "p", "data.test_items=3"), tmp_path / "b")
    with pytest.raises(
        ConfigError, match=r"= \{'kind': 'ratio'\}: .*'kind': 'leave_last_out'\}\. "
    ):
        opened(settings(tmp_path / "p", 'data.split="ratio"'), tmp_path / "b")


def test_the_record_has_the_filters_of_the_prepared_folder(tmp_path, source):
    prepare(source, tmp_path / "p", PrepareConfig(k_core=3, dedup="last"))
    for changes in ([], ["data.k_core=3", 'data.split="leave_last_out"']):
        run = opened(settings(tmp_path / "p", *changes), tmp_path / "b")
        assert (run.config.data.k_core, run.config.data.dedup) == (3, "last")
        stored = RunFolder(tmp_path / "b").config().data
        assert (stored.k_core, stored.dedup) == (3, "last")
    copied = read_manifest(tmp_path / "b" / "dataset")
    assert copied["config"]["k_core"] == 3
    assert copied["report"]["rows"] == len(ROWS)
    # a copy of the copy, and a run whose prepared folder is gone
    assert opened(settings(tmp_path / "b" / "dataset"), tmp_path / "c").config.data.k_core == 3
    shutil.rmtree(tmp_path / "p")
    assert opened(settings(tmp_path / "p"), tmp_path / "b").config.data.k_core == 3


def test_a_run_recorded_with_filters_that_were_not_applied_opens(tmp_path, source):
    prepare(source, tmp_path / "p", PrepareConfig(k_core=0))
    opened(settings(tmp_path / "p"), tmp_path / "b")
    file = tmp_path / "b" / "config.toml"
    file.write_text(file.read_text().replace("k_core = 0", "k_core = 5"))
    assert opened(settings(tmp_path / "p"), tmp_path / "b").config.data.k_core == 0
    assert opened(RunFolder(tmp_path / "b").config(), tmp_path / "b", stored=True)


@pytest.mark.parametrize("kind", ["parts", "shop"])
def test_filters_of_data_that_come_without_are_refused_and_not_recorded(tmp_path, kind):
    path = write_parts(tmp_path / "parts") if kind == "parts" else None
    assert applied_settings(settings(path).data).k_core == 0
    assert applied_settings(settings(path, "data.k_core=0").data).k_core == 0
    with pytest.raises(ConfigError, match=r"data\.k_core = 5: .*Leave the setting out"):
        applied_settings(settings(path, "data.k_core=5").data)
    assert applied_settings(settings(path, "data.k_core=5").data, strict=False).k_core == 0


def test_the_last_training_event_is_for_validation_where_there_is_no_part_for_it(tmp_path):
    run = opened(settings(write_parts(tmp_path / "parts")), tmp_path / "b")
    items = run.dataset.item_ids.to_list()
    rows = {
        part: [[items[i] for i in getattr(run.dataset, part).row(user)] for user in range(3)]
        for part in ("train", "valid", "test")
    }
    assert rows["train"] == [["i2", "i3"], ["i3", "i4"], ["i1"]]
    assert rows["valid"] == [["i4"], ["i1"], []]
    assert rows["test"] == [["i1"], ["i2"], []]
    assert run.dataset.split.valid == "last"
    assert load_dataset(run.folder.dataset).split.valid == "last"
    lines = [
        f"{name}.txt: {rows} rows read; taken for sequences: user item item ... in each line; no "
        "times: file order is taken"
        for name, rows in {"train": 7, "test": 2}.items()
    ]
    assert data_notes(run.config, run.dataset, run.folder.dataset) == [
        *lines,
        "There is no validation part: the last training event of each user is used for validation.",
    ]
    (tmp_path / "parts" / "valid.txt").write_text("c i2\n")
    run = opened(settings(tmp_path / "parts"), tmp_path / "c")
    assert run.dataset.split.valid == "given"
    notes = data_notes(run.config, run.dataset, run.folder.dataset)
    assert [note.split(":")[0] for note in notes] == ["train.txt", "valid.txt", "test.txt"]


# too little to learn from

THREE = [(f"u{user}", f"i{(user + step) % 5}") for user in range(9) for step in range(3)]
NO_STEP = "after holding out two, no user has two items left to learn a next step from"


@pytest.mark.parametrize(
    ("model", "finetune"),
    [("sasrec", "false"), ("gru4rec", "false"), ("gsau", "false"), ("lightgcn", "true")],
)
def test_a_log_without_a_step_to_learn_is_refused_before_the_run(tmp_path, model, finetune):
    write_log(tmp_path / "log.csv", THREE)
    changes = ["data.k_core=0", f"model.name={model}", f"finetune.enabled={finetune}"]
    with pytest.raises(DataError, match=NO_STEP):
        opened(settings(tmp_path / "log.csv", *changes), tmp_path / "b")
    assert not (tmp_path / "b" / "dataset").exists()
    assert not (tmp_path / "b" / "config.toml").exists()
    write_log(tmp_path / "log.csv", [*THREE, ("u0", "i4")])
    assert opened(settings(tmp_path / "log.csv", *changes), tmp_path / "b")


def test_a_model_of_single_items_trains_without_a_step(tmp_path):
    write_log(tmp_path / "log.csv", THREE)
    changes = ["data.k_core=0", "finetune.enabled=false"]
    assert opened(settings(tmp_path / "log.csv", *changes), tmp_path / "b")


def test_more_test_items_than_a_history_has_leave_no_step(tmp_path):
    write_log(tmp_path / "log.csv")
    with pytest.raises(DataError, match="after holding out five, no user has two items left"):
        opened(settings(tmp_path / "log.csv", "data.test_items=50"), tmp_path / "b")


@pytest.mark.parametrize(
    "rows", [[(f"u{n}", "i0") for n in range(4) for _ in range(6)], [("u", "i")] * 8]
)
def test_a_catalogue_of_one_item_has_no_target(tmp_path, rows):
    write_log(tmp_path / "log.csv", rows)
    with pytest.raises(DataError, match="has an item in valid to predict"):
        opened(settings(tmp_path / "log.csv", "data.k_core=0"), tmp_path / "b")
    assert not (tmp_path / "b" / "config.toml").exists()


def test_a_model_that_knows_users_by_train_is_not_tested_on_users_without_it():
    dataset = split_log(cycle(20, 9, length=6), ByUsers(), "log")
    for name in ("lightgcn", "bprmf", "neumf"):
        with pytest.raises(DataError, match=f"no user of the valid part .* {name} knows users"):
            check_trainable(resolve({"model": {"name": name}}, "test"), dataset)
    for name in ("sasrec", "itemknn", "popularity"):
        check_trainable(resolve({"model": {"name": name}}, "test"), dataset)


def test_the_users_of_each_part_that_a_model_does_not_know_are_counted(tmp_path):
    rows = [(f"u{user}", f"i{(user + step) % 7}", step) for user in range(9) for step in range(6)]
    rows += [(f"late{user}", f"i{step}", step) for user in range(4) for step in range(3, 6)]
    names = ("user_id", "item_id", "timestamp")
    path = tmp_path / "log.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]))
    split = "data.split={kind='time', at=0.79, valid_at=0.5, target='successive'}"
    counts = {}
    for model in ("lightgcn", "popularity", "sasrec"):
        changes = ["data.k_core=0", f"model.name={model}", split]
        run = opened(settings(path, *changes), tmp_path / model)
        notes = data_notes(run.config, run.dataset, run.folder.dataset)
        counts[model] = [note.split(" have no")[0] for note in notes if "knows users by" in note]
    parts = [f"4 of 13 users of the {part} part" for part in ("valid", "test")]
    assert counts == {"lightgcn": parts, "popularity": [], "sasrec": []}
