"""The report page of a run: its content, escaping and errors."""

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


def test_the_report_is_the_only_new_file_in_the_run_folder(run):
    before = {path.name for path in run.iterdir()}
    assert write_report(run) == run / "report.html"
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_equal_results_give_equal_pages(run):
    assert page(run) == page(run)


def test_the_page_has_summary_protocol_and_settings(run):
    text = page(run)
    for words in (
        "GRPO raises NDCG@10 from 0.0592 to 0.0619",
        "Each user&#39;s last interaction is the test item",
        "Metrics are averaged over 19,412 test users.",
        "30 steps, step 20 kept",
        "rank of the target: 34",
        "<mark>T &amp; U</mark>",
        "95 % interval",
        "Entropy of the policy",
    ):
        assert words in text


def test_all_text_from_the_data_is_escaped(run):
    change(run, lambda record: record.update(name="<b>n</b>", model="<i>m</i>"))
    text = page(run)
    assert text.count("<script") == 1  # the page's own
    assert text.index("<script") > text.index("</main>")
    assert "<b>n" not in text
    assert "<i>m" not in text
    assert text.count("&lt;script&gt;alert(&#34;x&#34;)") == 4  # history, list, config, environment


def test_the_page_loads_nothing_from_the_network(run):
    text = page(run)
    links = re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)""", text)
    assert all(link.startswith("#") for link in links)
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text
    assert "<link" not in text


def test_a_pretrained_run_gets_a_page_without_grpo(run):
    def remove_fine_tuning(record):
        del record["models"]["tuned"], record["models"]["control"], record["comparisons"]

    change(run, remove_fine_tuning)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    base_rows = [row for row in rows if '"base"' in row]
    (run / "metrics.jsonl").write_text("\n".join(base_rows))
    (run / "lists.json").unlink()
    text = page(run)
    assert "it is not fine-tuned yet" in text
    assert "<h2>Fine-tuning</h2>" not in text
    assert "frac_reward_zero_std" not in text
    assert "Training of the base" in text


def test_a_run_without_a_control_gets_a_page(run):
    def remove_control(record):
        del record["models"]["control"]
        record["comparisons"] = [c for c in record["comparisons"] if "control" not in c.values()]

    change(run, remove_control)
    assert '<tr class="control">' not in page(run)


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "config.toml", "env.json"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: the file is missing"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", '{"format": 1', r"results.json:1: not valid JSON"),
        ("results.json", "[]", "expected a JSON object, found list"),
        ("results.json", '{"format": 2}', "format 2 is not supported, only 1"),
        ("results.json", '{"format": 1, "name": "x"}', "'dataset' is missing"),
        ("metrics.jsonl", '{"stage": "base", "step": 1}\n{"st', "metrics.jsonl:2: not valid"),
        ("metrics.jsonl", "{}", "metrics.jsonl:1: a row needs the keys 'stage'"),
        ("lists.json", "{}", "expected a JSON list"),
        ("lists.json", '[{"user": "u"}]', "entry 0 needs"),
        ("env.json", "", "env.json:1: not valid JSON"),
    ],
)
def test_an_invalid_file_is_named_with_its_line(run, name, content, message):
    (run / name).write_text(content)
    with pytest.raises(RunError, match=message):
        write_report(run)


def test_results_without_a_required_key_are_refused(run):
    change(run, lambda record: record["protocol"].pop("ks"))
    with pytest.raises(RunError, match="the files of the run do not match"):
        write_report(run)
    change(run, lambda record: record["comparisons"][0].pop("low"))
    with pytest.raises(RunError, match=r"comparisons\[0\] lacks low"):
        write_report(run)


def test_an_old_report_is_kept_if_the_new_one_fails(run):
    (run / "report.html").write_text("old")
    (run / "env.json").unlink()
    with pytest.raises(RunError):
        write_report(run)
    assert (run / "report.html").read_text() == "old"


def test_the_old_report_stays_readable_while_the_new_one_is_written(run):
    """The new page replaces the file atomically; the old file is never written to."""
    (run / "report.html").write_text("old")
    with (run / "report.html").open() as reader:
        write_report(run)
        assert reader.read() == "old"


@pytest.mark.parametrize(("share", "reported"), [(0.25, True), (1.0, False)])
def test_an_interpolation_towards_the_base_is_reported(run, share, reported):
    change(run, lambda record: record["models"]["tuned"].update(share=share))
    text = "step 20 kept, interpolation towards the base: 25 % of the change kept"
    assert (text in page(run)) is reported


def test_the_page_states_the_objective_and_the_control(run):
    change(run, lambda record: record["config"].update(grpo={"loss_type": "log"}))
    text = page(run)
    assert text.count("The default objective is weighted maximum likelihood") == 1
    assert "This run uses loss_type = log." in text
    assert text.count("The control continues the base&#39;s own supervised training") == 1


def test_a_stage_without_improvement_says_that_the_base_is_kept(run):
    change(run, lambda record: record["models"]["tuned"].update(best_step=0))
    assert "30 steps, no improvement: base kept" in page(run)
