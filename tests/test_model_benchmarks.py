"""The benchmark tasks of models without training steps, updates and off-policy evaluation."""

import gzip
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recoach.data.split import leave_last_out
from recoach.models.registry import build_model
from recoach.simulation.shop import shop

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def program():
    """Return a function that imports a benchmark program."""
    sys.path.insert(0, str(BENCHMARKS))  # the programs import each other
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)  # a program sets its own; results depend on the number
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def log():
    return shop(n_users=120, n_items=60, seed=1).interactions


@pytest.fixture(scope="module")
def folder(log, tmp_path_factory):
    """Return a folder with a log, test prefixes and sessions."""
    folder = tmp_path_factory.mktemp("log")
    lines, sessions = ["user_id:token\titem_id:token\ttimestamp:float"], {}
    for user, item, time in zip(log.users, log.items, log.times, strict=True):
        lines.append(f"{user}\t{item}\t{time}")
        sessions.setdefault(user, []).append(str(item))
    (folder / "log.inter").write_text("\n".join(lines) + "\n")
    for name, rows in {
        "train": [f"s{user} {' '.join(items)}" for user, items in sessions.items()],
        "test": [" ".join(items[-5:]) for items in sessions.values()],
    }.items():
        with gzip.open(folder / f"{name}.txt.gz", "wt") as file:
            file.write("\n".join(rows))
    return folder


def result_of(task, folder, out, **options):
    task(folder, out, **options)
    return json.loads(out.read_text())


@pytest.mark.parametrize("task", ["ease", "itemknn"])
def test_lists_of_all_users_hit_validation_items(task, program, folder, tmp_path):
    run = getattr(program("recoach_models"), task)
    result = result_of(run, folder, tmp_path / "out.json")
    assert result["seconds"] > result["fit_seconds"] > 0
    assert 60 < result["hits"] <= 120  # 50 of at most 60 unseen items


def test_vsknn_and_the_plain_loop_have_the_same_hits(program, folder, tmp_path):
    run = program("recoach_models").vsknn
    result = result_of(run, folder, tmp_path / "out.json", prefixes=40, k=5)
    assert result["hits"] == result["plain_hits"] > 10
    assert min(result["seconds"], result["plain_seconds"]) > 0


@pytest.mark.parametrize("settings", [{}, {"neighbours": 5, "sample": 20, "idf_weight": 0.0}])
def test_vsknn_and_the_plain_loop_have_the_same_scores(settings, program, folder):
    baselines = program("session_baselines")
    sessions = baselines.read_set(folder)
    train, prefixes = sessions.dataset.train, sessions.prefixes
    model = build_model("vsknn", sessions.dataset, **settings)
    plain = program("plain_vsknn").PlainVSKNN(
        [
            train.values[a:b].tolist()
            for a, b in zip(train.offsets, train.offsets[1:], strict=False)
        ],
        **settings,
    )
    n_compared = 0
    for which, queries in baselines.prefix_queries(model, prefixes):
        scores = model.score(queries).numpy() / model.tie_factors
        for state, row in zip(which, scores, strict=True):
            prefix = prefixes.values[prefixes.offsets[state] : prefixes.offsets[state + 1]]
            expected = plain.scores(prefix.tolist())
            assert set(np.flatnonzero(row > 0)) == set(expected)
            np.testing.assert_allclose(
                row[list(expected)], list(expected.values()), rtol=1e-5, err_msg=str(prefix)
            )
            n_compared += 1
    assert n_compared == len(prefixes)


def test_neumf_and_the_plain_loop_have_the_same_lists(program, folder, tmp_path):
    run = program("recoach_models").neumf
    result = result_of(run, folder, tmp_path / "out.json", users=30, k=10)
    assert result["equal"] == 1
    assert min(result["seconds"], result["plain_seconds"]) > 0


def test_an_update_is_compared_with_retraining(program, log, tmp_path):
    frame = log.frame().select("user_id", "item_id", "timestamp")
    with gzip.open(tmp_path / "interactions.csv.gz", "wb") as file:
        frame.write_csv(file)
    run = program("recoach_models").daily_update
    result = result_of(run, tmp_path, tmp_path / "out.json", percent=100)
    assert set(result["ndcg@10"]) == {"no update", "daily update", "retraining"}
    assert min(result["seconds"]["daily update"], result["seconds"]["retraining"]) > 0
    assert result["new_rows"] > 0


def test_off_policy_values_are_those_of_the_formulas(program, tmp_path):
    program("simulate_bandit").simulate(3000, tmp_path / "log.npz")
    run = program("recoach_models").off_policy
    values = result_of(run, tmp_path, tmp_path / "out.json", samples=50)["values"]
    log = np.load(tmp_path / "log.npz")
    weights = log["policy"][log["group"], log["item"]] / log["propensity"]
    ips = (weights * log["reward"]).mean()
    assert values["ips"][0] == pytest.approx(ips)
    assert values["snips"][0] == pytest.approx(ips / weights.mean())
    assert all(low < value < high for value, low, high in values.values())
    assert weights.mean() == pytest.approx(1, abs=0.1)
    n_items = log["policy"].shape[1]  # the mean of 1 / p under the logging policy
    assert (1 / log["propensity"]).mean() == pytest.approx(n_items, rel=0.1)


def test_peers_split_a_log_as_recoach_does(program, log, folder):
    train, valid = program("peers.common").read(folder).hold_out()
    data = leave_last_out(log)
    assert len(valid.user) == len(data.valid.values)
    pairs = set(zip(train.user.tolist(), train.item.tolist(), strict=True))
    assert len(pairs) == len(train.user)
    users = np.repeat(np.arange(data.n_users), data.train.lengths)
    assert pairs == set(zip(users.tolist(), data.train.values.tolist(), strict=True))


def test_short_histories_have_a_training_row_only(program, tmp_path):
    rows = ["u:token\ti:token\tt:float", "a\tx\t10", "a\ty\t9", "b\tx\t1"]
    rows += [f"c\t{item}\t{time}" for time, item in enumerate("xxyxz")]
    (tmp_path / "log.inter").write_text("\n".join(rows) + "\n")
    train, valid = program("peers.common").read(tmp_path).hold_out()
    assert sorted(zip(train.user.tolist(), train.item.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (2, 0),
        (2, 1),
    ]
    assert (valid.user.tolist(), valid.item.tolist()) == ([2], [0])


def test_values_and_hits_that_differ_are_refused(program):
    rows = program("model_rows")
    rows.check_hits("work", 100, 99)
    with pytest.raises(SystemExit, match="hits differ: Recoach 100, peer 90"):
        rows.check_hits("work", 100, 90)
    rows.check_values("work", {"dr": [0.5, 0, 1]}, {"dr": [0.5, 0.1, 0.9]})
    with pytest.raises(SystemExit, match="the values of dr differ"):
        rows.check_values("work", {"dr": [0.5, 0, 1]}, {"dr": [0.6, 0, 1]})


class Measured:
    """A `Bench` whose programs are not run."""

    rounds = 2

    def __init__(self, data, work, rounds):
        self.rounds = rounds

    def run(self, program, task, folder, *, one_thread=False, **options):
        assert (program, one_thread) == ("recoach_models", True)
        values = {"seconds": 1.0, "plain_seconds": 4.0, "hits": 10, "plain_hits": 10}
        return values | {"versions": {"torch": "1"}}


def test_other_rows_stay_where_one_task_is_run(program, tmp_path, monkeypatch):
    run, table = program("run"), program("table")
    kept = {"work": "w", "peer": "p", "ours": 1.0, "theirs": 2.0, "unit": "s", "bar": None}
    kept |= {"note": "", "versions": {}, "ratio": 2.0}
    for name in ("results.json", "README.md"):
        shutil.copy(BENCHMARKS / name, tmp_path / name)
    (tmp_path / "results.json").write_text(json.dumps({"rows": {"grpo": [kept]}}))
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(table, "HERE", tmp_path)
    monkeypatch.setattr(run, "Bench", Measured)
    monkeypatch.setattr(run.os, "getloadavg", lambda: (9.0, 3.0, 1.0))
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "vsknn", "--rounds", "2"])
    run.main()
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows["grpo"] == [kept]
    assert (rows["vsknn"][0]["ratio"], rows["vsknn"][0]["load"]) == (4.0, 3.0)
    lines = (tmp_path / "README.md").read_text()
    assert "| w | p | 1 s | 2 s | 2 | – |  |" in lines
    assert "| 1 CPU s | 4 CPU s | 4 | – | hits at 20: 10 and 10; 2 rounds, load 3.0 |" in lines
