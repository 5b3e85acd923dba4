"""Our side of the benchmarks runs: with few steps, on a small log. Nothing is timed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from recoach.simulation.shop import shop

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def ours():
    sys.path.insert(0, str(BENCHMARKS))  # the programs import one another
    spec = importlib.util.spec_from_file_location("ours", BENCHMARKS / "ours.py")
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
    ("work", "options", "found"),
    [
        ("sasrec_epoch", {"steps": 2}, {"seconds_per_epoch", "positions_per_epoch"}),
        ("plain_epoch", {"steps": 2}, {"seconds_per_epoch", "positions_per_epoch"}),
        ("lightgcn_epoch", {"steps": 2}, {"seconds_per_epoch"}),
        ("rank", {}, {"seconds"}),
        (
            "grpo_step",
            {"steps": 4, "group": 16},
            {"cross_entropy", "plain", "exact", "exact_kl", "sampled"},
        ),
        ("load", {"k_core": 0}, {"seconds", "users", "items", "rows"}),
    ],
)
def test_a_work_answers_with_its_figures(work, options, found, ours, folder, tmp_path):
    out = tmp_path / "out.json"
    getattr(ours, work)(folder, out, **options)
    answer = json.loads(out.read_text())
    assert set(answer) == found | {"peak_mib", "versions"}
    assert all(answer[name] > 0 for name in found)
