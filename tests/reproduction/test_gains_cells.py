from pathlib import Path

import pytest

from recoach.experiments.config import resolve
from recoach.report.table_cells import comparison_cell
from recoach.reproduction import figures
from recoach.reproduction.gains_cells import (
    ABLATION,
    ALGORITHMS,
    FUTURE_ONLY,
    ablation,
    algorithms,
    future,
    gains,
    tail,
)
from recoach.reproduction.gains_tables import ablation as ablation_table
from recoach.reproduction.gains_tables import gains as gains_table
from recoach.reproduction.gains_tables import tail as tail_table
from recoach.reproduction.paper_cells import BACKBONES, Source
from recoach.reproduction.runner import Plan

LOG, UNORDERED = Source("shop", "shop.csv"), Source("split", "split", ready_split=True)


def test_every_model_is_fine_tuned_with_the_defaults_and_has_a_control():
    cells = gains(LOG, "quick", 7)
    assert [cell.name for cell in cells] == list(BACKBONES)
    defaults = resolve({}, "defaults").finetune
    for cell in cells:
        config = resolve(cell.tables, cell.name)
        assert config.finetune == defaults
        assert config.evaluation.control
        assert config.seed == 7
    assert [cell.name for cell in gains(UNORDERED, "quick", 0)] == ["lightgcn"]


def test_the_earlier_recipe_rewards_future_items_only():
    for default, cell in zip(gains(LOG, "quick", 7), future(LOG, "quick", 7), strict=True):
        assert cell.name == f"{default.name}-future-alone"
        ours, theirs = (resolve(each.tables, each.name).tables() for each in (default, cell))
        assert theirs.pop("finetune") == ours.pop("finetune") | FUTURE_ONLY
        assert theirs == ours


def test_gains_and_ablation_are_the_same_for_all_profiles():
    assert gains(LOG, "paper", 0) == gains(LOG, "quick", 0)
    assert ablation(LOG, "paper", 0) == ablation(LOG, "quick", 0)


def test_an_ablation_changes_one_setting_and_shares_the_base():
    cells = {cell.name: resolve(cell.tables, cell.name) for cell in ablation(LOG, "quick", 0)}
    for name, config in cells.items():
        model, _, change = name.partition("-")
        recipe = cells[model]
        different = {
            key
            for key, value in config.finetune.model_dump().items()
            if value != recipe.finetune.model_dump()[key]
        }
        if change in ("", "future-alone"):
            assert config.evaluation.control
            assert config.pretrain == cells[model].pretrain
        elif change == "from-scratch":
            assert config.pretrain.max_steps == 1
        else:
            change_settings = {key.replace(" ", "-"): value for key, value in ABLATION.items()}[
                change
            ]
            assert different
            assert different <= set(change_settings)
            assert config.pretrain == recipe.pretrain
            assert not config.evaluation.control


def test_another_algorithm_keeps_states_rewards_and_selection():
    cells = {cell.name: resolve(cell.tables, cell.name) for cell in algorithms(LOG, "quick", 0)}
    assert len(cells) == len(BACKBONES) * (2 + len(ALGORITHMS))
    given = ("state", "reward_funcs", "horizon", "discount", "mask_seen", "temperature")
    given += (
        "reward_smoothing",
        "sft_coef",
        "learning_rate",
        "batch_size",
        "ema_decay",
        "interpolate",
        "patience",
        "select",
    )
    for name, config in cells.items():
        if name in BACKBONES:
            continue
        recipe = cells[f"{name.partition('-')[0]}-future-alone"]
        assert all(getattr(config.finetune, key) == getattr(recipe.finetune, key) for key in given)
        assert config.pretrain == recipe.pretrain
    of_future = {"grpo", "reinforce", "raft", "ppo", "top_k_off_policy", "s_dpo"}
    assert {config.finetune.algorithm for config in cells.values()} == of_future


def test_the_tail_suite_changes_the_number_of_test_items_only():
    cells = {cell.name: resolve(cell.tables, cell.name) for cell in tail(LOG, "quick", 3)}
    recipes = {"": gains, "-future-alone": future}
    for ending, suite in recipes.items():
        for recipe in suite(LOG, "quick", 3):
            same = resolve(recipe.tables, recipe.name).tables()
            model = recipe.name.split("-")[0]
            for length in (5, 10):
                longer = cells.pop(f"{model}-next-{length}{ending}").tables()
                split = same["data"]["split"] | {"test_items": length}
                assert longer == same | {"data": same["data"] | {"split": split}}
    assert not cells


def test_the_table_of_the_tail_suite_names_the_number_of_test_items():
    cells = {name: a_cell(("better", "better")) for name in ("sasrec-next-5", "sasrec-next-10")}
    (grid,) = tail_table(a_record({"one": cells}))
    assert grid.heading == "Next 5 and 10 items: one"
    assert [row[0] for row in grid.rows] == ["SASRec, next 5 items"] * 3 + [
        "SASRec, next 10 items"
    ] * 3
    assert grid.rows[1][1] == "NDCG@10"


@pytest.mark.parametrize("model", BACKBONES)
def test_every_ablation_differs_from_the_recipe(model):
    reads_history = model != "lightgcn"
    for cell in ablation(LOG, "quick", 0):
        if cell.name.startswith(model):
            change = cell.tables["finetune"]
            assert change != {"state": "prefix" if reads_history else "last_prefix"}
            assert not (reads_history and "hide_rewarded" in change)


def test_gains_and_ablation_share_a_folder_for_all_profiles():
    for suite in ("gains", "ablation", "algorithms"):
        plan = Plan(suite, (LOG,), "quick", (0,), Path("out"))
        assert plan.suite_folder == Path("out/gains")
    assert Plan("table3", (LOG,), "paper", (0,), Path("out")).suite_folder == Path("out/paper")


def a_cell(words, seeds=(1,)):
    """Return an aggregated cell with these verdicts against base and control."""
    figures = {"base": 0.1, "control": 0.11, "tuned": 0.12}
    metrics = ("recall@10", "ndcg@10", "recall@50")
    return {
        "seeds": list(seeds),
        "users_averaged": False,
        "protocol": {"split": "leave_last_out", "mask_seen": "all"},
        "models": {
            stage: {"test": {metric: {"mean": value, "sd": 0.01} for metric in metrics}}
            for stage, value in figures.items()
        },
        "comparisons": [
            {"a": "tuned", "b": other, "metric": metric, "verdict": word, "low": 0.01, "high": 0.02}
            for other, word in zip(("base", "control"), words, strict=True)
            for metric in metrics
        ],
    }


def a_record(cells):
    dataset = {"users": 10, "items": 5, "interactions": 50}
    return {
        "data": {
            name: {"dataset": dataset, "cells": log_cells} for name, log_cells in cells.items()
        },
        "profile": "quick",
    }


def test_the_table_of_gains_counts_logs_and_shows_each_change():
    record = a_record(
        {
            "one": {"sasrec": a_cell(("better", "better"))},
            "two": {"sasrec": a_cell(("worse", "no difference"), (1, 2))},
        }
    )
    counts, one, two = gains_table(record)
    counted = ("1 (0)", "0 (0)", "1 (0)", "1 (0)", "1 (0)", "0 (0)")
    assert counts.rows[0] == ("SASRec", "Recall@10", *counted)
    assert one.rows[1][:2] == ("SASRec", "NDCG@10")
    assert "0.1200 (+20.0 %)" in one.rows[1]
    assert "better (+10.0 % to +20.0 %)" in one.rows[1]
    assert "0.1200 ± 0.0100 (+20.0 %)" in two.rows[0]
    assert "Seeds 1, 2" in two.note


def test_logs_are_counted_over_users_and_over_seeds():
    cells = {}
    for name, over_seeds in {"one": [-0.01, 0.05], "two": [0.01, 0.02], "three": None}.items():
        cell = a_cell(("better", "better"), (1, 2, 3))
        if over_seeds:
            cell["comparisons"] = [row | {"seeds": over_seeds} for row in cell["comparisons"]]
        cells[name] = {"gsau": cell}
    counts = gains_table(a_record(cells))[0]
    assert counts.rows[0] == ("GSAU", "Recall@10", *("3 (1)", "0 (1)", "0 (0)") * 2)


def test_the_figure_shows_tuned_and_control_by_log_and_model(monkeypatch):
    figures_saved = []
    monkeypatch.setattr(
        figures, "save", lambda figure, path: figures_saved.append(figure) or [path]
    )
    cells = {"gsau": a_cell(("better", "better")), "sasrec": a_cell(("better", "better"))}
    alone = {"sasrec": a_cell(("better", "better"))}
    del alone["sasrec"]["models"]["control"]
    alone["sasrec"]["comparisons"] = []
    assert figures.draw_gains(a_record({"one": cells, "two": alone}), Path("out"))
    left, right = figures_saved[0].axes
    assert [axes.get_title() for axes in (left, right)] == ["SASRec", "GSAU"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["one", "two"]
    places = {line.get_label(): line.get_xdata() for line in right.lines}
    assert places["GRPO, 95 % interval over users"] == pytest.approx([20.0])
    assert places["continued training"] == pytest.approx([10.0])
    assert right.lines[0].get_xdata() == pytest.approx([10.0, 20.0])  # the interval


def test_a_model_from_scratch_is_not_compared_with_a_base_of_one_step():
    cells = {
        name: a_cell(("better", "better")) for name in ("gsau", "gsau-grpo", "gsau-from-scratch")
    }
    (grid,) = ablation_table(a_record({"one": cells}))
    assert [row[0] for row in grid.rows] == [
        "GSAU: default recipe",
        "GSAU: objective grpo",
        "GSAU: no trained base",
    ]
    assert [row[-1][:6] for row in grid.rows] == ["better", "better", "–"]
    assert grid.rows[2][2] == "0.1200"


def test_without_a_comparison_the_cell_is_a_dash():
    assert comparison_cell(a_cell(("better", "better")), "control", "base") == "–"


def test_the_interval_over_seeds_is_shown_where_the_record_has_one():
    cell = a_cell(("better", "better"), (1, 2, 3))
    assert comparison_cell(cell, "tuned", "base") == "better (+10.0 % to +20.0 %)"
    for row in cell["comparisons"]:
        row["seeds"] = [-0.01, 0.05]
    text = "better (+10.0 % to +20.0 %; seeds −10.0 % to +50.0 %)"
    assert comparison_cell(cell, "tuned", "base") == text
