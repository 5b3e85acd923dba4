"""The protocol in sentences, warnings, and results of models that were trained again."""

import copy

import pytest

from recoach.data.protocol import ByRatio, ByTime, Given, LeaveLastOut
from recoach.errors import RunError
from recoach.report.compare import compare_runs
from recoach.report.html import write_report
from recoach.report.protocol import protocol_sentences, record_warning
from recoach.report.tables import comparison_table, headline, rows, summary


def protocol_of(split, **changes):
    settings = split.model_dump(mode="json", exclude_none=True)
    counts = {"n_users": 90, "n_states": 90, "n_targets": 120, "ks": [10]}
    return {"split": split.kind, "split_settings": settings} | counts | changes


@pytest.mark.parametrize(
    ("split", "sentences"),
    [
        (LeaveLastOut(), ["Each user's last interaction is the test item"]),
        (LeaveLastOut(test_items=3), ["last 3 interactions are the test items"]),
        (
            ByTime(),
            [
                "All events up to the 0.9 quantile of their times are for training",
                "Of the former, those after the 0.9 quantile of their times are the validation",
                "The last test event of each user is the target",
            ],
        ),
        (
            ByTime(at="2015-09-01", until="2016-01-01", valid="users", target="successive"),
            [
                "All events up to 2015-09-01 (UTC)",
                "the later ones for test, up to 2016-01-01 (UTC).",
                "All events of up to 1024 random users",
                "Every test event is a target",
            ],
        ),
        (ByTime(valid="last", ties="group"), ["Each user's last event before", "equal times"]),
        (ByRatio(test_ratio=0.2), ["The last 20 % of each user's events are for test, 10 %"]),
        (ByRatio(order="random"), ["Randomly chosen 10 %"]),
        (Given(), ["Each user's last training item is the validation item."]),
        (Given(valid="given"), ["split into training, validation and test items."]),
        (Given(target_events=("cart",)), ["already split", "Only cart events are targets."]),
        (
            Given(target="last", valid="users", valid_target="successive"),
            [
                "split into training and test items. The last 10 % of the training users",
                "last test event of each user",
                "Every validation event is a target",
            ],
        ),
    ],
)
def test_every_split_has_sentences(split, sentences):
    text = " ".join(protocol_sentences(protocol_of(split)))
    for sentence in sentences:
        assert sentence in text
    assert "split:" not in text


def test_the_counts_of_targets_are_stated():
    protocol = protocol_of(
        ByTime(),
        n_states=200,
        repeated_targets=30,
        cold_targets=12,
        excluded={"without history": 4},
        retrained=True,
    )
    text = " ".join(protocol_sentences(protocol))
    for words in (
        "averaged over 200 states of 90 test users.",
        "30 of 120 targets (25.0 %) are in the history of the user.",
        "12 of 120 targets (10.0 %) do not occur in train and count as misses, except those",
        "Targets left out: 4 without history.",
        "trained again on train and validation",
        "targets are cold there that occur in neither part.",
    ):
        assert words in text


def test_only_leave_last_out_is_warned_of():
    warning = record_warning(protocol_of(LeaveLastOut(), leaked_targets=0.727))
    assert "73 % of the test targets lie before the 0.9 quantile of time" in warning
    assert record_warning(protocol_of(ByTime(), leaked_targets=0.5)) == ""
    assert record_warning(protocol_of(LeaveLastOut(), leaked_targets=None)) == ""


@pytest.fixture
def retrained(results):
    """Return results whose retrained models are twice as good, with a loss by fine-tuning."""
    again = {"models": copy.deepcopy(results["models"])}
    again["comparisons"] = copy.deepcopy(results["comparisons"])
    for model in again["models"].values():
        del model["valid"]
        model["test"] = {name: 2 * value for name, value in model["test"].items()}
    again["comparisons"][0] |= {"relative": -0.3, "low": -0.05, "high": -0.01, "verdict": "worse"}
    return results | {"retrained": again}


def test_the_first_table_is_that_of_the_retrained_models(results, retrained):
    values = [row.cells[0].value for row in rows(headline(retrained), ["ndcg@10"])]
    assert values == ["0.0200", "0.1184", "0.1196", "0.1238"]
    assert headline(results) is results
    assert "trained again on train and validation" in str(comparison_table(retrained).title)
    text = summary(retrained)
    assert text.startswith("GRPO lowers NDCG@10 from 0.1184 to 0.1238 (−30.0 %")
    assert "of those trained on train only, fine-tuning changes NDCG@10 by +4.6 %" in text


def test_runs_are_compared_by_rows_of_the_same_kind(results, retrained):
    both = compare_runs({"a": retrained, "b": copy.deepcopy(retrained)}, ["ndcg@10"])
    assert dict(row[:2] for row in both.rows)["a: Base"].startswith("0.1184")
    assert "trained on train and validation" in both.note
    mixed = compare_runs({"a": retrained, "b": results}, ["ndcg@10"])
    assert {row[1].split()[0] for row in mixed.rows if row[0][3:] == "Base"} == {"0.0592"}
    assert "trained on train." in mixed.note


def test_records_of_earlier_versions_are_compared_where_the_protocol_is_the_same(results):
    old, new = copy.deepcopy(results), copy.deepcopy(results)
    old["protocol"] = {n: v for n, v in old["protocol"].items() if n != "repeats"}
    old["protocol"]["mask_seen"] = "all"
    new["protocol"] |= {"repeats": "new", "excluded": {}, "n_targets": 19412}
    assert len(compare_runs({"old": old, "new": new}, ["ndcg@10"]).rows) == 7
    new["protocol"]["excluded"] = {"repeated items": 3}
    with pytest.raises(RunError, match="mask_seen: 'all' and 'all, repeated items no targets'"):
        compare_runs({"old": old, "new": new}, ["ndcg@10"])
    new["protocol"] |= {"repeats": "all", "excluded": {}}
    with pytest.raises(RunError, match="mask_seen: 'all' and 'none'"):
        compare_runs({"old": old, "new": new}, ["ndcg@10"])


def test_the_page_shows_a_warning(run):
    text = write_report(run).read_text(encoding="utf-8")
    assert "Warning:" not in text
    path = run / "results.json"
    path.write_text(path.read_text().replace('"ranking"', '"leaked_targets": 0.8, "ranking"'))
    assert "Warning: 80" in write_report(run).read_text(encoding="utf-8")


def test_the_page_explains_the_value_where_the_log_has_values(run):
    assert "Value@k" not in write_report(run).read_text(encoding="utf-8")
    path = run / "results.json"
    path.write_text(path.read_text().replace('"mrr@10"', '"value@10"'))
    assert "<dt>Value@k</dt>" in write_report(run).read_text(encoding="utf-8")
