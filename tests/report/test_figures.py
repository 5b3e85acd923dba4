"""The figures of a report: which panels there are and when they change."""

from xml.etree import ElementTree as ET

import pytest

from recoach.report.figures import (
    grpo_panels,
    logged_values,
    pretraining_panels,
    result_panels,
    user_group_panels,
)

NAMES = ["recall@10", "ndcg@10"]


def all_panels(metrics, results):
    return [
        *pretraining_panels(metrics, results),
        *grpo_panels(metrics, results),
        *result_panels(results, NAMES),
    ]


def test_each_logged_quantity_has_a_panel(metrics, results):
    assert [panel.title for panel in all_panels(metrics, results)] == [
        "Training loss of the base",
        "Validation NDCG@10 of the base",
        "Validation NDCG@10",
        "Mean reward",
        "KL divergence from the base",
        "Entropy of the policy",
        "Change against the base, with 95 % intervals",
        "NDCG@10 on the test items",
        "Recall@10 on the test items",
    ]


def test_the_same_records_give_the_same_bytes(metrics, results):
    assert all_panels(metrics, results) == all_panels(metrics, results)


def test_panels_are_svg_elements_without_date_or_creator(metrics, results):
    for panel in all_panels(metrics, results):
        assert panel.svg.startswith("<svg ")
        assert ET.fromstring(panel.svg).tag.endswith("svg")
        assert f'aria-label="{panel.title}"' in panel.svg
        assert "matplotlib.org" not in panel.svg
        assert "dc:date" not in panel.svg


def test_values_that_are_not_finite_are_left_out(metrics):
    steps, values = logged_values(metrics, "tuned", "kl")
    assert steps == [0, 10, 20, 30]
    assert values == [0, 0.1, 0.2, 0.3]
    assert len(logged_values(metrics, "tuned", "reward")[0]) == 4


def test_a_pretrained_run_has_no_grpo_panels(metrics, results):
    results["comparisons"] = []
    del results["models"]["control"], results["models"]["tuned"]
    metrics = [row for row in metrics if row["stage"] == "base"]
    assert grpo_panels(metrics, results) == []
    assert len(result_panels(results, NAMES)) == 2


def test_a_curve_changes_with_its_values(metrics, results):
    before = pretraining_panels(metrics, results)[0].svg
    metrics[0]["loss"] = 9.0
    assert pretraining_panels(metrics, results)[0].svg != before


def test_the_error_bars_change_with_the_interval(results):
    before = [panel.svg for panel in result_panels(results, NAMES)]
    results["comparisons"][0]["low"] -= 0.01
    after = [panel.svg for panel in result_panels(results, NAMES)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False]


def with_groups(results):
    for key, gain in (("base", 0.0), ("tuned", 0.02)):
        results["models"][key] |= {
            "lists": {"coverage@10": 0.3 + gain},
            "activity_groups": [
                {"shortest": 3, "longest": 3, "targets": 50, "recall@10": 0.1 + gain},
                {"shortest": 4, "longest": 9, "targets": 50, "recall@10": 0.2 + gain},
            ],
            "popularity_buckets": [
                {"items": 40, "targets": 50, "recall@10": 0.3 + gain},
                {"items": 4000, "targets": 50, "recall@10": 0.01 + gain},
            ],
        }
    return results


def test_user_groups_are_drawn_if_they_are_in_the_results(results):
    assert user_group_panels(results) == []  # results of an older version
    titles = [panel.title for panel in user_group_panels(with_groups(results))]
    assert titles == [
        "Recall@10 by length of the user's history",
        "Recall@10 by popularity of the target",
        "Accuracy and catalogue coverage",
    ]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda tuned: tuned["activity_groups"][1].update({"recall@10": 0.5}), 0),
        (lambda tuned: tuned["popularity_buckets"][0].update({"recall@10": 0.5}), 1),
        (lambda tuned: tuned["lists"].update({"coverage@10": 0.9}), 2),
    ],
)
def test_each_panel_changes_with_its_own_groups(results, change, changed):
    before = [panel.svg for panel in user_group_panels(with_groups(results))]
    change(results["models"]["tuned"])
    after = [panel.svg for panel in user_group_panels(results)]
    assert [index for index in range(3) if before[index] != after[index]] == [changed]


def test_parameters_are_drawn_only_if_they_change(metrics, results):
    for row in metrics:
        if row["stage"] == "tuned" and row["step"] in (10, 20):
            row |= {"drift/item": row["step"] / 100, "drift/position": 0.0}
    panels = {panel.title: panel.svg for panel in grpo_panels(metrics, results)}
    assert "Relative change of the parameters" in panels
    unchanged = [row | {"drift/item": 0.0} for row in metrics]
    assert "Relative change of the parameters" not in {
        panel.title for panel in grpo_panels(unchanged, results)
    }
