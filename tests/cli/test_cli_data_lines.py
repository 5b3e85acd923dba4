"""One line tells what was read of a log; a run is that of its log, or is refused."""

import json
from pathlib import Path

import pytest

from recoach.data.prepared import load_dataset
from recoach.data.protocol import ByRatio, ByTime, LeaveLastOut

ROWS = [
    (f"u{user}", f"i{(user + step) % 7}", str(step % 5)) for user in range(9) for step in range(6)
]
LINE = "a.csv: 55 rows read; user_id, item_id=sku, rating; 1 rows dropped: outside the 3-core; "
LINE += "no times: file order is taken (other columns: remark)"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [*ROWS, ("rare", "i1", "5")]
    lines = ["user_id,sku,rating,remark", *(",".join([*row, "x"]) for row in rows)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    return "a.csv"


READ = ["--column", "item_id=sku"]
POPULARITY = ["--model", "popularity", "--set", "data.k_core=3"]


def test_what_was_read_is_one_line_of_every_command(recoach, file):
    assert LINE in recoach("data", "describe", file, "--k-core", 3, *READ).out
    for _ in range(2):  # written, then reused
        out = recoach("data", "prepare", file, "--output", "p", "--k-core", 3, *READ).out
        assert f"{LINE} Each user's last interaction is the test item" in out
        assert "p: 9 users, 7 items" in out
    assert LINE in recoach("pretrain", file, "--output", "b", *READ, *POPULARITY).out
    assert LINE in recoach("pretrain", "p", "--output", "c", *POPULARITY[:2]).out
    report = json.loads(Path("p/dataset.json").read_text())["report"]
    assert report["line"] == LINE
    assert (report["rows"], report["dropped"]) == (55, {"outside the 3-core": 1})
    with Path("x.toml").open("w") as toml:
        toml.write(
            '[data]\npath = "a.csv"\ncolumns = {item_id = "sku"}\n[model]\nname="popularity"'
        )
    changes = ["--set", "data.k_core=3", "data.min_rating=1", 'data.dedup="last"']
    out = recoach("run", "x.toml", "--output", "d", *changes).out
    assert "18 rows dropped: rated below 1; 1 rows dropped: outside the 3-core; " in out


@pytest.mark.parametrize("memory", [[], ["--memory", "1GB"]])
def test_the_counts_are_the_same_on_disk(recoach, file, memory):
    if memory:
        pytest.importorskip("duckdb")
    with Path(file).open("a") as log:
        log.write("u0,i1,4,x\n")
    filters = ["--k-core", 3, "--dedup", "last", "--min-rating", 1, *READ]
    out = recoach("data", "prepare", file, "--output", "p", *filters, *memory).out
    reasons = {"rated below 1": 18, "repeated": 1, "outside the 3-core": 1}
    dropped = "; ".join(f"{count} rows dropped: {reason}" for reason, count in reasons.items())
    assert f"a.csv: 56 rows read; user_id, item_id=sku, rating; {dropped}; " in out


def test_the_same_command_after_the_log_changed_is_refused(recoach, file):
    command = ["pretrain", file, "--output", "b", *READ, *POPULARITY]
    assert recoach(*command).code == 0
    repeated = recoach(*command)
    assert repeated.code == 0
    assert "b is finished and is not run again." in repeated.out
    with Path(file).open("a") as log:
        log.write("u0,i6,4,x\n")
    refused = recoach(*command)
    assert refused.code == 2
    assert "Error: b was made from an earlier a.csv (fingerprint " in refused.err
    assert "Choose another --output.\n" in refused.err
    assert "test metrics" not in refused.out
    assert recoach(*command, "--resume").code == 2
    assert recoach("evaluate", "b").code == 0
    Path(file).unlink()
    gone = recoach(*command)
    assert gone.code == 0
    assert "a.csv is gone; the run's own copy of the data is used." in gone.out


def test_fine_tuning_without_a_step_to_learn_leaves_the_run_as_it_is(recoach, tmp_path, run_files):
    rows = [f"u{user},i{(user + step) % 5}\n" for user in range(9) for step in range(3)]
    (tmp_path / "three.csv").write_text("user_id,item_id\n" + "".join(rows))
    changes = ["data.k_core=0", "pretrain.epochs=1", "model.dim=8"]
    command = ["pretrain", tmp_path / "three.csv", "--model", "lightgcn", "--set", *changes]
    assert recoach(*command, "--output", tmp_path / "b").code == 0
    config = (tmp_path / "b" / "config.toml").read_text()
    refused = recoach("finetune", tmp_path / "b", "--set", "finetune.epochs=1")
    assert refused.code == 2
    assert "after holding out two, no user has two items left to learn a next step" in refused.err
    assert (tmp_path / "b" / "config.toml").read_text() == config
    refused = recoach(
        "pretrain", tmp_path / "three.csv", "--output", tmp_path / "c", "--set", *changes
    )
    assert refused.code == 2
    assert "after holding out two, no user has two items left to learn a next step" in refused.err
    assert not [name for name in run_files.files(tmp_path) if name.startswith("c/")]


@pytest.mark.parametrize(
    ("option", "split"),
    [
        (("--split", "ratio"), ByRatio()),
        (("--split", '{kind = "time", at = 0.5, target = "all"}'), ByTime(at=0.5, target="all")),
        (("--test-items", "1"), LeaveLastOut()),
        (("--test-items", "3"), LeaveLastOut(test_items=3)),
    ],
)
def test_prepare_splits_as_it_is_told_and_says_so(recoach, log, tmp_path, option, split):
    result = recoach("data", "prepare", log, "--output", tmp_path / "set", *option)
    assert result.code == 0, result
    assert load_dataset(tmp_path / "set").split == split
    sentence = {"ratio": "10 % of each user's events", "time": "0.5 quantile of their times"}
    assert sentence.get(split.kind, "Each user's last") in result.out


def test_a_split_cannot_be_given_twice(recoach, log, tmp_path):
    arguments = ("--split", "time", "--test-items", "2")
    result = recoach("data", "prepare", log, "--output", tmp_path / "set", *arguments)
    assert result.code == 2
    assert "--test-items is a setting of leave_last_out" in result.err


def test_prepare_marks_rejections_and_orders_events(recoach, tmp_path):
    rows = [f"u{u},i{i},{['buy', 'look', 'skip'][i % 3]}" for u in range(4) for i in range(9)]
    (tmp_path / "a.csv").write_text("user_id,item_id,event_type\n" + "\n".join(rows) + "\n")
    options = ("--k-core", "0", "--events", "look,buy,skip", "--negative-events", "skip")
    arguments = ("data", "prepare", tmp_path / "a.csv", "--output", tmp_path / "set", *options)
    assert recoach(*arguments).code == 0
    dataset = load_dataset(tmp_path / "set")
    assert dataset.negatives.lengths.tolist() == [3] * 4
    types = dataset.train.columns["event_type"]
    assert types.dtype.categories.to_list() == ["look", "buy", "skip"]
    assert set(types) == {"look", "buy"}
