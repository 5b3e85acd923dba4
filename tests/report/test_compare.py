"""The table that compares runs, and the runs that it refuses to compare."""

import copy

import pytest

from recoach.errors import RunError
from recoach.report.compare import compare_runs, default_metrics


@pytest.fixture
def other(results):
    """Return a second run with the same data and another base."""
    second = copy.deepcopy(results)
    second["models"]["base"]["test"]["ndcg@10"] *= 0.5
    return second


def test_every_model_has_a_row_and_popularity_has_one(results, other):
    table = compare_runs({"a": results, "b": other}, ["ndcg@10", "recall@10"])
    names = [row[0] for row in table.rows]
    assert len(names) == len(set(names))
    assert sum("opularity" in name for name in names) == 1
    assert sum(name.startswith("a: ") for name in names) == len(results["models"]) - 1
    assert sum(name.startswith("b: ") for name in names) == len(results["models"]) - 1
    assert table.columns == ("Model", "NDCG@10", "Recall@10")


def test_changes_refer_to_the_base_of_the_same_run_and_significant_ones_have_a_star(results, other):
    for run in (results, other):
        tuned, base = (run["models"][key]["test"]["ndcg@10"] for key in ("tuned", "base"))
        rows = dict(row[:2] for row in compare_runs({"run": run}, ["ndcg@10"]).rows)
        (cell,) = (text for name, text in rows.items() if "fine-tuning" in name)
        assert f"{100 * (tuned / base - 1):.1f} %" in cell
        verdicts = [
            c["verdict"]
            for c in run["comparisons"]
            if (c["a"], c["b"], c["metric"], c["split"]) == ("tuned", "base", "ndcg@10", "test")
        ]
        assert ("*" in cell) == (verdicts != ["no difference"])


def test_runs_with_different_data_are_refused(results, other):
    other["dataset"]["fingerprint"] = "0" * 16
    with pytest.raises(RunError, match="a and b have different data"):
        compare_runs({"a": results, "b": other}, ["ndcg@10"])


def test_runs_with_different_protocols_are_refused(results, other):
    other["protocol"]["repeats"] = "all"
    with pytest.raises(RunError, match=r"repeats: .* and 'all'"):
        compare_runs({"a": results, "b": other}, ["ndcg@10"])


def test_a_metric_without_results_is_named(results):
    with pytest.raises(RunError, match=r"a has no metric 'ndcg@7'\. Choose from: "):
        compare_runs({"a": results}, ["ndcg@7"])


def test_the_default_metrics_are_those_that_all_runs_have(results, other):
    results["protocol"]["ks"] = [1, 5, 10, 50]
    other["protocol"]["ks"] = [5, 20, 50]
    assert default_metrics({"a": results}) == ["recall@10", "ndcg@10", "recall@50", "ndcg@50"]
    assert default_metrics({"a": results, "b": other}) == [
        "recall@5",
        "ndcg@5",
        "recall@50",
        "ndcg@50",
    ]
    other["protocol"]["ks"] = [20]
    assert default_metrics({"b": other}) == ["recall@20", "ndcg@20"]
