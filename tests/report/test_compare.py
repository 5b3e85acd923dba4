"""Runs side by side: what is shown, and what must not be compared."""

import copy

import pytest

from recoach.errors import RunError
from recoach.report.compare import compared


@pytest.fixture
def other(results):
    """Return a second run of the same data, another base."""
    made = copy.deepcopy(results)
    made["models"]["base"]["test"]["ndcg@10"] *= 0.5
    return made


def test_models_stand_beside_each_other_and_popularity_once(results, other):
    grid = compared({"a": results, "b": other}, ["ndcg@10", "recall@10"])
    names = [row[0] for row in grid.rows]
    assert len(names) == len(set(names))
    assert sum("opularity" in name for name in names) == 1
    assert sum(name.startswith("a: ") for name in names) == len(results["models"]) - 1
    assert sum(name.startswith("b: ") for name in names) == len(results["models"]) - 1
    assert grid.head == ("Model", "NDCG@10", "Recall@10")


def test_a_change_is_against_the_run_s_own_base_and_marked_where_it_is_real(results, other):
    for one in (results, other):
        tuned, base = (one["models"][key]["test"]["ndcg@10"] for key in ("tuned", "base"))
        rows = dict(row[:2] for row in compared({"run": one}, ["ndcg@10"]).rows)
        (found,) = (text for name, text in rows.items() if "GRPO" in name)
        assert f"{100 * (tuned / base - 1):.1f} %" in found
        words = [
            c["verdict"]
            for c in one["comparisons"]
            if (c["a"], c["b"], c["metric"], c["split"]) == ("tuned", "base", "ndcg@10", "test")
        ]
        assert ("*" in found) == (words != ["no difference"])


def test_other_data_are_not_compared(results, other):
    other["dataset"]["fingerprint"] = "0" * 16
    with pytest.raises(RunError, match="a and b are of other data"):
        compared({"a": results, "b": other}, ["ndcg@10"])


def test_another_protocol_is_not_compared(results, other):
    other["protocol"]["mask_seen"] = "none"
    with pytest.raises(RunError, match=r"mask_seen: .* and 'none'"):
        compared({"a": results, "b": other}, ["ndcg@10"])


def test_a_metric_that_was_not_measured_is_named(results):
    with pytest.raises(RunError, match="a has no ndcg@7; it has"):
        compared({"a": results}, ["ndcg@7"])
