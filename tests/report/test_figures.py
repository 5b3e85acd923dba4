from xml.etree import ElementTree as ET

import pytest

from recoach.report.figures import (
    audience_panels,
    grpo_panels,
    learning_panels,
    result_panels,
    series,
)

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


def grouped(results):
    for key, lift in (("base", 0.0), ("tuned", 0.02)):
        results["models"][key] |= {
            "lists": {"coverage@10": 0.3 + lift},
            "activity_groups": [
                {"shortest": 3, "longest": 3, "targets": 50, "recall@10": 0.1 + lift},
                {"shortest": 4, "longest": 9, "targets": 50, "recall@10": 0.2 + lift},
            ],
            "popularity_buckets": [
                {"items": 40, "targets": 50, "recall@10": 0.3 + lift},
                {"items": 4000, "targets": 50, "recall@10": 0.01 + lift},
            ],
        }
    return results


def test_who_gains_is_drawn_where_it_was_recorded(results):
    assert audience_panels(results) == []  # a record of an older version
    titles = [panel.title for panel in audience_panels(grouped(results))]
    assert titles == [
        "Recall@10 by length of the user's history",
        "Recall@10 by popularity of the target",
        "Accuracy against diversity",
    ]


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (lambda tuned: tuned["activity_groups"][1].update({"recall@10": 0.5}), 0),
        (lambda tuned: tuned["popularity_buckets"][0].update({"recall@10": 0.5}), 1),
        (lambda tuned: tuned["lists"].update({"coverage@10": 0.9}), 2),
    ],
)
def test_each_group_moves_its_own_panel(results, change, moved):
    before = [panel.svg for panel in audience_panels(grouped(results))]
    change(results["models"]["tuned"])
    after = [panel.svg for panel in audience_panels(results)]
    assert [place for place in range(3) if before[place] != after[place]] == [moved]


def test_tables_that_move_are_drawn_and_those_that_do_not_are_not(metrics, results):
    for row in metrics:
        if row["stage"] == "tuned" and row["step"] in (10, 20):
            row |= {"drift/item": row["step"] / 100, "drift/position": 0.0}
    panels = {panel.title: panel.svg for panel in grpo_panels(metrics, results)}
    assert "Drift of the tables" in panels
    still = [row | {"drift/item": 0.0} for row in metrics]
    assert "Drift of the tables" not in {panel.title for panel in grpo_panels(still, results)}
