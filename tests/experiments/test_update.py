"""A run is updated with the events of new days; nothing is lost, and the better version serves."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import recoach
from recoach.data.prepared import load_dataset
from recoach.errors import ConfigError, RunError
from recoach.experiments.config import resolve
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import load_served, served_stage
from recoach.experiments.stages import execute, open_run
from recoach.experiments.update import update
from recoach.experiments.update_config import UpdateConfig
from recoach.experiments.versions import (
    read_history,
    rollback,
    served_folder,
    unfinished,
    version_folder,
)
from recoach.models.checkpoint import load_model
from recoach.training.callbacks import Callback

FAST = UpdateConfig(epochs=2, replay=(0.3,))
START = 1_500_000_000


def day(first, last, *, seed=0, more=()):
    """Return the events of steps first..last-1: the next item mostly follows the last one."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(60):
        for step in range(first, last):
            item = (user + 2 * step) % 25 if generator.random() < 0.9 else generator.integers(25)
            rows.append((f"u{user}", f"i{item}", START + 1000 * step + user))
    schema = ["user_id", "item_id", "timestamp"]
    return pl.DataFrame([*rows, *more], schema=schema, orient="row")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("update") / "run"
    dataset = recoach.leave_last_out(recoach.read_interactions(day(0, 8)), "log")
    settings = {
        "model.dim": 8,
        "model.layers": 1,
        "model.heads": 1,
        "pretrain.epochs": 2,
        "pretrain.batch_size": 64,
        "finetune.enabled": False,
        "data.k_core": 0,
    }
    recoach.run(dataset, "sasrec", folder, settings)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


NEW_DAY = day(8, 10, seed=1, more=[("new", "i1", START + 9000), ("u1", "fresh", START + 9900)])


def lists(run):
    folder = RunFolder(run)
    dataset, (model,) = load_served(folder, [served_stage(folder)])
    return recoach.recommend(model, dataset, ["u1", "u2"], k=5)


def weights(run, number):
    folder = version_folder(RunFolder(run), number)
    dataset = folder.load_dataset()
    return load_model(folder.checkpoints("base"), dataset).state_dict()


def test_a_better_version_is_served_with_the_new_users_and_items(run):
    result = update(run, NEW_DAY, FAST)
    assert (result.outcome, result.served, result.version) == ("better", 1, 1)
    assert (result.counts.new, result.counts.new_users, result.counts.new_items) == (122, 1, 1)
    dataset, (model,) = load_served(RunFolder(run), ["base"])
    assert dataset.user_ids.to_list()[:60] == load_dataset(run / "dataset").user_ids.to_list()
    assert (dataset.n_users, dataset.n_items, model.n_items) == (61, 26, 26)
    assert recoach.recommend(model, dataset, ["new"]).height == 10
    record = read_history(RunFolder(run)).record(1)
    assert record["value"] > record["served_value"]
    assert record["settings_tried"] == 1


def test_a_version_that_is_not_better_leaves_lists_and_weights_as_they_are(run):
    before = lists(run)
    result = update(run, NEW_DAY, FAST.model_copy(update={"metric": "recall@25"}))
    assert result.outcome == "not better"  # all 25 former items are in the lists of both
    assert "with version 0" in result.reason
    assert lists(run).equals(before)
    assert served_folder(RunFolder(run)).path == run
    following = update(run, day(10, 11, seed=2), FAST)  # learns the events of both days
    assert following.counts.known == 0
    assert version_folder(RunFolder(run), 2).load_dataset().n_users == 61


def test_the_same_day_again_changes_nothing(run):
    update(run, NEW_DAY, FAST)
    before = (run / "versions.json").read_bytes()
    result = update(run, NEW_DAY, FAST)
    assert (result.outcome, result.counts.known, result.counts.new) == ("nothing new", 122, 0)
    assert (run / "versions.json").read_bytes() == before
    assert unfinished(RunFolder(run)) == []


def test_the_newest_events_are_not_trained_on_until_the_next_update(run):
    update(run, NEW_DAY, FAST)
    first = version_folder(RunFolder(run), 1).load_dataset()
    assert len(first.valid.values) == 49  # a fifth of 122 new and 120 held-out events of the run
    times = first.valid.columns["timestamp"].min(), first.train.columns["timestamp"].max()
    assert times[0] > times[1]
    update(run, day(10, 11, seed=2), FAST)
    second = version_folder(RunFolder(run), 2).load_dataset()
    assert len(second.train.values) > len(first.train.values) + len(first.valid.values)


def test_a_rollback_serves_the_version_before(run):
    before = lists(run)
    update(run, NEW_DAY, FAST)
    assert not lists(run).equals(before)
    assert rollback(RunFolder(run)) == 0
    assert lists(run).equals(before)
    with pytest.raises(RunError, match="there is no way back"):
        rollback(RunFolder(run))


def test_several_settings_are_compared_on_validation(run):
    result = update(run, NEW_DAY, FAST.model_copy(update={"replay": (0.0, 0.6)}))
    record = read_history(RunFolder(run)).record(result.version)
    assert record["settings_tried"] == 2
    assert record["replay"] in (0.0, 0.6)
    names = sorted(
        path.name for path in version_folder(RunFolder(run), 1).path.glob("checkpoints/*")
    )
    assert names == ["base"]


def test_fine_tuning_learns_the_new_days(run):
    config = FAST.model_copy(update={"methods": ("finetune",)})
    result = update(run, NEW_DAY, config)
    assert read_history(RunFolder(run)).record(result.version)["method"] == "finetune"


def test_old_versions_are_removed_and_the_served_one_stays(run):
    for step in range(10, 13):
        update(run, day(step, step + 1, seed=step), FAST.model_copy(update={"keep": 1}))
    folder = RunFolder(run)
    served = read_history(folder).served
    parent = read_history(folder).record(served)["parent"]
    kept = {int(path.name) for path in (run / "versions").iterdir()}
    assert kept == {3, served, parent} - {0}


def test_a_served_version_that_is_gone_is_one_sentence(run):
    update(run, NEW_DAY, FAST)
    shutil.rmtree(run / "versions")
    with pytest.raises(RunError, match=r"serves version 1, and .* is gone"):
        lists(run)


def test_settings_out_of_range_are_refused_before_anything_is_written(run):
    with pytest.raises(ConfigError, match=r"update\.replay must be at least 0 and below 1"):
        update(run, NEW_DAY, UpdateConfig(replay=(1.0,)))
    assert not (run / "versions").exists()


def test_a_model_without_weights_is_computed_again(tmp_path):
    dataset = recoach.leave_last_out(recoach.read_interactions(day(0, 8)), "log")
    recoach.run(dataset, "sequential_rules", tmp_path / "run", {"data.k_core": 0})
    result = update(tmp_path / "run", NEW_DAY)
    dataset, (model,) = load_served(RunFolder(tmp_path / "run"), ["base"])
    assert model.n_items == dataset.n_items == (26 if result.outcome == "better" else 25)
    assert read_history(RunFolder(tmp_path / "run")).record(1)["settings_tried"] == 1


class Killed(BaseException):
    """Stands for the end of the process."""


WRITES = [(Path, "replace"), (Path, "rename"), (pl.DataFrame, "write_parquet"), (shutil, "rmtree")]


class Kill:
    """Raises `Killed` instead of one of the writes of a process."""

    def __init__(self, patch, number):
        self.left = number
        for owner, name in WRITES:
            patch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, original):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise Killed
            return original(*args, **kwargs)

        return call


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_failure_at_any_write_loses_nothing(run, tmp_path, monkeypatch, step):
    reference = Path(shutil.copytree(run, tmp_path / "reference"))
    update(reference, NEW_DAY, FAST)
    before, expected = lists(run), weights(reference, 1)
    for number in range(1, 1000, step):
        copy = Path(shutil.copytree(run, tmp_path / f"copy-{number}"))
        with monkeypatch.context() as patch:
            Kill(patch, number)
            try:
                update(copy, NEW_DAY, FAST)
                break
            except Killed:
                pass
        if read_history(RunFolder(copy)).served == 0:
            assert lists(copy).equals(before)
        assert update(copy, NEW_DAY, FAST).served == 1
        resumed = weights(copy, 1)
        assert all(torch.equal(resumed[name], expected[name]) for name in expected)
        assert unfinished(RunFolder(copy)) == []
        shutil.rmtree(copy)
    assert number > 15


def test_the_events_of_an_interrupted_update_are_part_of_the_next_one(run, monkeypatch):
    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("recoach.experiments.update_training.pretrain", killed)
        with pytest.raises(Killed):
            update(run, NEW_DAY, FAST)
    assert unfinished(RunFolder(run)) == [1]
    result = update(run, day(10, 11, seed=2), FAST)
    assert result.version == 2
    dataset = version_folder(RunFolder(run), 2).load_dataset()
    assert "new" in dataset.user_ids.to_list()
    assert unfinished(RunFolder(run)) == []


def test_damaged_versions_are_reported(run):
    (run / "versions.json").write_text(json.dumps({"served": "x"}))
    with pytest.raises(RunError, match=r"versions\.json is damaged"):
        lists(run)


def test_items_of_the_table_without_events_are_recommended(tmp_path):
    items = [f"i{n}" for n in range(25)] + ["only-in-the-table"]
    content = [[np.cos(n / 4), np.sin(n / 4)] for n in [*range(25), 3]]
    table = pl.DataFrame({"item_id": items, "vector": content})
    table.write_parquet(tmp_path / "items.parquet")
    day(0, 8).write_csv(tmp_path / "log.csv")
    config = resolve(
        {
            "data": {
                "path": str(tmp_path / "log.csv"),
                "items": str(tmp_path / "items.parquet"),
                "catalogue": "items",
                "split": "time",
                "k_core": 0,
            },
            "model": {"name": "bprmf", "dim": 4},
            "pretrain": {"epochs": 1},
            "finetune": {"enabled": False},
        },
        "test",
    )
    folder = tmp_path / "run"
    execute(open_run(config, folder, resume=False, make_callback=lambda _: Callback()))
    dataset, (model,) = load_served(RunFolder(folder), ["base"])
    assert dataset.item_ids.to_list()[-1] == "only-in-the-table"
    stored = load_model(RunFolder(folder).checkpoints("base_retrained"), dataset)
    assert not torch.equal(model.items.weight[25], stored.items.weight[25])
    assert torch.equal(model.items.weight[:25], stored.items.weight[:25])
    update(folder, NEW_DAY, FAST)  # the new item follows
    grown = version_folder(RunFolder(folder), 1).load_dataset()
    assert grown.item_ids.to_list()[-2:] == ["only-in-the-table", "fresh"]
    execute(open_run(config, folder, resume=True, make_callback=lambda _: Callback()))
