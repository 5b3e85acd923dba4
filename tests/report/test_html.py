import json
import re

import pytest

from recoach.errors import RunError
from recoach.report.html import write_report


def change(run, edit):
    record = json.loads((run / "results.json").read_text())
    edit(record)
    (run / "results.json").write_text(json.dumps(record))


def page(run):
    return write_report(run).read_text(encoding="utf-8")


def test_the_report_lies_in_the_run_folder_and_nothing_else_is_left(run):
    before = {path.name for path in run.iterdir()}
    assert write_report(run) == run / "report.html"
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_the_same_records_give_the_same_page(run):
    assert page(run) == page(run)


def test_the_page_tells_verdict_protocol_and_settings(run):
    text = page(run)
    for words in (
        "GRPO raises NDCG@10 from 0.0592 to 0.0619",
        "Each user&#39;s last interaction is the test item",
        "Averages run over 19,412 test users.",
        "30 steps, step 20 kept",
        "target at rank 34",
        "<mark>T &amp; U</mark>",
        "95 % interval",
        "Entropy of the policy",
    ):
        assert words in text


def test_what_comes_from_the_data_is_escaped_everywhere(run):
    change(run, lambda record: record.update(name="<b>n</b>", model="<i>m</i>"))
    text = page(run)
    assert "<script" not in text
    assert "<b>n" not in text
    assert "<i>m" not in text
    assert text.count("&lt;script&gt;alert(&#34;x&#34;)") == 4  # history, list, config, environment


def test_the_page_asks_nothing_of_the_network(run):
    text = page(run)
    links = re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)""", text)
    assert all(link.startswith("#") for link in links)
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text
    assert "<link" not in text


def test_a_pretrained_run_gets_a_page_without_grpo(run):
    def pretrained(record):
        del record["models"]["tuned"], record["models"]["control"], record["comparisons"]

    change(run, pretrained)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    kept = [row for row in rows if '"base"' in row]
    (run / "metrics.jsonl").write_text("\n".join(kept))
    (run / "lists.json").unlink()
    text = page(run)
    assert "it is not fine-tuned yet" in text
    assert "GRPO, step by step" not in text
    assert "frac_reward_zero_std" not in text
    assert "Training of the base" in text


def test_a_run_without_a_control_gets_a_page(run):
    def uncontrolled(record):
        del record["models"]["control"]
        record["comparisons"] = [c for c in record["comparisons"] if "control" not in c.values()]

    change(run, uncontrolled)
    assert '<tr class="control">' not in page(run)


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "config.toml", "env.json"])
def test_a_missing_record_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: not there"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", '{"format": 1', r"results.json, line 1: not valid JSON"),
        ("results.json", "[]", "a JSON object was expected, found list"),
        ("results.json", '{"format": 2}', "format 2 is not 1"),
        ("results.json", '{"format": 1, "name": "x"}', "'dataset' is missing"),
        ("metrics.jsonl", '{"stage": "base", "step": 1}\n{"st', "metrics.jsonl, line 2: not valid"),
        ("metrics.jsonl", "{}", "line 1: a row needs a 'stage'"),
        ("lists.json", "{}", "a JSON list was expected"),
        ("lists.json", '[{"user": "u"}]', "entry 0 needs"),
        ("env.json", "", "env.json, line 1: not valid JSON"),
    ],
)
def test_a_corrupt_record_is_named_with_its_place(run, name, content, message):
    (run / name).write_text(content)
    with pytest.raises(RunError, match=message):
        write_report(run)


def test_a_record_of_another_shape_is_refused_in_words(run):
    change(run, lambda record: record["protocol"].pop("ks"))
    with pytest.raises(RunError, match="the records do not fit each other"):
        write_report(run)
    change(run, lambda record: record["comparisons"][0].pop("low"))
    with pytest.raises(RunError, match="comparison 0 lacks low"):
        write_report(run)


def test_an_old_report_survives_a_failure(run):
    (run / "report.html").write_text("old")
    (run / "env.json").unlink()
    with pytest.raises(RunError):
        write_report(run)
    assert (run / "report.html").read_text() == "old"


def test_a_reader_of_the_old_report_is_not_disturbed(run):
    """The new page replaces the file as a whole; it is never written into the old one."""
    (run / "report.html").write_text("old")
    with (run / "report.html").open() as reader:
        write_report(run)
        assert reader.read() == "old"


@pytest.mark.parametrize(("share", "told"), [(0.25, True), (1.0, False)])
def test_the_way_back_to_the_base_is_told(run, share, told):
    change(run, lambda record: record["models"]["tuned"].update(share=share))
    assert ("step 20 kept, 25 % of the way from the base to it" in page(run)) is told
