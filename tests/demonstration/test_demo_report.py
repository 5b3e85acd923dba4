"""The demonstration: selection on validation, the sentence, the tables and the picture."""

import pytest

from recoach.demonstration.lists import select
from recoach.demonstration.report import (
    demo_sentence,
    demo_tables,
    forecast_sentences,
    write_demo,
)


def entry(revenue=100.0, ndcg=0.2, valid=(0.2, 1.0), knob=0.0):
    truth = {"true_clicks": 0.3, "true_purchases": 0.05, "true_revenue": revenue}
    return {
        "knob": knob,
        "valid": {"ndcg@10": valid[0], "value@10": valid[1]},
        "test": {"ndcg@10": 0.2, "value@10": 1.0, "true_ndcg": ndcg} | truth,
    }


def record(control=101.0, rule=105.0, grpo=112.0, ndcg=0.1988, keeps=True):
    base = entry()
    entries = {
        "base": base,
        "continued training": entry(control),
        "value, continued training": entry(rule, knob=0.2),
        "GRPO": entry(grpo, ndcg, knob=2.0),
    }
    rows = [{"method": name, "keeps": True} | one for name, one in entries.items()]
    rows[3]["keeps"] = keeps
    known = {"model": "base", "truth": 0.2, "forecast": 0.21, "low": 0.19, "high": 0.23}
    return {
        "tolerance": 0.01,
        "base": base,
        "methods": {name: [one] for name, one in entries.items() if name != "base"},
        "rows": rows,
        "forecasts": [
            known | {"is_inside": True},
            {"model": "tuned", "truth": 0.3, "reasons": ["The support gap is 3 %."]},
        ],
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "GRPO's lists bring in 12.0 % more revenue than the base's, those of continued "
            "training 1.0 % more, those of the best re-ranker (value offset on continued "
            "training) 5.0 % more; the price is 0.6 % of NDCG@10.",
        ),
        (
            {"grpo": 104.0, "control": 99.5, "ndcg": 0.21},
            "GRPO is not ahead: its lists bring in 4.0 % more revenue than the base's, those of "
            "continued training 0.5 % less, those of the best re-ranker (value offset on "
            "continued training) 5.0 % more; NDCG@10 rises by 5.0 %.",
        ),
        (
            {"grpo": 100.0, "control": 100.0, "rule": 98.0, "ndcg": 0.2, "keeps": False},
            "GRPO is not ahead: its lists bring in as much revenue as the base's, those of "
            "continued training as much, those of the best re-ranker (value offset on continued "
            "training) 2.0 % less; NDCG@10 stays the same (no weight kept it within 1 % on "
            "validation).",
        ),
        (
            {"grpo": 97.0, "control": 96.0, "rule": 95.0},
            "GRPO is not ahead: its lists bring in 3.0 % less revenue than the base's, those of "
            "continued training 4.0 % less, those of the best re-ranker (value offset on "
            "continued training) 5.0 % less; the price is 0.6 % of NDCG@10.",
        ),
    ],
    ids=["ahead", "behind a re-ranker", "no difference", "worse than the base"],
)
def test_the_sentence_says_what_was_measured(changes, sentence):
    assert demo_sentence(record(**changes)) == sentence


def test_a_tie_is_no_lead():
    assert demo_sentence(record(grpo=105.04)).startswith("GRPO is not ahead")


def test_the_tables_show_true_values_and_refusals():
    lists, forecasts = demo_tables(record())
    assert lists.rows[0][:3] == ("base", "0.2000", "0.2000")
    assert lists.rows[3] == ("GRPO, weight 2", "0.0 %", "−0.6 %", "30.0", "5.0", "11200", "+12.0 %")
    assert lists.rows[2][0] == "value offset on continued training, knob 0.2"
    assert forecasts.rows[0] == ("base", "21.0", "19.0 to 23.0", "20.0", "yes")
    assert forecasts.rows[1] == ("tuned", "refused", "", "30.0", "")
    assert forecast_sentences(record()) == ["tuned: no forecast. The support gap is 3 %."]


def test_the_page_holds_the_picture_and_the_sentence(tmp_path):
    paths = write_demo(record(), tmp_path)
    page = paths[0].read_text()
    assert "data:image/png" in page
    assert "12.0 % more revenue" in page
    assert "12.0 % more revenue" in (tmp_path / "demo.md").read_text()
    picture = (tmp_path / "demo.svg").read_text()
    assert picture.count("<!-- value offset") == 1
    assert "<!-- fine-tuning -->" in picture


def test_the_most_valuable_setting_within_the_tolerance_is_selected():
    base = entry(valid=(0.2, 1.0))
    entries = [entry(valid=pair) for pair in ((0.199, 1.2), (0.1979, 2.0), (0.201, 1.1))]
    assert select(base, entries, 0.01) is entries[0]
    assert select(base, entries, 0.02) is entries[1]
    assert select(base, [*entries[1:2], entry(valid=(0.1, 3.0))], 0.01) is entries[1]
