"""The verdict of a run, where it stands, intervals of every value, and pages of several runs."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from recoach.errors import RunError
from recoach.report.compare_page import comparison_page
from recoach.report.curves import Curve, curve_panel, nice_ticks
from recoach.report.figures import bucket_name
from recoach.report.html import write_report
from recoach.report.tables import find_comparison, rows
from recoach.report.verdict import control_warning, primary_metric, verdict_sentence

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = os.environ.get("RECOACH_AXE", "node_modules/axe-core/axe.min.js")


def entry(results, a, b):
    return next(
        c for c in results["comparisons"] if (c["a"], c["b"], c["metric"][:4]) == (a, b, "ndcg")
    )


@pytest.mark.parametrize(
    ("base", "control", "sentence"),
    [
        ("better", "better", "Better than the base and than the same amount of ordinary training"),
        (
            "better",
            "no difference",
            "Better than the base; not shown to be better than the same amount of ordinary train",
        ),
        ("better", "worse", "Better than the base; worse than the same amount of ordinary"),
        ("no difference", "no difference", "Not shown to be better than the base; not shown"),
        ("worse", "better", "Worse than the base; better than the same amount of ordinary"),
    ],
)
def test_the_verdict_names_base_and_control(results, base, control, sentence):
    entry(results, "tuned", "base")["verdict"] = base
    entry(results, "tuned", "control")["verdict"] = control
    assert verdict_sentence(results).startswith(sentence)
    assert verdict_sentence(results).endswith("(NDCG@10).")


def test_a_run_without_a_control_says_why_in_its_first_lines(run):
    path = run / "results.json"
    record = json.loads(path.read_text())
    assert control_warning(record) == ""
    del record["models"]["control"]
    record["comparisons"] = [c for c in record["comparisons"] if "control" not in c.values()]
    record["protocol"]["control_missing"] = "the model has no loss of its own to continue with"
    path.write_text(json.dumps(record))
    text = write_report(run).read_text(encoding="utf-8")
    verdict = "Better than the base (NDCG@10); there is no control"
    warning = "no continued-training control because the model has no loss of its own"
    assert text.index("<h1>") < text.index(verdict) < text.index(warning) < text.index("<table>")


def test_the_verdict_is_the_first_paragraph_and_the_primary_metric_the_first_table(run):
    text = write_report(run).read_text(encoding="utf-8")
    body = text[text.index("<body>") :]
    assert "Better than the base and than" in body[body.index("<p") : body.index("</p>")]
    columns = re.findall(r'<th scope="col">([^<]*)</th>', body)
    assert columns[:3] == ["Model", "NDCG@10", "95 % interval"]
    assert columns[5:7] == ["Model", "NDCG@10"]


def test_the_metric_that_selects_is_primary(results):
    assert primary_metric(results) == "ndcg@10"
    results["protocol"]["selection"] = "valid/recall@10, step 0 a candidate"
    assert primary_metric(results) == "recall@10"
    results["protocol"]["primary"] = "mrr@10"
    assert primary_metric(results) == "mrr@10"
    results["protocol"]["primary"] = "ndcg@20"  # not among the test metrics
    assert primary_metric(results) == "ndcg@10"


def test_secondary_metrics_are_shown_as_adjusted(results):
    adjusted = {"p_value": 0.2, "low": -0.001, "high": 0.01, "verdict": "no difference"}
    results["comparisons"][1]["adjusted"] = adjusted
    found = find_comparison(results, "tuned", "base", "recall@10")
    assert {key: found[key] for key in adjusted} == adjusted
    assert found["relative"] == 0.0551
    tuned = rows(results, ["recall@10"])[-1].cells[0]
    assert (tuned.verdict, tuned.change_interval) == ("no difference", "−1.1 to +10.6 %")


def test_every_value_has_its_interval_and_only_the_best_is_bold(run, results):
    for index, model in enumerate(results["models"].values()):
        model["intervals"] = {"ndcg@10": [0.01 * index, 0.01 * index + 0.005]}
    (run / "results.json").write_text(json.dumps(results))
    text = write_report(run).read_text(encoding="utf-8")
    for interval in ("0.0000–0.0050", "0.0100–0.0150", "0.0200–0.0250", "0.0300–0.0350"):
        assert text.count(interval) == 2  # in the first table and in that of all metrics
    first = text[text.index("<table>") : text.index("</table>")]
    assert re.findall("<strong>(.*?)</strong>", first) == ["0.0619"]


def test_popularity_groups_are_named():
    assert bucket_name({"items": 4, "interactions": [0.0, 0.2]}) == "top 20 %"
    assert bucket_name({"items": 9, "interactions": [0.2, 0.4]}) == "20–40 %"
    assert bucket_name({"items": 1200}) == "1,200"


def test_resolved_settings_and_date_are_shown(run, results):
    results |= {"resolved": {"finetune.temperature": 1.25}, "date": "2026-11-30 06:50 UTC"}
    (run / "results.json").write_text(json.dumps(results))
    text = write_report(run).read_text(encoding="utf-8")
    assert "<dt>finetune.temperature</dt><dd>1.25</dd>" in text
    assert "evaluated 2026-11-30 06:50 UTC" in text


def test_every_link_of_the_contents_has_a_target(run):
    text = write_report(run).read_text(encoding="utf-8")
    links = set(re.findall('href="#([^"]+)"', text))
    assert {"primary", "results", "glossary"} <= links <= set(re.findall('id="([^"]+)"', text))


def test_ticks_are_round_and_cover_the_range():
    assert nice_ticks(0.2088, 0.2310) == [0.2, 0.21, 0.22, 0.23, 0.24]
    assert nice_ticks(5.0, 5.0)[0] < 5.0 < nice_ticks(5.0, 5.0)[-1]


def test_a_curve_holds_its_values_and_escapes_its_name():
    curves = [Curve("<b>", "red", "", [0, 8], [0.1, 0.3], 8), Curve("c", "blue", "", [0], [0.2])]
    svg = curve_panel("H", curves).svg
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg
    points = json.loads(re.search('data-points="([^"]*)"', svg).group(1))
    assert [point[:2] for point in points] == [[0, 0.1], [8, 0.3]]


def two_runs(run):
    other = Path(shutil.copytree(run, run.parent / "other", ignore=shutil.ignore_patterns("other")))
    record = json.loads((other / "results.json").read_text())
    record["models"]["tuned"]["test"]["ndcg@10"] = 0.07
    (other / "results.json").write_text(json.dumps(record))
    return [run, other]


def test_several_runs_are_on_one_page(run, tmp_path_factory):
    first = Path(shutil.copytree(run, tmp_path_factory.mktemp("runs") / "run"))
    paths = two_runs(first)
    text = comparison_page(paths, ["recall@10"])
    assert text.count('<p class="verdict">') == 2
    assert re.findall("<td><strong>(.*?)</strong>", text) == ["0.0996", "0.0700", "0.0996"]
    for path in paths:
        assert f'data-name="{path}: Base + fine-tuning"' in text
    record = json.loads((paths[1] / "results.json").read_text())
    record["dataset"]["fingerprint"] = "other"
    (paths[1] / "results.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="different data"):
        comparison_page(paths, ["recall@10"])


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_curves_can_be_picked_and_read(browser, run):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(write_report(run).as_uri())
    figure = page.locator("figure.curve", has_text="Validation NDCG@10").first
    figure.locator("input[type=range]").fill("1")
    assert figure.locator("output").inner_text().startswith("Step 10: ")
    assert "Base + fine-tuning 0.06011" in figure.locator("output").inner_text()
    figure.get_by_label("Base + fine-tuning").uncheck()
    assert "Base + fine-tuning" not in figure.locator("output").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


@pytest.mark.skipif(not Path(AXE).exists(), reason="axe-core is not installed (RECOACH_AXE)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_accessible(browser, run, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto(write_report(run).as_uri())
    page.evaluate(Path(AXE).read_text())
    violations = page.evaluate("axe.run()")["violations"]
    page.close()
    assert [violation["id"] for violation in violations] == []
