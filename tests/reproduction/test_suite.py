"""What several seeds of a cell are joined to."""

import numpy as np
import polars as pl
import pytest

from recoach.experiments.config import resolve
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.aggregate import _compared, _diagnostics, _mean_and_deviation, join
from recoach.reproduction.paper_cells import Source
from recoach.reproduction.runner import Plan, _run


def finished(tmp_path, gains):
    """Write 40 users' values for each seed; the tuned model gains so much with each user."""
    random, users = np.random.default_rng(0), [f"u{n}" for n in range(40)]
    folders, records = [], []
    for seed, gain in enumerate(gains):
        base = random.random(40)
        frames, models = [], {}
        for model, values in (("base", base), ("tuned", base + gain)):
            models[model] = {"test": {"ndcg@10": values.mean()}}
            frame = pl.DataFrame({"user_id": users, "model": model, "ndcg@10": values})
            frames.append(frame.sample(fraction=1.0, shuffle=True, seed=seed + len(frames)))
        folders.append(RunFolder(tmp_path / str(seed)))
        folders[-1].write_frame("per_user.parquet", pl.concat(frames))
        records.append({"models": models})
    return folders, records


@pytest.mark.parametrize(("gains", "mean"), [([0.1], 0.1), ([0.3, -0.1], 0.1), ([-0.2, 0.0], -0.1)])
def test_users_are_paired_whatever_the_order_and_averaged_over_seeds(gains, mean, tmp_path):
    (found,) = _compared(*finished(tmp_path, gains))
    assert (found["a"], found["b"], found["metric"]) == ("tuned", "base", "ndcg@10")
    # Every user gains the same: paired, there is no spread at all.
    assert [found["low"], found["high"]] == pytest.approx([mean, mean])
    assert found["verdict"] == ("better" if mean > 0 else "worse")


def test_where_a_seed_left_only_its_record_the_ends_of_the_intervals_are_averaged(tmp_path):
    folders, records = finished(tmp_path, [0.1, 0.2])
    (folders[1].path / "per_user.parquet").unlink()
    for record, ends in zip(records, [(-0.1, 0.3), (0.14, 0.26)], strict=True):
        row = {"a": "tuned", "b": "base", "split": "test", "metric": "ndcg@10"}
        numbers = {"difference": sum(ends) / 2, "low": ends[0], "high": ends[1], "relative": 0.5}
        record["comparisons"] = [row | numbers, row | numbers | {"b": "popularity"}]
    (found,) = _compared(folders, records)
    assert [found["low"], found["difference"], found["high"]] == pytest.approx([0.02, 0.15, 0.28])
    assert found["verdict"] == "better"
    assert "seeds" not in found


def test_a_committed_record_is_a_finished_cell(tmp_path):
    source = Source("shop", "shop.csv")
    plan = Plan("gains", (source,), "quick", (7,), tmp_path, ("lightgcn",))
    (cell,) = plan.cells(source, 7)
    config = resolve(cell.tables, "cell")
    plan.folder(source, cell, 7).write_json("results.json", {"config": config.tables()})
    _run(config, plan.folder(source, cell, 7), watch=None)  # there is no shop.csv to run on
    assert not (plan.folder(source, cell, 7).path / "config.toml").exists()


def test_the_spread_over_seeds_is_that_of_a_sample():
    assert _mean_and_deviation([1.0, 2.0, 4.0]) == {"mean": 2.333333, "sd": 1.527525}
    assert _mean_and_deviation([3.0]) == {"mean": 3.0, "sd": 0.0}


def test_from_three_seeds_on_there_is_an_interval_over_them(tmp_path):
    (found,) = _compared(*finished(tmp_path, [0.1, 0.2, 0.3]))
    low, high = found["seeds"]
    assert (low + high) / 2 == pytest.approx(0.2)
    assert (high - low) / 2 == pytest.approx(0.1 / 3**0.5 * 4.302653)
    (found,) = _compared(*finished(tmp_path, [0.1, 0.2]))
    assert "seeds" not in found


def record(seed, value):
    """Return a record as a cell leaves it, with one metric."""
    figures = {"test": {"ndcg@10": value}, "lists": {}, "popularity_buckets": []}
    return {
        "seed": seed,
        "dataset": {"users": 3},
        "model": "lightgcn",
        "protocol": {},
        "models": {"base": figures, "tuned": figures | {"steps": 5, "seconds": 1.0}},
        "comparisons": [],
        "config": {"seed": seed},
        "environment": {},
    }


def test_all_that_is_finished_is_joined_though_less_was_asked_for(tmp_path):
    for log, cell, seed in [("shop", "lightgcn", 7), ("shop", "lightgcn", 8), ("mall", "gsau", 7)]:
        RunFolder(tmp_path / log / f"{cell}-{seed}").write_json("results.json", record(seed, 0.5))
    RunFolder(tmp_path / "shop" / "lightgcn-temperature-7").write_json("results.json", {})
    (tmp_path / "shop" / "sasrec-7").mkdir()  # begun, not finished
    found = join("gains", "quick", tmp_path, [Source("shop", "shop.csv")])
    assert list(found["data"]) == ["shop", "mall"]
    assert {name: cell["seeds"] for name, cell in found["data"]["shop"]["cells"].items()} == {
        "lightgcn": [7, 8]
    }
    assert found["seeds"] == [7, 8]
    assert found["data"]["mall"]["dataset"] == {"users": 3}


def test_what_was_logged_is_averaged_only_where_every_seed_tells_it():
    told = {"first": {"kl": 1.0}, "last": {"kl": 2.0}, "curve": [[0, 0.1]]}
    other = {"first": {"kl": 3.0, "entropy": 1.0}, "last": {"kl": 2.0}, "curve": [[0, 0.2]]}
    found = _diagnostics([{"diagnostics": told}, {"diagnostics": other}])
    assert found == {"first": {"kl": 2.0}, "last": {"kl": 2.0}, "curve": [[0, 0.1]]}
    assert _diagnostics([{"diagnostics": told}, {}]) == {}
