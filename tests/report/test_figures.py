from xml.etree import ElementTree as ET

from recoach.report.figures import grpo_panels, learning_panels, result_panels, series

NAMES = ["recall@10", "ndcg@10"]


def everything(metrics, results):
    return [
        *learning_panels(metrics, results),
        *grpo_panels(metrics, results),
        *result_panels(results, NAMES),
    ]


def test_each_logged_quantity_has_a_panel(metrics, results):
    assert [panel.title for panel in everything(metrics, results)] == [
        "Training loss of the base",
        "Validation NDCG@10 of the base",
        "Validation NDCG@10",
        "Reward",
        "KL to the base",
        "Entropy of the policy",
        "Gain over the base, with 95 % intervals",
        "NDCG@10 on the test items",
        "Recall@10 on the test items",
    ]


def test_the_same_records_give_the_same_bytes(metrics, results):
    assert everything(metrics, results) == everything(metrics, results)


def test_panels_are_plain_svg_elements_without_date_or_maker(metrics, results):
    for panel in everything(metrics, results):
        assert panel.svg.startswith("<svg ")
        assert ET.fromstring(panel.svg).tag.endswith("svg")
        assert f'aria-label="{panel.title}"' in panel.svg
        assert "matplotlib.org" not in panel.svg
        assert "dc:date" not in panel.svg


def test_values_that_are_not_numbers_are_left_out(metrics):
    steps, values = series(metrics, "tuned", "kl")
    assert steps == [0, 10, 20, 30]
    assert values == [0, 0.1, 0.2, 0.3]
    assert len(series(metrics, "tuned", "reward")[0]) == 4


def test_a_pretrained_run_has_no_grpo_panels(metrics, results):
    results["comparisons"] = []
    del results["models"]["control"], results["models"]["tuned"]
    metrics = [row for row in metrics if row["stage"] == "base"]
    assert grpo_panels(metrics, results) == []
    assert len(result_panels(results, NAMES)) == 2


def test_the_curve_moves_when_a_value_moves(metrics, results):
    before = learning_panels(metrics, results)[0].svg
    metrics[0]["loss"] = 9.0
    assert learning_panels(metrics, results)[0].svg != before


def test_the_whisker_moves_when_the_interval_moves(results):
    before = [panel.svg for panel in result_panels(results, NAMES)]
    results["comparisons"][0]["low"] -= 0.01
    after = [panel.svg for panel in result_panels(results, NAMES)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False]
