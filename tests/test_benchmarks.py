"""The benchmark tasks of Recoach run on a small log with few steps; times are not checked."""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import positions
from benchmarks.serving import make_run
from recoach.cli.serve import read_snapshot
from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.simulation.shop import shop

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def recoach_run():
    sys.path.insert(0, str(BENCHMARKS))  # the programs import each other
    spec = importlib.util.spec_from_file_location("recoach_run", BENCHMARKS / "recoach_run.py")
    module = importlib.util.module_from_spec(spec)
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)  # the program sets its own; results depend on the number
    yield module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    log = shop(n_users=120, n_items=60, seed=1).interactions
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, item, time in zip(log.users, log.items, log.times, strict=True):
        lines.append(f"u{user}\ti{item}\t{time}")
    folder = tmp_path_factory.mktemp("log")
    (folder / "log.inter").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("task", "options", "keys"),
    [
        ("sasrec_epoch", {"steps": 2}, {"seconds_per_epoch", "positions_per_epoch"}),
        ("plain_epoch", {"steps": 2}, {"seconds_per_epoch", "positions_per_epoch"}),
        ("lightgcn_epoch", {"steps": 2}, {"seconds_per_epoch"}),
        ("fpmc_epoch", {"steps": 2}, {"seconds_per_epoch"}),
        ("ngcf_epoch", {"steps": 2}, {"seconds_per_epoch"}),
        ("graphsage_epoch", {"steps": 2}, {"seconds_per_epoch"}),
        ("rank", {}, {"seconds"}),
        (
            "grpo_step",
            {"steps": 4, "group": 16},
            {"cross_entropy", "plain", "exact", "exact_kl", "sampled"},
        ),
        ("load", {"k_core": 0}, {"seconds", "users", "items", "rows"}),
    ],
)
def test_a_task_writes_its_results(task, options, keys, recoach_run, folder, tmp_path):
    out = tmp_path / "out.json"
    getattr(recoach_run, task)(folder, out, **options)
    result = json.loads(out.read_text())
    assert set(result) == keys | {"peak_mib", "versions"}
    assert all(result[key] > 0 for key in keys)


def test_the_run_of_the_load_test_can_be_served(tmp_path):
    snapshot = read_snapshot(make_run(tmp_path / "run", n_items=50, n_users=20))
    assert (snapshot.dataset.n_users, snapshot.dataset.n_items) == (20, 50)
    query = snapshot.build_query(user="u3", history=None, k=3, exclude_seen=True, candidates=None)
    assert len(snapshot.recommend("base", [query])[0].items) == 3


def test_the_fine_tunings_freeze_tables_and_switch_dropout_off():
    settings = positions.tunings("gcegnn", {"item", "position", "encoder"})
    frozen = settings["paper, position table frozen"]
    assert frozen.trainable == ("item", "user")
    assert frozen.max_steps == positions.PAPER["max_steps"]
    assert settings["default, position table frozen"].trainable == ("item", "user", "encoder")
    assert {label for label, args in settings.items() if args.disable_dropout} == {
        "paper, dropout off",
        "default, dropout off",
    }
    assert set(positions.tunings("fpmc", {"item", "user"})) == {
        *("paper", "paper, user table frozen", "default", "default, user table frozen"),
    }


def test_update_norms_are_relative_to_the_weights_of_a_group():
    dataset = leave_last_out(shop(n_users=20, n_items=60, seed=1).interactions)
    before = build_model("gcegnn", dataset, dim=4)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.readout.position.mul_(1.5)
    norms = positions.update_norms(before, after)
    assert norms == {"item": 0.0, "position": pytest.approx(0.5), "encoder": 0.0}


def test_the_table_of_positions_averages_over_seeds():
    cell = {"base": {"test": 0.10}, "tuned": {"test": 0.11}, "update_norms": {"item": 0.25}}
    worse = cell | {"tuned": {"test": 0.07}, "update_norms": {"item": 0.75}}
    text = positions.table({"SR-GNN | paper | 2020": cell, "SR-GNN | paper | 2021": worse})
    assert text.splitlines()[2] == (
        "| SR-GNN | paper | 2 | 0.1000 | 0.0900 | -10.0 % | 1 of 2 | 0.500 | – | – | – |"
    )
