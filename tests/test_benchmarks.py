"""The benchmark tasks of Recoach run on a small log with few steps; times are not checked."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from benchmarks.serving import make_run
from recoach.cli.serve import read_snapshot
from recoach.simulation.shop import shop

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def recoach_run():
    sys.path.insert(0, str(BENCHMARKS))  # the programs import each other
    spec = importlib.util.spec_from_file_location("recoach_run", BENCHMARKS / "recoach_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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
