"""The table, summary and page of a search, from its record."""

import base64
import html
import io
import re

import pytest
from rich.console import Console

from recoach.report.search import search_summary, search_table, write_search


def record(*values, base=0.2, importance=None):
    trials = [
        {
            "trial": number,
            "value": value,
            "pruned": None if value is not None else f"reason {number}",
            "seconds": 1.0,
            "settings": {"learning_rate": 0.00123456, "horizon": number, "loss_type": "log"},
        }
        for number, value in enumerate(values, 1)
    ]
    completed = [trial for trial in trials if trial["value"] is not None]
    best = max(completed, key=lambda trial: trial["value"], default=None)
    return {
        "format": 1,
        "metric": "ndcg@10",
        "base": base,
        "best": best["trial"] if best and best["value"] > base else None,
        "trials": trials,
        "importance": importance or {},
    }


def printed(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_the_table_has_the_base_first_and_then_the_trials_best_first():
    lines = printed(search_table(record(0.19, None, 0.25, 0.2)))
    rows = [words for words in lines if words and words[0] == "│"]
    assert [words[1] for words in rows] == ["base", "3", "4", "1"]
    assert [words[3] for words in rows] == ["0.2000", "0.2500", "0.2000", "0.1900"]
    assert rows[1][5:7] == ["+25.0", "%"]
    assert rows[3][5:7] == ["−5.0", "%"]
    assert {"learning_rate=0.00123", "horizon=3", "loss_type=log"} < set(rows[1])
    assert ["pruned:", "1", "of", "4", "trials"] in lines


def test_the_table_has_at_most_ten_trials():
    lines = printed(search_table(record(*(number / 100 for number in range(1, 21)))))
    rows = [words[1] for words in lines if words and words[0] == "│"]
    assert rows == ["base", *(str(number) for number in range(20, 10, -1))]
    assert not any("pruned:" in words for words in lines)


@pytest.mark.parametrize(
    ("search", "sentences"),
    [
        (record(0.2, 0.25), ["Trial 2 is the best of 2: NDCG@10 on validation 0.2500, +25.0 %"]),
        (record(0.25, 0.25), ["Trial 1 is the best"]),
        (
            record(0.25, importance={"horizon": 0.2, "learning_rate": 0.8}),
            ["Importance of the settings: learning_rate 80 %, horizon 20 %."],
        ),
        (
            record(0.19, 0.2, None),
            [
                "No trial beats the base: the best of 3",
                "0.2000, the base 0.2000",
                "No best.toml is written",
            ],
        ),
        (record(None, None), ["None of 2 trials was completed. The last one was pruned: reason 2"]),
        (record(0.1, base=0.0), ["Trial 1", "– against the base"]),
    ],
)
def test_the_summary_reports_the_best_trial(search, sentences):
    for sentence in sentences:
        assert sentence in search_summary(search)


@pytest.mark.parametrize(
    "search", [record(0.1, None, 0.3), record(None), record(0.3, importance={"horizon": 1.0})]
)
def test_the_page_has_summary_figure_and_every_trial_and_is_reproducible(search, tmp_path):
    text = write_search(search, tmp_path).read_text()
    assert html.escape(search_summary(search)) in text
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert text.count("<tr><td>") == 1 + len(search["trials"])
    assert write_search(search, tmp_path).read_text() == text


def test_the_page_says_why_a_trial_was_pruned(tmp_path):
    assert "loss_type=log: reason 2" in write_search(record(0.1, None), tmp_path).read_text()
