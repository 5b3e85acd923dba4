"""The tables of the suite `events`."""

import pytest

from recoach.experiments.config import resolve
from recoach.reproduction import event_cells
from recoach.reproduction.event_tables import events
from recoach.reproduction.paper_cells import Source


def stage(ndcg, view, cart):
    strata = {
        "event_type": {
            "view": {"targets": 30, "ndcg@10": view, "hit@10": 0.5},
            "cart": {"targets": 10, "ndcg@10": cart, "hit@10": 1.0},
        },
        "repeats": {"new": {"targets": 40, "ndcg@10": ndcg, "hit@10": 0.625}},
    }
    return {"test": {"ndcg@10": {"mean": ndcg, "sd": 0.0}}, "strata": strata}


def cell(comparisons=(), start="base", **stages):
    protocol = {"n_targets": 40, "n_users": 9, "n_items": 7}
    protocol |= {"repeated_targets": 0, "cold_targets": 1}
    baselines = {"popularity": stage(0.1, 0.1, 0.1), "repeat_last": stage(0.2, 0.1, 0.5)}
    return {
        "models": baselines | stages,
        "comparisons": list(comparisons),
        "protocol": protocol,
        "seeds": [2020],
        "config": {"finetune": {"start": start}},
    }


def compared(a, b, difference):
    ends = {"difference": difference, "low": difference - 0.01, "high": difference + 0.01}
    return {"a": a, "b": b, "metric": "ndcg@10", "verdict": "no difference"} | ends


CELLS = {
    "sasrec-time": cell(base=stage(0.25, 0.2, 0.4)),
    "sasrec-sqn-time": cell(
        [compared("tuned", "base", 0.005), compared("tuned", "control", -0.1)],
        "scratch",
        base=stage(0.25, 0.2, 0.4),
        control=stage(0.3, 0.2, 0.4),
        tuned=stage(0.255, 0.2, 0.42),
    ),
    "sasrec-trpo-time": cell(
        [compared("tuned", "base", 0.1), compared("tuned", "control", -0.01)],
        base=stage(0.25, 0.2, 0.4),
        control=stage(0.4, 0.3, 0.7),
        tuned=stage(0.39, 0.3, 0.66),
    ),
    "sasrec-users": cell(base=stage(0.3, 0.2, 0.6)),
}


@pytest.fixture(scope="module")
def tables():
    return events({"data": {"log": {"cells": CELLS}}})


def test_each_protocol_has_a_table_with_its_own_cells(tables):
    assert [table.heading for table in tables] == [
        "Events: log, split by time",
        "Events: log, random users (SQN)",
    ]
    names = [[row[0] for row in table.rows] for table in tables]
    assert names[0] == [
        "popularity",
        "repeat last",
        "SASRec",
        "SASRec, SQN",
        "SASRec, TRPO",
        "SASRec, TRPO: continued training",
    ]
    assert names[1] == ["popularity", "repeat last", "SASRec"]


def test_a_row_has_the_tuned_model_by_event_type_and_its_value(tables):
    row = dict(zip(tables[0].columns, tables[0].rows[3], strict=True))
    assert (row["NDCG@10"], row["view"], row["cart"]) == ("0.2550", "0.2000", "0.4200")
    assert (row["buy"], row["repeated"], row["new"]) == ("–", "–", "0.2550")
    # (0.2 * 30 * 0.5 + 1 * 10 * 1) / 40
    assert row["value@10"] == "0.3250"


def test_a_tuned_base_is_compared_with_its_control_and_training_from_scratch_with_the_base(tables):
    changes = [row[-1] for row in tables[0].rows]
    assert changes[2] == "–"
    assert changes[3] == "+2.0 % [-2.0, +6.0] no difference"
    assert changes[4] == "-2.5 % [-5.0, +0.0] no difference"
    assert changes[5] == "–"


def test_a_control_is_trained_where_it_is_the_counterpart_and_nowhere_else():
    source = Source("log", "log.csv")
    for cell in event_cells.events(source, "paper", 0):
        config = resolve(cell.tables, cell.name)
        if config.finetune_enabled:
            assert config.evaluation.control == (config.finetune.start == "base"), cell.name
