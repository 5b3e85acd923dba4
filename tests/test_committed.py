"""Records of runs as Parquet files, and the runs and tables made from them."""

import copy
import json

import polars as pl
import pytest

from recoach.errors import ConfigError, RunError
from recoach.reproduction.aggregate import aggregate
from recoach.reproduction.record_digest import digest_of
from tools.results.collect import (
    combined_comparisons,
    finished_runs,
    main,
    restore,
)
from tools.results.committed import (
    DETAILS,
    RUNS,
    RunKey,
    config_hash,
    from_frames,
    read_results,
    to_frames,
    write_results,
)
from tools.results.logs import COMMITTED

LOG = "toys-2014"
COMPARISON = {"a": "tuned", "b": "base", "split": "test", "metric": "ndcg@10"}
COMPARISON |= {"difference": 0.01, "low": -0.01, "high": 0.03, "relative": 0.1}


def record(seed, tuned=0.12):
    """Return a record with every kind of value that a run leaves."""
    popularity = {"valid": {"ndcg@10": 0.05}, "test": {"ndcg@10": 1 / 3}, "seen_masked": True}
    base = popularity | {"steps": 7, "best_step": 0, "seconds": 2.0}
    base |= {"lists": {"gini@10": 0.9}, "popularity_buckets": [{"items": 3, "recall@10": 0.1}]}
    return {
        "format": 1,
        "name": f"sasrec-{seed}",
        "dataset": {"name": LOG, "fingerprint": None, "users": 3, "items": 4, "interactions": 9},
        "model": "sasrec",
        "seed": seed,
        "protocol": {"split": "leave_last_out", "ranking": "full", "mask_seen": "all", "ks": [10]},
        "models": {
            "popularity": popularity,
            "base": base,
            "tuned": base | {"share": 0.75, "test": {"ndcg@10": tuned, "mrr@10": 0.1}},
        },
        "comparisons": [COMPARISON | {"verdict": "no difference"}],
        "diagnostics": {"curve": [[0, 0.1]], "first": {"kl": 0.0}, "last": {"kl": 0.5}},
        "config": {"seed": seed, "data": {"path": "Ä.csv"}, "grpo": {"horizon": 10}},
        "environment": {"python": "3.11.7", "versions": {"recoach": "0.1.0", "torch": "2.13.0"}},
    }


def some_records():
    """Return two seeds of a cell, a base without fine-tuning, and a record of several seeds."""
    base_only = record(5)
    del base_only["diagnostics"], base_only["models"]["tuned"]
    again = copy.deepcopy(base_only["models"])
    again["base"]["test"]["ndcg@10"] = 0.25
    base_only["retrained"] = {"models": again, "comparisons": []}
    combined = {"seeds": [7, 8], "runs": "0123", "comparisons": [COMPARISON]}
    return {
        RunKey("gains", LOG, "sasrec", None): combined,
        RunKey("gains", LOG, "sasrec", 7): record(7),
        RunKey("gains", LOG, "sasrec", 8): record(8),
        RunKey("verification", LOG, "gsau", 5): base_only,
    }


def test_records_written_to_parquet_are_read_back_unchanged(tmp_path):
    records = some_records()
    write_results(tmp_path, records)
    restored = read_results(tmp_path)
    assert restored == records
    for key, one in records.items():  # int or float, and the order of the keys
        assert json.dumps(restored[key]) == json.dumps(one)


def test_a_record_with_a_new_key_keeps_it():
    records = {RunKey("gains", LOG, "sasrec", 7): record(7) | {"hardware": {"cores": 2}}}
    assert from_frames(*to_frames(records)) == records


def test_every_metric_is_a_row_with_protocol_versions_and_config_hash():
    runs, details = to_frames(some_records())
    assert len(details) == 4
    row = {"log": LOG, "cell": "sasrec", "seed": 8, "stage": "tuned", "part": "test"}
    (value,) = runs.filter(**row, metric="ndcg@10").to_dicts()
    assert value["value"] == 0.12
    assert (value["data_split"], value["mask_seen"]) == ("leave_last_out", "all")
    assert (value["recoach"], value["torch"], value["python"]) == ("0.1.0", "2.13.0", "3.11.7")
    seeds = runs.filter(cell="sasrec").group_by("seed").agg(pl.col("config_hash").unique())
    assert seeds["config_hash"].to_list() == [[value["config_hash"]]] * 2
    assert runs.filter(part="training", metric="share")["value"].to_list() == [0.75, 0.75]


def test_the_config_hash_depends_on_every_setting_but_the_seed():
    config = record(7)["config"]
    assert config_hash(config) == config_hash(config | {"seed": 8})
    assert config_hash(config) != config_hash(config | {"grpo": {"horizon": 5}})


def test_unchanged_results_are_not_written_again(tmp_path):
    write_results(tmp_path, some_records())
    before = [(tmp_path / name).stat().st_mtime_ns for name in (RUNS, DETAILS)]
    write_results(tmp_path, some_records())
    assert [(tmp_path / name).stat().st_mtime_ns for name in (RUNS, DETAILS)] == before


def test_a_damaged_results_file_is_an_error(tmp_path):
    assert read_results(tmp_path) == {}
    write_results(tmp_path, some_records())
    (tmp_path / DETAILS).write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"details.parquet cannot be read"):
        read_results(tmp_path)


def test_restored_runs_are_found_again_and_newer_runs_are_kept(tmp_path):
    records = some_records()
    newer = tmp_path / "gains" / LOG / "sasrec-8" / "results.json"
    newer.parent.mkdir(parents=True)
    newer.write_text(json.dumps(record(8, tuned=0.2)))
    restore(records, tmp_path)
    assert finished_runs(tmp_path) == {
        RunKey("gains", LOG, "sasrec", 7): record(7),
        RunKey("gains", LOG, "sasrec", 8): record(8, tuned=0.2),
        RunKey("verification", LOG, "gsau", 5): records[RunKey("verification", LOG, "gsau", 5)],
    }


@pytest.mark.parametrize("same_runs", [True, False])
def test_stored_comparisons_over_users_are_used_for_the_same_runs_only(same_runs, tmp_path):
    seeds = [record(7), record(8)]
    from_users = COMPARISON | {"low": 0.005, "high": 0.015, "p_value": 0.01, "verdict": "better"}
    key = RunKey("gains", LOG, "sasrec", None)
    digest = digest_of(seeds) if same_runs else "of other runs"
    stored = {"seeds": [7, 8], "runs": digest, "comparisons": [from_users]}
    runs = {key._replace(seed=one["seed"]): one for one in seeds}
    restore({key: stored} | runs, tmp_path)
    suite = aggregate("gains", "quick", tmp_path / "gains", COMMITTED["gains"])
    cell = suite["data"][LOG]["cells"]["sasrec"]
    assert cell["users_averaged"] == same_runs
    assert cell["comparisons"][0]["verdict"] == ("better" if same_runs else "no difference")
    combined = combined_comparisons({"gains": suite}, tmp_path)
    assert combined == ({key: stored} if same_runs else {})


def test_results_are_collected_in_the_repository_only(tmp_path):
    with pytest.raises(ConfigError, match=r"has no README.md. Run `make results`"):
        main(tmp_path)


def test_the_metrics_of_models_trained_again_have_rows_of_their_own():
    runs, _ = to_frames(some_records())
    rows = runs.filter(cell="gsau", stage="base_retrained", part="test", metric="ndcg@10")
    assert rows["value"].to_list() == [0.25]
