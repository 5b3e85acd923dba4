import json
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from recoach.data import prepared
from recoach.data.config import PrepareConfig
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_interactions
from recoach.data.prepared import load_dataset, prepare
from recoach.data.protocol import Given, LeaveLastOut
from recoach.errors import ConfigError, DataError

LOOSE = PrepareConfig(k_core=1)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "toys.csv"
    rows = [f"u{user},i{item},{item % 5 + 1},{item}" for user in range(4) for item in range(6)]
    path.write_text("user,item,rating,ts\n" + "\n".join(rows) + "\n")
    return path


def fail_to_write(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_saved_dataset_is_loaded_unchanged(source, tmp_path):
    made = prepare(source, tmp_path / "set", LOOSE)
    loaded = load_dataset(tmp_path / "set")
    assert loaded.fingerprint == made.fingerprint
    assert loaded.name == "toys"
    assert loaded.user_ids.to_list() == made.user_ids.to_list()
    assert loaded.ratings.tolist() == made.ratings.tolist() == [1, 2, 3, 4] * 4
    for part in ("train", "valid", "test"):
        assert getattr(loaded, part).offsets.tolist() == getattr(made, part).offsets.tolist()
        assert getattr(loaded, part).values.tolist() == getattr(made, part).values.tolist()


def test_users_without_test_items_keep_an_empty_row(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a 1 2 3\nb 1\n")
    prepare(path, tmp_path / "set", LOOSE)
    loaded = load_dataset(tmp_path / "set")
    assert loaded.test.lengths.tolist() == [1, 0]
    assert loaded.ratings is None


def test_the_manifest_records_source_config_and_statistics(source, tmp_path):
    made = prepare(source, tmp_path / "set", LOOSE)
    manifest = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert manifest["fingerprint"] == made.fingerprint
    assert manifest["source"]["name"] == "toys.csv"
    assert manifest["config"]["k_core"] == 1
    assert manifest["statistics"]["interactions"] == 24
    assert manifest["statistics"]["first"] == "1970-01-01"
    assert str(tmp_path) not in json.dumps(manifest)


def test_an_unchanged_source_is_not_read_again(source, tmp_path, monkeypatch):
    made = prepare(source, tmp_path / "set", LOOSE)
    monkeypatch.setattr(prepared, "read_log", fail_to_write)
    assert prepare(source, tmp_path / "set", LOOSE).fingerprint == made.fingerprint


def test_a_changed_source_or_config_is_prepared_again(source, tmp_path):
    first = prepare(source, tmp_path / "set", LOOSE)
    source.write_text(source.read_text().replace("u3,i5", "u3,i0"))
    second = prepare(source, tmp_path / "set", LOOSE)
    third = prepare(source, tmp_path / "set", PrepareConfig(k_core=1, min_rating=2))
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert load_dataset(tmp_path / "set").fingerprint == third.fingerprint


def test_a_damaged_dataset_is_rejected_and_prepared_again(source, tmp_path):
    made = prepare(source, tmp_path / "set", LOOSE)
    part = tmp_path / "set" / "train.parquet"
    pl.read_parquet(part).with_columns(pl.col("item").reverse()).write_parquet(part)
    with pytest.raises(DataError, match="do not match the fingerprint"):
        load_dataset(tmp_path / "set")
    part.write_bytes(b"gone")
    with pytest.raises(DataError, match="Prepare the data again"):
        load_dataset(tmp_path / "set")
    assert prepare(source, tmp_path / "set", LOOSE).fingerprint == made.fingerprint
    assert load_dataset(tmp_path / "set").fingerprint == made.fingerprint


def test_folders_of_the_first_version_are_read(source, tmp_path):
    made = prepare(source, tmp_path / "set", LOOSE)
    path = tmp_path / "set" / "dataset.json"
    manifest = json.loads(path.read_text())
    del manifest["columns_fingerprint"]
    for part in ("train", "valid", "test"):  # the first version had ratings in train only
        table = pl.read_parquet(tmp_path / "set" / f"{part}.parquet")
        kept = ["user", "item", "rating"] if part == "train" else ["user", "item"]
        table.select(kept).write_parquet(tmp_path / "set" / f"{part}.parquet")
    for name, split in (
        ("leave_last_out", LeaveLastOut()),
        ("leave_last_5_out", LeaveLastOut(test_items=5)),
        ("as given", Given(valid="given")),
    ):
        path.write_text(json.dumps(manifest | {"format_version": 1, "split": name}))
        loaded = load_dataset(tmp_path / "set")
        assert loaded.split == split
        assert loaded.fingerprint == made.fingerprint
        assert loaded.ratings.tolist() == made.ratings.tolist()


@pytest.mark.parametrize("change", ["timestamp", "rating"])
def test_changed_columns_are_rejected(source, tmp_path, change):
    prepare(source, tmp_path / "set", LOOSE)
    path = tmp_path / "set" / "train.parquet"
    pl.read_parquet(path).with_columns(pl.col(change).reverse()).write_parquet(path)
    with pytest.raises(DataError, match=r"changed columns.*Prepare the data again"):
        load_dataset(tmp_path / "set")


def test_another_format_version_is_rejected(source, tmp_path):
    prepare(source, tmp_path / "set", LOOSE)
    manifest = tmp_path / "set" / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(DataError, match="format_version is 9, this release reads 2 and earlier"):
        load_dataset(tmp_path / "set")


def test_a_missing_and_an_unreadable_manifest_have_different_errors(tmp_path):
    with pytest.raises(DataError, match="there is no prepared dataset"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("step", ["write_parquet", "rename", "write_text"])
def test_a_full_disk_leaves_nothing_half_written(source, tmp_path, monkeypatch, step, again):
    if again:
        old = prepare(source, tmp_path / "set", LOOSE).fingerprint
    before = sorted(tmp_path.iterdir())
    owner = pl.DataFrame if step == "write_parquet" else Path
    monkeypatch.setattr(owner, step, fail_to_write)
    with pytest.raises(DataError, match=r"cannot be written .No space left on device"):
        prepare(source, tmp_path / "set", PrepareConfig(k_core=2))
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    if again:
        assert load_dataset(tmp_path / "set").fingerprint == old


def test_the_old_dataset_is_restored_if_the_replacement_fails(source, tmp_path, monkeypatch):
    old = prepare(source, tmp_path / "set", LOOSE).fingerprint
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda a, b: fail_to_write() if a.name == ".set.part" else rename(a, b)
    )
    with pytest.raises(DataError, match="cannot be written"):
        prepare(source, tmp_path / "set", PrepareConfig(k_core=2))
    assert load_dataset(tmp_path / "set").fingerprint == old


def test_a_folder_with_other_files_is_never_replaced(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not a prepared dataset"):
        prepare(source, tmp_path / "mine", LOOSE)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: there is no such file"):
        prepare(tmp_path / "gone.csv", tmp_path / "set")


def test_filters_run_in_the_order_rating_deduplication_core(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,item,rating,ts\na,x,1,1\na,x,5,2\na,x,5,3\nb,x,5,4\n")
    config = PrepareConfig(min_rating=4, dedup="first", k_core=1)
    assert apply_filters(read_interactions(path), config).times.tolist() == [2000, 4000]


def test_the_config_is_strict_and_immutable():
    with pytest.raises(ConfigError):
        PrepareConfig(kcore=5)
    with pytest.raises(ConfigError):
        PrepareConfig(k_core=-1)
    with pytest.raises(ConfigError, match=r"auto.*sequence"):
        PrepareConfig(format="xls")
    with pytest.raises(ConfigError):
        PrepareConfig(min_rating=float("nan"))
    with pytest.raises(ValidationError):
        PrepareConfig().k_core = 3


def test_a_dataset_is_restored_if_the_process_was_killed_while_replacing_it(source, tmp_path):
    made = prepare(source, tmp_path / "set", LOOSE)
    (tmp_path / "set").rename(tmp_path / ".set.old")
    (tmp_path / ".set.part").mkdir()
    old = (tmp_path / ".set.old").stat().st_ino
    assert prepare(source, tmp_path / "set", LOOSE).fingerprint == made.fingerprint
    assert (tmp_path / "set").stat().st_ino == old
    assert {path.name for path in tmp_path.iterdir()} == {"set", "toys.csv"}
