"""The summary sentences, the console table and number formats."""

import pytest
from rich.console import Console

from recoach.report.figures import result_panels
from recoach.report.tables import (
    columns,
    comparison_table,
    format_change,
    format_metric,
    format_percent,
    main_metrics,
    strata_rows,
    summary,
)


def entry(results, a, b, metric):
    keys = ("a", "b", "metric")
    return next(c for c in results["comparisons"] if tuple(c[k] for k in keys) == (a, b, metric))


def printed(table):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(table)
    return console.export_text()


def test_a_gain_is_reported_with_its_interval_and_the_control(results):
    assert summary(results) == (
        "GRPO raises NDCG@10 from 0.0592 to 0.0619 (+4.6 %, 95 % interval +2.9 to +6.2 %) and "
        "raises Recall@10 from 0.0944 to 0.0996 (+5.5 %, 95 % interval +3.5 to +7.5 %). "
        "Continued supervised training for as many steps changes NDCG@10 by +1.0 % (no significant "
        "difference); GRPO is better than that (+3.5 %, 95 % interval +2.5 to +4.5 %)."
    )


def test_a_change_from_zero_is_a_dash(results):
    for model in ("base", "tuned"):
        results["models"][model]["test"]["recall@10"] = 0.0588 * (model == "tuned")
    for recorded in (None, 0.0):  # as it is recorded now, and as it was
        entry(results, "tuned", "base", "recall@10")["relative"] = recorded
        assert "Recall@10 from 0.0000 to 0.0588 (–, 95 % interval –)" in summary(results)
        line = next(x for x in printed(comparison_table(results)).splitlines() if "0.0588" in x)
        assert "0.0588 –" in line
        assert "0.0 %" not in line
        assert result_panels(results, ["recall@10"])
    assert format_change(0.0588, 0.0) == "–"
    assert format_change(0.3, 0.2) == "+50.0 %"


def test_the_value_is_described_where_it_is_rewarded(results):
    short = summary(results)
    for model, value in {"base": 30.0, "control": 30.0, "tuned": 33.0}.items():
        results["models"][model]["test"] |= {"value@10": value}
    for pair in (("tuned", "base"), ("control", "base"), ("tuned", "control")):
        of_value = {"metric": "value@10", "relative": 0.1, "low": 1.5, "high": 4.5}
        results["comparisons"].append(entry(results, *pair, "ndcg@10") | of_value)
    assert summary(results) == short
    results["config"] = {"finetune": {"reward_funcs": ["future", "value"]}}
    assert summary(results) == (
        f"{short} Value is rewarded: GRPO raises Value@10 from 30.0000 to 33.0000 (+10.0 %, 95 % "
        "interval +5.0 to +15.0 %). Continued supervised training for as many steps changes "
        "Value@10 by +10.0 % (no significant difference); GRPO is better than that (+10.0 %, 95 % "
        "interval +5.0 to +15.0 %)."
    )
    del results["models"]["base"]["test"]["value@10"]
    assert summary(results) == short


def test_a_significant_loss_is_called_a_loss(results):
    worse = entry(results, "tuned", "base", "ndcg@10")
    worse.update(verdict="worse", relative=-0.02, low=-0.03 * 0.0592, high=-0.01 * 0.0592)
    assert "GRPO lowers NDCG@10 from 0.0592 to 0.0619 (−2.0 %, 95 % interval −3.0 to −1.0 %)" in (
        summary(results)
    )


def test_an_insignificant_difference_is_not_called_a_gain(results):
    entry(results, "tuned", "base", "ndcg@10")["verdict"] = "no difference"
    text = summary(results)
    assert "makes no significant difference to NDCG@10 (0.0592 to 0.0619: +4.6 %" in text
    assert "raises NDCG" not in text


def test_a_difference_that_is_not_significant_has_the_one_that_would_have_been_found(results):
    for pair in (("tuned", "base"), ("tuned", "control")):
        entry(results, *pair, "ndcg@10").update(verdict="no difference", detectable=0.00148)
    text = summary(results)
    assert "+4.6 %, 95 % interval +2.9 to +6.2 %; detectable: 2.5 %)" in text
    assert "+3.5 %, 95 % interval +2.5 to +4.5 %; detectable: 2.5 %)" in text
    entry(results, "tuned", "base", "ndcg@10")["verdict"] = "better"
    assert "+6.2 %)" in summary(results)


def test_the_summary_says_that_the_base_was_kept(results):
    results["models"]["tuned"]["best_step"] = 0
    assert summary(results).startswith("No improvement: base kept. No step of GRPO had a higher")
    assert "raises NDCG" not in summary(results)


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"finetune": {"algorithm": "grpo"}}, "GRPO"),
        ({"finetune": {"algorithm": "s_dpo"}}, "S-DPO"),
        ({"finetune": True, "grpo": {"algorithm": "ppo"}}, "PPO"),
        ({}, "GRPO"),
    ],
)
def test_the_summary_names_the_algorithm(results, config, label):
    results["config"] = config
    assert summary(results).startswith(f"{label} raises NDCG@10")
    assert f"; {label} " in summary(results)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("worse", "GRPO is worse than that"), ("no difference", "does not differ significantly")],
)
def test_the_summary_says_if_the_control_is_as_good_or_better(results, verdict, words):
    entry(results, "tuned", "control", "ndcg@10")["verdict"] = verdict
    assert words in summary(results)


def test_without_a_control_the_summary_is_one_sentence(results):
    results["comparisons"] = [c for c in results["comparisons"] if "control" not in c.values()]
    assert summary(results).endswith("+7.5 %).")


def test_a_pretrained_run_is_described_by_its_base(results):
    del results["models"]["tuned"], results["models"]["control"]
    assert summary(results) == (
        "The base has NDCG@10 0.0592 on the test items (popularity: 0.0100); "
        "it is not fine-tuned yet."
    )


def test_the_console_table_marks_significant_and_insignificant_changes(results):
    text = printed(comparison_table(results))
    assert "0.0619" in text
    assert "+4.6 % ▲" in text
    assert "+1.0 % =" in text
    order = [text.index(name) for name in ("Popularity", "Base ", "continued", "fine-")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.046, "+4.6 %"), (-0.02, "−2.0 %"), (-0.0001, "0.0 %"), (None, "–"), (float("nan"), "–")],
)
def test_percentages_have_a_sign_unless_they_are_zero(fraction, text):
    assert format_percent(fraction) == text


@pytest.mark.parametrize(("ks", "k"), [([1, 10, 50], 10), ([5, 20], 5), ([20, 50], 20)])
def test_sentences_name_the_cutoff_nearest_to_10(results, ks, k):
    results["protocol"]["ks"] = ks
    assert main_metrics(results) == (f"ndcg@{k}", f"recall@{k}")
    for model in results["models"].values():
        model["test"] = {f"ndcg@{k}": 0.25, f"recall@{k}": 0.5}
        model["strata"] = {"cold": {"warm": {"targets": 3, f"ndcg@{k}": 0.75, f"recall@{k}": 1}}}
    row = strata_rows(results, "cold")[0]
    assert (row.ndcg, row.recall) == ("0.7500", "1.0000")
    del results["models"]["tuned"], results["models"]["control"]
    assert summary(results).startswith(f"The base has NDCG@{k} 0.2500 on the test items")


def test_the_value_is_in_the_table_where_the_log_has_values(results):
    results["protocol"]["ks"] = [5, 10]
    assert columns(results) == ["recall@5", "recall@10", "ndcg@5", "ndcg@10"]
    results["models"]["base"]["test"] |= {"value@5": 12.5, "value@10": 30.0}
    assert columns(results)[-2:] == ["value@5", "value@10"]


def test_the_marks_are_explained_where_there_are_changes(results):
    assert "significant" in str(comparison_table(results).caption)
    del results["models"]["tuned"], results["models"]["control"]
    assert comparison_table(results).caption is None


def test_a_missing_number_is_a_dash():
    assert [format_metric(None), format_metric(float("nan")), format_metric(0.05919)] == [
        "–",
        "–",
        "0.0592",
    ]
