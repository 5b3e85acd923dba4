"""The budget table of the report."""

import json

import pytest

from recoach.report.budget import budget_sentence, budget_table
from recoach.report.html import write_report

BASE = {
    "optimiser_steps": 900,
    "states": 460_800,
    "encoder_passes": 30_000,
    "validations": 12,
    "multiply_adds": 250_000_000_000,
    "seconds": 61.5,
    "device": "cpu",
    "data": "train",
    "parameters": 812_345,
    "reward_models": 0,
}
TUNED = BASE | {"multiply_adds": 30_250_000_000, "optimiser_steps": 30}


@pytest.fixture
def record(results):
    for stage, budget in (("base", BASE), ("tuned", TUNED), ("control", TUNED)):
        results["models"][stage]["budget"] = dict(budget)
    return results


def test_a_row_has_the_counts_of_a_model(record):
    table = budget_table(record)
    assert [row[0] for row in table.rows] == [
        "Base",
        "Base + continued training",
        "Base + fine-tuning",
    ]
    counts = ("900", "460,800", "30,000", "250", "12", "62", "cpu", "train", "812,345")
    assert table.rows[0] == ("Base", *counts)
    assert table.rows[2][4] == "30.2"
    assert len(table.columns) == len(table.rows[0])


def test_the_sentence_compares_the_multiply_adds_with_the_base(record):
    text = "took 12 % of the base's multiply-adds"
    assert budget_sentence(record) == f"GRPO {text}, continued training 12 %."
    del record["models"]["control"]
    record["models"]["tuned"]["budget"]["reward_models"] = 4
    ending = "; that includes the 4 models of the cross-fitted reward."
    assert budget_sentence(record) == f"GRPO {text}{ending}"


def test_models_that_were_trained_again_have_rows_of_their_own(record):
    again = {"base": {"budget": BASE | {"data": "train and validation"}}, "popularity": {}}
    record["retrained"] = {"models": again}
    row = budget_table(record).rows[-1]
    assert (row[0], row[8]) == ("Base, trained again", "train and validation")


@pytest.mark.parametrize(("stage", "left"), [("base", {}), ("tuned", {"seconds": 1.0})])
def test_counts_that_are_not_known_give_no_sentence(record, stage, left):
    record["models"][stage]["budget"] = left
    assert budget_sentence(record) == ""
    rows = {row[0]: row for row in budget_table(record).rows}
    label = {"base": "Base", "tuned": "Base + fine-tuning"}[stage]
    assert rows[label][1:5] == ("–",) * 4


def test_a_base_trained_elsewhere_is_not_divided_by(record):
    record["models"]["base"]["budget"]["multiply_adds"] = 0
    assert budget_sentence(record) == ""


def test_earlier_records_have_no_table(results):
    assert budget_table(results) is None


def test_the_page_has_the_table_and_the_sentence(run, record):
    (run / "results.json").write_text(json.dumps(record))
    page = write_report(run).read_text()
    assert '<h2 id="budget">Training budget</h2>' in page
    assert '<a href="#budget">' in page
    assert "<td>460,800</td>" in page
    assert "GRPO took 12\u00a0% of the base&#39;s multiply-adds" in page
