"""The finished runs of a suite, aggregated over seeds, users and logs."""

import numpy as np
import polars as pl
import pytest

from recoach.experiments.config import resolve
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.aggregate import _compare, _diagnostics, _mean_and_deviation, aggregate
from recoach.reproduction.paper_cells import Source
from recoach.reproduction.runner import Plan, _run


def compared(tmp_path, gains):
    """Compare two models of 40 users; `gains` is what the tuned one adds for each user, by seed."""
    runs, records = finished_runs(tmp_path, gains)
    rows, _ = _compare(runs, records, tmp_path / "stored.json")
    return rows


def finished_runs(tmp_path, gains):
    """Write the values of 40 users for each seed and return the run folders and the records."""
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
    (row,) = compared(tmp_path, gains)
    assert (row["a"], row["b"], row["metric"]) == ("tuned", "base", "ndcg@10")
    # Every user gains the same, so the paired differences do not vary.
    assert [row["low"], row["high"]] == pytest.approx([mean, mean])
    assert row["verdict"] == ("better" if mean > 0 else "worse")


def test_without_the_per_user_values_of_a_seed_the_interval_ends_are_averaged(tmp_path):
    runs, records = finished_runs(tmp_path, [0.1, 0.2])
    (runs[1].path / "per_user.parquet").unlink()
    for record, ends in zip(records, [(-0.1, 0.3), (0.14, 0.26)], strict=True):
        row = {"a": "tuned", "b": "base", "split": "test", "metric": "ndcg@10"}
        numbers = {"difference": sum(ends) / 2, "low": ends[0], "high": ends[1], "relative": 0.5}
        record["comparisons"] = [row | numbers, row | numbers | {"b": "popularity"}]
    (row,), users_averaged = _compare(runs, records, tmp_path / "stored.json")
    assert not users_averaged
    assert [row["low"], row["difference"], row["high"]] == pytest.approx([0.02, 0.15, 0.28])
    assert row["verdict"] == "better"
    assert "seeds" not in row


def test_a_cell_with_a_restored_record_is_not_run_again(tmp_path):
    source = Source("shop", "shop.csv")
    plan = Plan("gains", (source,), "quick", (7,), tmp_path, ("lightgcn",))
    (cell,) = plan.cells(source, 7)
    config = resolve(cell.tables, "cell")
    plan.run_folder(source, cell, 7).write_json("results.json", {"config": config.tables()})
    # Would fail if it ran anything: there is no shop.csv.
    _run(config, plan.run_folder(source, cell, 7), make_callback=None)
    assert not (plan.run_folder(source, cell, 7).path / "config.toml").exists()


def test_the_deviation_over_seeds_is_that_of_a_sample():
    assert _mean_and_deviation([1.0, 2.0, 4.0]) == {"mean": 2.333333, "sd": 1.527525}
    assert _mean_and_deviation([3.0]) == {"mean": 3.0, "sd": 0.0}


def test_from_three_seeds_on_there_is_an_interval_over_them(tmp_path):
    (row,) = compared(tmp_path, [0.1, 0.2, 0.3])
    low, high = row["seeds"]
    assert (low + high) / 2 == pytest.approx(0.2)
    assert (high - low) / 2 == pytest.approx(0.1 / 3**0.5 * 4.302653)
    (row,) = compared(tmp_path, [0.1, 0.2])
    assert "seeds" not in row


def record(seed, value):
    """Return the record of a run with one metric."""
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


def test_runs_of_other_logs_and_seeds_in_the_folder_are_aggregated_too(tmp_path):
    for log, cell, seed in [("shop", "lightgcn", 7), ("shop", "lightgcn", 8), ("mall", "gsau", 7)]:
        RunFolder(tmp_path / log / f"{cell}-{seed}").write_json("results.json", record(seed, 0.5))
    RunFolder(tmp_path / "shop" / "lightgcn-temperature-7").write_json("results.json", {})
    (tmp_path / "shop" / "sasrec-7").mkdir()  # begun, not finished
    suite = aggregate("gains", "quick", tmp_path, [Source("shop", "shop.csv")])
    assert list(suite["data"]) == ["shop", "mall"]
    assert {name: cell["seeds"] for name, cell in suite["data"]["shop"]["cells"].items()} == {
        "lightgcn": [7, 8]
    }
    assert suite["seeds"] == [7, 8]
    assert suite["data"]["mall"]["dataset"] == {"users": 3}


def test_what_the_run_of_an_earlier_version_lacks_is_left_out(tmp_path):
    (tmp_path / "shop" / "lightgcn-6").mkdir(parents=True)
    (tmp_path / "shop" / "lightgcn-6" / "config.toml").write_text("[no_such_table]\n")
    for seed in (7, 8):
        run, content = RunFolder(tmp_path / "shop" / f"lightgcn-{seed}"), record(seed, 0.5)
        users = pl.DataFrame({"user_id": ["a", "b", "c"], "ndcg@10": [0.4, 0.5, 0.6]})
        if seed == 7:
            content["models"]["random"] = content["models"]["base"]
            for model in content["models"].values():
                model["test"] = model["test"] | {"mrr": 0.1}
                model["strata"] = {"by length": {"short": {"mrr": 0.1}}}
                model["popularity_buckets"] = [{"recall@10": 0.2}]
            users = users.with_columns(pl.lit(0).alias("history"), pl.lit(0.1).alias("mrr"))
        run.write_json("results.json", content)
        frames = [users.with_columns(pl.lit(name).alias("model")) for name in ("base", "tuned")]
        run.write_frame("per_user.parquet", pl.concat(frames))
    suite = aggregate("gains", "quick", tmp_path, [Source("shop", "shop.csv")])
    found = suite["data"]["shop"]["cells"]["lightgcn"]
    assert list(found["models"]) == ["base", "tuned"]
    for model in found["models"].values():
        assert list(model["test"]) == ["ndcg@10"]
        assert (model["strata"], model["popularity_buckets"]) == ({}, [])
    assert [(row["a"], row["b"], row["metric"]) for row in found["comparisons"]] == [
        ("tuned", "base", "ndcg@10")
    ]


def test_a_diagnostic_is_averaged_only_where_every_seed_logged_it():
    first = {"first": {"kl": 1.0}, "last": {"kl": 2.0}, "curve": [[0, 0.1]]}
    other = {"first": {"kl": 3.0, "entropy": 1.0}, "last": {"kl": 2.0}, "curve": [[0, 0.2]]}
    means = _diagnostics([{"diagnostics": first}, {"diagnostics": other}])
    assert means == {"first": {"kl": 2.0}, "last": {"kl": 2.0}, "curve": [[0, 0.1]]}
    assert _diagnostics([{"diagnostics": first}, {}]) == {}
