"""`recoach rerank`, and --rerank of recommend and serve."""

import json

import polars as pl
import pytest

from recoach.cli.serve import read_snapshot
from recoach.experiments.run_folder import RunFolder
from recoach.rerank.config import RerankConfig


def test_knobs_are_selected_on_validation_and_reported_on_test(recoach, finished, tmp_path):
    path = tmp_path / "mmr.json"
    knobs = (0.0, 0.4, 1.0)
    result = recoach(
        "rerank", finished, "--by", "mmr", "--knob", *knobs, "--margin", "0.2", "--output", path
    )
    assert result.code == 0, result.err
    record = json.loads(path.read_text())
    base = record["base"]
    assert [entry["knob"] for entry in record["knobs"]] == list(knobs)
    for part in ("valid", "test"):
        assert record["knobs"][0][part] == base[part]
    diversity = [entry["test"]["vector_diversity@10"] for entry in record["knobs"]]
    assert diversity[0] < diversity[1] < diversity[2]
    least = 0.8 * base["valid"]["ndcg@10"]
    within = [entry for entry in record["knobs"] if entry["valid"]["ndcg@10"] >= least]
    best = max(within, key=lambda entry: entry["valid"]["vector_diversity@10"])
    assert record["chosen"] == best["knob"]
    stored = json.loads((finished / "results.json").read_text())["models"]["base"]["test"]
    assert base["test"]["ndcg@10"] == pytest.approx(stored["ndcg@10"], abs=1e-6)
    assert record["milliseconds"]["reranked"] > 0
    for word in ("knob 0.4", "selected on validation", "ms without re-ranking", "NDCG@10, knob"):
        assert word in result.out


@pytest.mark.parametrize("by", ["popularity", "exposure_cap"])
def test_where_an_offset_is_the_optimum_the_output_says_so(recoach, finished, tmp_path, by):
    path = tmp_path / "table.md"
    line = ("rerank", finished, "--by", by, "--knob", "0.01", "--depth", "20", "--output", path)
    result = recoach(*line)
    assert result.code == 0, result.err
    assert "fine-tuning can only store" in result.out
    assert ("the limit cannot be met" in result.out) == (by == "exposure_cap")
    assert path.read_text().startswith(f"### {by} over the 20 best items, test")
    assert "* selected" not in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "mmr", "--knob", "2"], "recoach rerank: the knob of mmr is 0 to 1, not 2"),
        (["--by", "mmx", "--knob", "2"], 'Did you mean "mmr"?'),
        (["--by", "cost", "--knob", "2", "--column", "p"], "the items table has no column 'p'"),
        (["--by", "value", "--knob", "2"], "the log has no column `value`"),
        (["--by", "mmr", "--knob", "0.2", "--output", "x.csv"], "must end with .json or .md"),
        (["--by", "mmr", "--knob", "0.2", "--margin", "1"], "--margin must be between 0 and 1"),
    ],
)
def test_settings_are_checked(recoach, finished, words, message):
    result = recoach("rerank", finished, *words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_recommend_and_serve_re_rank(recoach, finished, tmp_path):
    paths = [tmp_path / name for name in ("plain.csv", "reranked.csv")]
    words = ["recommend", finished, "--users", "u1", "u2", "--k", "5", "--stage", "base"]
    assert recoach(*words, "--output", paths[0]).code == 0
    line = (*words, "--rerank", "by=mmr", "knob=0.8", "--output", paths[1])
    result = recoach(*line)
    assert result.code == 0, result.err
    assert "mmr(0.8) adds" in result.out
    plain, reranked = (pl.read_csv(path) for path in paths)
    assert reranked.height == plain.height == 10
    assert not reranked["item_id"].equals(plain["item_id"])
    snapshot = read_snapshot(RunFolder(finished), RerankConfig(by="mmr", knob=0.8))
    query = snapshot.build_query(user="u1", history=None, k=5, exclude_seen=True, candidates=None)
    (found,) = snapshot.recommend("base", [query])
    ids = [snapshot.item_ids[item] for item in found.items]
    assert ids == reranked.filter(pl.col("user_id") == "u1")["item_id"].to_list()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mmr"], "--rerank must be KEY=VALUE, like by=mmr knob=0.3, not 'mmr'"),
        (["by=mmr", "knob=3"], "--rerank: the knob of mmr is 0 to 1, not 3"),
        (["by=mmr", "knob=x"], "--rerank.knob:"),
        (["by=mmr", "knb=0.3", "knob=0.1"], "--rerank: there is no setting 'knb'"),
    ],
)
def test_the_option_is_checked(recoach, finished, words, message):
    for command in (["recommend", finished], ["serve", finished, "--port", "0"]):
        result = recoach(*command, "--rerank", *words)
        assert result.code == 2
        assert message in result.err
