"""The values of single users of several runs, and cells compared by them."""

import numpy as np
import polars as pl
import pytest

from recoach.errors import RunError
from recoach.evaluation.crossed_effects import crossed_interval, crossed_log_ratio
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.record_digest import digest_of
from recoach.reproduction.user_values import (
    SCHEMA,
    CellModel,
    compare_cells,
    read_user_values,
    user_values,
    write_user_values,
)
from tools.results.committed import RunKey
from tools.results.user_values import collect_user_values

LOG = "toys"
USERS = [f"u{user}" for user in (3, 1, 2)]


def write_run(folder, seed, values, *, users=USERS, fingerprint="abc", **protocol):
    """Write a run whose models have these values of users, and return its record."""
    frames = [
        pl.DataFrame(
            {"user_id": users, "model": model, "history": range(len(users)), "mrr@5": of_users}
        )
        for model, of_users in values.items()
    ]
    record = {
        "seed": seed,
        "dataset": {"fingerprint": fingerprint},
        "protocol": {"repeats": "new", "primary": "mrr@5", "n_targets": len(users), **protocol},
        "models": {model: {"test": {"mrr@5": float(np.mean(v))}} for model, v in values.items()},
    }
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.write_frame("per_user.parquet", pl.concat(frames).with_columns(ndcg=1.0))
    run.write_json("results.json", record)
    return record


def test_a_row_holds_the_primary_metric_of_each_user_in_the_order_of_the_evaluation(tmp_path):
    values = {"base": [0.5, 0.25, 0.0], "tuned": [1.0, 0.5, 0.25]}
    record = write_run(tmp_path, 7, values)
    rows = user_values(RunFolder(tmp_path), "sasrec").to_dicts()
    assert [row["stage"] for row in rows] == ["base", "tuned"]
    assert [row["values"] for row in rows] == [values["base"], values["tuned"]]
    assert {(row["cell"], row["seed"], row["metric"]) for row in rows} == {("sasrec", 7, "mrr@5")}
    assert {row["run"] for row in rows} == {digest_of([record])}
    assert rows[0]["states"] == rows[1]["states"]


def test_no_user_id_is_stored(tmp_path):
    write_run(tmp_path, 7, {"base": [0.5] * 3}, users=["Anna", "Bert", "Carl"])
    write_user_values(tmp_path / "x.parquet", user_values(RunFolder(tmp_path), "sasrec"))
    assert b"Anna" not in (tmp_path / "x.parquet").read_bytes()
    assert "Anna" not in str(read_user_values(tmp_path / "x.parquet").to_dicts())


def test_a_user_with_several_states_has_their_mean(tmp_path):
    write_run(tmp_path, 7, {"base": [0.5, 0.1, 1.0]}, users=["u1", "u2", "u1"])
    (row,) = user_values(RunFolder(tmp_path), "sasrec").to_dicts()
    assert row["values"] == pytest.approx([0.75, 0.1])


@pytest.mark.parametrize(
    "change",
    [
        {"users": ["u3", "u2", "u1"]},
        {"fingerprint": "other"},
        {"repeats": "all"},
        {"n_targets": 6},
    ],
)
def test_other_data_users_or_targets_have_another_hash(tmp_path, change):
    write_run(tmp_path / "a", 7, {"base": [0.5] * 3})
    write_run(tmp_path / "b", 8, {"base": [0.7] * 3})
    write_run(tmp_path / "c", 7, {"base": [0.5] * 3}, **change)
    same, seed, other = (user_values(RunFolder(tmp_path / n), "c")["states"][0] for n in "abc")
    assert same == seed != other


def table(cells):
    """Return the rows of {(cell, stage): float[U, S]}; the seeds are 1, 2 and so on."""
    rows = [
        {
            "cell": cell,
            "seed": seed,
            "stage": stage,
            "metric": "ndcg@10",
            "states": "s",
            "run": "r",
            "values": column.tolist(),
        }
        for (cell, stage), values in cells.items()
        for seed, column in enumerate(values.T, 1)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def test_cells_are_compared_over_users_and_seeds():
    generator = np.random.default_rng(0)
    ours = generator.random((20, 4)).astype(np.float32).astype(float)
    theirs = generator.random((20, 3)).astype(np.float32).astype(float)
    frame = table({("a", "tuned"): ours, ("b", "control"): theirs, ("b", "tuned"): theirs + 1})
    result = compare_cells(frame.reverse(), CellModel("a", "tuned"), CellModel("b", "control"))
    assert result.seeds == (1, 2, 3)
    assert result.difference == crossed_interval(ours[:, :3] - theirs)
    assert result.log_ratio == crossed_log_ratio(ours[:, :3], theirs)


def test_cells_without_a_common_seed_or_users_are_not_compared():
    frame = table({("a", "tuned"): np.ones((3, 1)), ("b", "tuned"): np.ones((3, 1))})
    ours, theirs = CellModel("a", "tuned"), CellModel("b", "tuned")
    other_seed = pl.concat([frame[:1], frame[1:].with_columns(seed=pl.lit(2, pl.Int64))])
    with pytest.raises(RunError, match="no seed in common"):
        compare_cells(other_seed, ours, theirs)
    for column in ("states", "metric"):
        changed = pl.concat([frame[:1], frame[1:].with_columns(pl.lit("x").alias(column))])
        with pytest.raises(RunError, match="different users or by different metrics"):
            compare_cells(changed, ours, theirs)


@pytest.fixture
def committed(tmp_path):
    """Return the records and folders of two runs of which the values are collected."""
    keys = [RunKey("gains", LOG, "sasrec", seed) for seed in (1, 2)]
    folders = {key: tmp_path / "runs" / f"sasrec-{key.seed}" for key in keys}
    records = {
        key: write_run(folder, key.seed, {"base": [0.1, 0.2, key.seed / 8]})
        for key, folder in folders.items()
    }
    collect_user_values(records, folders, tmp_path)
    return records, folders, tmp_path / "per_user" / f"gains-{LOG}.parquet"


def test_the_values_of_a_log_are_in_one_file(committed):
    frame = read_user_values(committed[2])
    assert frame["seed"].to_list() == [1, 2]
    assert [values[2] for values in frame["values"].to_list()] == [0.125, 0.25]


def test_values_of_runs_whose_folders_are_elsewhere_stay(committed, tmp_path):
    records, folders, path = committed
    before = path.stat().st_mtime_ns
    elsewhere = {key: tmp_path / "nowhere" / folder.name for key, folder in folders.items()}
    collect_user_values(records, elsewhere, tmp_path)
    assert path.stat().st_mtime_ns == before
    comparisons = RunKey("gains", LOG, "sasrec", None)
    collect_user_values(records | {comparisons: {}}, elsewhere, tmp_path)
    assert len(read_user_values(path)) == 2


def test_values_of_another_run_than_the_record_are_dropped(committed, tmp_path):
    records, folders, path = committed
    first, second = records
    records[second] = records[second] | {"models": {"base": {"test": {"mrr@5": 0.9}}}}
    elsewhere = dict.fromkeys(folders, tmp_path / "nowhere")
    collect_user_values(records, elsewhere, tmp_path)
    assert read_user_values(path)["seed"].to_list() == [first.seed]


def test_runs_without_values_write_no_file(tmp_path):
    key = RunKey("gains", LOG, "gsau", 1)
    collect_user_values({key: {"models": {}}}, {key: tmp_path / "nowhere"}, tmp_path)
    assert not (tmp_path / "per_user").exists()


def test_the_file_is_small(tmp_path):
    generator = np.random.default_rng(1)
    ranks = generator.integers(1, 11, (2, 4000))
    hits = generator.random((2, 4000)) < 0.1
    values = np.where(hits, 1 / np.log2(ranks + 1), 0.0)
    write_user_values(tmp_path / "x.parquet", table({("a", "tuned"): values.T}))
    assert (tmp_path / "x.parquet").stat().st_size < 2 * 4000 * 4 / 6
