"""A refused update leaves nothing behind, and no column of the log is lost."""

import shutil
from pathlib import Path

import polars as pl
import pytest

import recoach
from recoach.data.config import PrepareConfig
from recoach.data.prepared import load_dataset
from recoach.errors import DataError
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.update import update
from recoach.experiments.update_config import UpdateConfig
from recoach.experiments.versions import unfinished, version_folder

FAST = UpdateConfig(epochs=1, replay=(0.3,))
START = 1_500_000_000


def events(first, last):
    """Return the events of steps first..last-1: 20 users go through 40 items in order."""
    rows = [
        (f"u{user}", f"i{(user + step) % 40}", START + 1000 * step + user, float(step + 1))
        for user in range(20)
        for step in range(first, last)
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "price"], orient="row")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("update") / "run"
    dataset = recoach.leave_last_out(recoach.read_interactions(events(0, 6)), "log")
    settings = {"pretrain.epochs": 1, "finetune.enabled": False, "data.k_core": 0, "model.dim": 8}
    recoach.run(dataset, "bprmf", folder, settings)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


REPEATS = events(0, 2).with_columns(pl.col("timestamp") + 8000)


def stored_prices(run, number):
    train = load_dataset(version_folder(RunFolder(run), number).dataset).train
    return sorted(train.columns["value"].drop_nulls().to_list())


def test_nothing_of_a_refused_update_is_in_the_next_one(run):
    with pytest.raises(DataError):
        update(run, REPEATS, FAST)
    assert unfinished(RunFolder(run)) == []
    result = update(run, events(10, 12), FAST)
    assert (result.version, result.counts.new) == (1, 40)
    dataset = version_folder(RunFolder(run), 1).load_dataset()
    assert len(dataset.train.values) + len(dataset.valid.values) == 20 * 6 + 40


def test_a_day_of_repeated_items_is_refused_with_what_to_do(run):
    with pytest.raises(DataError) as refused:
        update(run, REPEATS, FAST)
    message = str(refused.value)
    assert "repeated items left out" in message
    assert "Wait until there are more events" in message
    assert "evaluation.repeats = 'all'" in message
    assert "split" not in message


def test_prices_stay_where_the_new_events_have_none(run):
    result = update(run, events(10, 12).drop("price"), FAST)
    assert "no values of value: missing in the new rows" in result.counts.line()
    assert stored_prices(run, 1) == sorted(float(step + 1) for step in range(6) for _ in range(20))


def test_a_price_that_cannot_be_read_is_named_and_nothing_is_written(run, tmp_path):
    path = tmp_path / "day.csv"
    events(10, 12).with_columns(
        price=pl.when(pl.int_range(40) == 1).then(pl.lit("?!")).otherwise(pl.lit("2"))
    ).write_csv(path)
    with pytest.raises(DataError, match=r"day\.csv:3: .*price.*--column value="):
        update(run, path, FAST)
    assert unfinished(RunFolder(run)) == []
    layout = PrepareConfig(columns={"value": ""})
    assert update(run, path, FAST, layout=layout).counts.missing_columns == ("value",)
    assert len(stored_prices(run, 1)) == 20 * 6
