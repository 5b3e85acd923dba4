"""The ladder of controls: its cells, the selection of learning rates, comparisons and tables."""

import json
import math

import numpy as np
import polars as pl
import pytest

from recoach.experiments.config import resolve
from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.ladder_cells import (
    GRAPH_RUNGS,
    MODELS,
    RATES,
    RUNGS,
    Rung,
    ladder,
    rungs_of,
    trials,
)
from recoach.reproduction.ladder_contrasts import contrasts, log_contrasts, trials_in
from recoach.reproduction.ladder_tables import best_control, costs, reading
from recoach.reproduction.ladder_tables import ladder as ladder_tables
from recoach.reproduction.paper_cells import Source

CELLS = ladder(Source("toys-2014-timed", "toys.csv"), "quick", 7)
USERS = 400


def test_the_settings_of_every_cell_are_valid():
    assert {resolve(cell.tables, cell.name).seed for cell in CELLS} == {7}


def test_the_names_of_cells_are_different_and_no_part_of_each_other():
    names = {cell.name for cell in CELLS}
    assert len(names) == len(CELLS)
    for model in MODELS:
        for rung in rungs_of(model):
            for protocol in ("last", "time"):
                rates = {f"{model}-{rung}-{rate:g}-{protocol}" for rate in RATES}
                assert rates <= names


def test_a_rung_changes_what_it_says_and_keeps_the_rest_of_the_recipe():
    by_name = {cell.name: resolve(cell.tables, cell.name) for cell in CELLS}
    recipe = by_name["sasrec-recipe-0.001-time"]
    shared = ("metric", "patience", "ema_decay", "interpolate", "select", "state", "mask_seen")
    for rung in ("dense", "future-neighbours", "grpo", "shuffled-users", "ufrec", "trpo"):
        config = by_name[f"sasrec-{rung}-0.001-time"]
        assert config.pretrain == recipe.pretrain
        assert all(
            getattr(config.finetune, name) == getattr(recipe.finetune, name) for name in shared
        )
        assert not config.evaluation.control
    assert recipe.evaluation.control
    assert by_name["sasrec-dense-0.001-last"].finetune.discount == 1
    assert by_name["sasrec-scratch-0.001-last"].finetune.start == "scratch"
    future_base = by_name["sasrec-future-base-0.001-last"]
    assert future_base.pretrain.objective == "future"
    assert future_base.finetune == recipe.finetune
    assert by_name["lightgcn-future-bpr-0.003-last"].finetune.num_negatives == 1


def test_logs_without_times_have_the_protocol_of_positions_only():
    cells = ladder(Source("industrial-2018", "log.txt"), "quick", 7)
    assert all(cell.name.endswith("-last") for cell in cells)
    assert len(cells) == len(CELLS) / 2


def test_every_trial_keeps_what_the_run_sets_for_all_algorithms():
    run = {"finetune": {"horizon": 3, "num_generations": 9, "learning_rate": 0.5}}
    for name, tables in trials(run, RUNGS):
        rung = name.rpartition("-")[0]
        assert tables["finetune"]["horizon"] == dict(RUNGS[rung].change).get("horizon", 3)
        assert tables["finetune"]["learning_rate"] in RATES
        assert tables["finetune"].get("num_generations") in (None, 256)


def write_run(folder, seed, models):
    """Write a finished run whose users have one value each."""
    path = folder.with_name(folder.name.replace("SEED", str(seed)))
    frames = [
        pl.DataFrame(
            {"user_id": [f"u{n}" for n in range(USERS)], "model": name, "history": 3}
            | {"ndcg@10": values.astype(np.float32)}
        )
        for name, (_, values) in models.items()
    ]
    RunFolder(path).write_frame("per_user.parquet", pl.concat(frames))
    counts = {"base": 400.0, "tuned": 100.0 + 10 * (seed - 2020)}  # of the control: not known
    results = {
        "models": {
            name: {
                "valid": {"ndcg@10": v},
                "budget": {"multiply_adds": counts.get(name), "seconds": 5},
            }
            for name, (v, _) in models.items()
        }
    }
    results |= {"seed": seed, "protocol": {"primary": "ndcg@10"}, "dataset": {"fingerprint": "f"}}
    RunFolder(path).write_text("results.json", json.dumps(results))


def values(seed, mean):
    return mean + 0.1 * np.random.default_rng(seed).standard_normal(USERS)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a recipe of two rates and rungs that are worse, equal and better."""
    for seed in (2020, 2021, 2022):
        for rate, valid in ((0.001, 0.3), (0.003, 0.2)):
            recipe = {
                "base": (0.25, values(seed, 0.4)),
                "tuned": (valid, values(seed, 0.5)),
                "control": (0.5 - valid, values(seed, 0.45 if rate == 0.003 else 0.3)),
            }
            write_run(tmp_path / f"sasrec-recipe-{rate}-last-SEED", seed, recipe)
        worse = {"base": (0.25, values(seed, 0.4)), "tuned": (0.3, values(seed, 0.42))}
        write_run(tmp_path / "sasrec-dense-0.001-last-SEED", seed, worse)
        retrained = {"tuned": (0.3, values(seed, 0.1)), "tuned_retrained": (0, values(seed, 0.5))}
        write_run(tmp_path / "sasrec-future-0.001-last-SEED", seed, retrained)
    better = {"tuned": (0.3, values(2020, 0.6))}
    write_run(tmp_path / "sasrec-grpo-0.001-last-SEED", 2020, better)
    return tmp_path


def rows_of(folder):
    rows = log_contrasts(folder)["sasrec-last"]
    return {(row["rung"], row["stage"]): row for row in rows}


def test_validation_selects_the_rate_of_each_model_of_a_rung(folder):
    rows = rows_of(folder)
    assert (rows["recipe", "tuned"]["rate"], rows["recipe", "tuned"]["valid"]) == (0.001, 0.3)
    # The control does better with the other rate, and its test values are those of that rate.
    assert (rows["recipe", "control"]["rate"], rows["recipe", "control"]["trials"]) == (0.003, 2)
    assert rows["recipe", "control"]["test"] == pytest.approx(0.45, abs=0.01)


def test_the_recipe_is_compared_with_every_rung_over_the_seeds_of_both(folder):
    rows = rows_of(folder)
    assert "recipe_against" not in rows["recipe", "tuned"]
    against = rows["dense", "tuned"]["recipe_against"]
    assert against["value"] == pytest.approx(0.5 / 0.42 - 1, abs=0.005)
    assert against["low"] < against["value"] < against["high"]
    assert against["seeds"] == [2020, 2021, 2022]
    assert rows["grpo", "tuned"]["recipe_against"]["seeds"] == [2020]


def test_the_cost_of_a_rung_is_its_training_over_that_of_the_base(folder):
    table = ladder_tables({"data": {"a": {"contrasts": log_contrasts(folder)}}})[1]
    place = table.columns.index("cost")
    shown = {row[0]: row[place] for row in table.rows}
    assert shown["base"] == "1.00"
    assert shown["default recipe (objective `log`)"] == "0.28"  # the mean over seeds is 110
    assert shown["GRPO's own objective (`grpo`)"] == "0.25"
    assert shown["continued training"] == "–"


def test_costs_leave_out_what_was_not_counted(folder):
    table = costs({"data": {"a": {"contrasts": log_contrasts(folder)}}})
    rows = {row[1]: row for row in table.rows}
    assert rows["base"][3:] == ("1.00", "5", "–")
    recipe = rows["default recipe (objective `log`)"]
    assert (recipe[0], recipe[3]) == ("SASRec, a, leave-last-out", "0.28")
    assert float(recipe[5].strip("+ %")) == pytest.approx(25, abs=2)  # 0.5 over 0.4
    assert "continued training" not in rows


def test_a_model_that_was_trained_again_stands_for_its_rung(folder):
    row = rows_of(folder)["future", "tuned"]
    assert row["test"] == pytest.approx(0.5, abs=0.01)
    assert row["recipe_against"]["value"] == pytest.approx(0, abs=1e-6)


def test_what_a_comparison_says_follows_from_the_adjusted_p_value_and_the_equivalence_test(folder):
    rows = rows_of(folder)
    assert reading(rows["dense", "tuned"]["recipe_against"]) == "recipe better"
    assert reading(rows["future", "tuned"]["recipe_against"]) == "equivalent within 1 %"
    assert reading(rows["grpo", "tuned"]["recipe_against"]) == "recipe worse"
    unclear = {"holm": 0.06, "value": 0.1, "equivalence_p_value": 0.5, "detectable": 0.12}
    assert reading(unclear) == "no difference (detectable: +12.0 %)"


def test_adjusted_p_values_are_those_of_all_rows_of_the_table(folder):
    rows = [row["recipe_against"] for row in rows_of(folder).values() if "recipe_against" in row]
    smallest = min(rows, key=lambda row: row["p_value"])
    assert smallest["holm"] == pytest.approx(min(1, len(rows) * smallest["p_value"]), abs=2e-5)


def test_without_the_recipe_nothing_is_compared(folder):
    found = trials_in(folder, "sasrec-dense-{rate}-last-{seed}", RATES)
    (row,) = contrasts({"dense": found}, {"dense": Rung("dense", {})})
    assert row["seeds"] == [2020, 2021, 2022]
    assert "recipe_against" not in row


def test_runs_of_other_rungs_whose_names_begin_alike_are_no_trials(folder):
    write_run(
        folder / "sasrec-future-neighbours-0.001-last-SEED", 2020, {"tuned": (1, values(1, 1))}
    )
    (trial,) = trials_in(folder, "sasrec-future-{rate}-last-{seed}", RATES)
    assert sorted(trial.runs) == [2020, 2021, 2022]


def test_the_tables_show_every_row_and_pool_logs(folder):
    rows = log_contrasts(folder)
    record = {"data": {"a": {"contrasts": rows}, "b": {"contrasts": rows}, "c": {}}}
    protocols, pooled, first, second = ladder_tables(record)
    assert [row[:2] for row in protocols.rows] == [("SASRec", "a"), ("SASRec", "b")]
    assert (first.heading, len(first.rows)) == (
        "Ladder: SASRec, a, leave-last-out",
        len(rows["sasrec-last"]),
    )
    assert second.heading == "Ladder: SASRec, b, leave-last-out"
    by_rung = {row[0]: row for row in first.rows}
    assert by_rung["base"][1] == "–"
    assert by_rung["dense all-action cross-entropy"][-1] == "recipe better"
    pooled_rows = {row[0]: row[1:] for row in pooled.rows}
    assert pooled_rows["dense all-action cross-entropy"][:2] == ("2", "2 of 2")
    assert "dense all-action cross-entropy" in pooled_rows


def test_a_log_without_any_difference_counts_as_much_as_another_in_the_pooled_effect(folder):
    rows = log_contrasts(folder)["sasrec-last"]
    same = {"log_ratio": 0.0, "standard_error": 0.0}
    returned = [
        row | {"recipe_against": row["recipe_against"] | same} if "recipe_against" in row else row
        for row in rows
    ]
    logs = {"a": rows, "b": returned, "c": rows}
    record = {"data": {log: {"contrasts": {"sasrec-last": of}} for log, of in logs.items()}}
    pooled = {row[0]: row[1:] for row in ladder_tables(record)[1].rows}
    dense = {(row["rung"], row["stage"]): row for row in rows}["dense", "tuned"]["recipe_against"]
    assert pooled["dense all-action cross-entropy"][:2] == ("3", "2 of 3")
    mean = math.expm1(dense["log_ratio"] * 2 / 3)  # equal errors: the mean of the three
    assert pooled["dense all-action cross-entropy"][2].startswith(f"+{mean:.1%}".replace("%", " %"))
    nothing = {"data": {log: {"contrasts": {"sasrec-last": returned}} for log in ("a", "b")}}
    assert not any("pooled" in table.heading for table in ladder_tables(nothing))


def test_the_rungs_of_lightgcn_reward_items_whose_edge_is_hidden_or_all_edges():
    edges = GRAPH_RUNGS["edges"].change
    assert (edges["reward_funcs"], edges["mask_seen"]) == (["train_set"], False)


def against(value, holm):
    ends = {"low": value - 0.02, "high": value + 0.02, "equivalence_p_value": 0.5}
    ends |= {"log_ratio": value, "standard_error": 0.01}
    return {"value": value, "holm": holm, "detectable": 0.03} | ends


def group(value, holm):
    row = {"rung": "recipe", "stage": "base", "rate": 1e-3, "seeds": [1], "valid": 1, "test": 1}
    row["trials"] = 1
    return [row | {"recipe_against": against(value, holm)}]


@pytest.mark.parametrize(
    ("last", "time", "text"),
    [
        ((0.1, 0.01), (0.1, 0.01), "the verdict survives"),
        ((0.1, 0.01), (0.1, 0.2), "the verdict does not survive"),
        ((0.1, 0.01), (-0.1, 0.01), "the verdict does not survive"),
        ((0.0, 0.9), (0.1, 0.01), "the gain is there by time only"),
        ((0.0, 0.9), (0.0, 0.9), "no gain to lose"),
    ],
)
def test_the_first_table_says_whether_the_verdict_survives_the_other_protocol(last, time, text):
    contrasts = {"sasrec-last": group(*last), "sasrec-time": group(*time)}
    (table, *_) = ladder_tables({"data": {"log": {"contrasts": contrasts}}})
    (row,) = table.rows
    assert row[-1] == text
    assert row[2].startswith(f"{'+' if last[0] else ''}{100 * last[0]:.1f} % [")


def test_the_best_control_is_chosen_on_validation_among_base_and_continued_training():
    rows = [
        {"rung": "recipe", "stage": "base", "valid": 0.2},
        {"rung": "plain", "stage": "control", "valid": 0.3},
        {"rung": "recipe", "stage": "control", "valid": 0.25},
        {"rung": "recipe", "stage": "tuned", "valid": 0.9},
        {"rung": "future-base", "stage": "base", "valid": 0.8},
    ]
    rows = [row | {"recipe_against": {}} for row in rows]
    assert best_control(rows) == rows[1]
    assert best_control(rows[3:]) is None


def test_a_rung_with_a_base_of_its_own_has_rows_for_it(folder):
    values_of = {"base": 0.3, "tuned": 0.35, "control": 0.31}
    models = {name: (value, values(3, value)) for name, value in values_of.items()}
    write_run(folder / "sasrec-future-base-0.001-last-SEED", 2020, models)
    rows = rows_of(folder)
    assert {stage for rung, stage in rows if rung == "future-base"} == set(values_of)
    record = {"data": {"a": {"contrasts": log_contrasts(folder)}}}
    labels = [row[0] for row in ladder_tables(record)[1].rows]
    assert "base of future items" in labels
    assert "continued training of that base" in labels
