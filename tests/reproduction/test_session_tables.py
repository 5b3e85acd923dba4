import pytest

from recoach.experiments.run_folder import RunFolder
from recoach.reproduction.aggregate import aggregate
from recoach.reproduction.paper_cells import Source
from recoach.reproduction.paper_tables import suite_tables
from recoach.reproduction.session_cells import _MODELS, sessions
from recoach.reproduction.session_tables import _PUBLISHED, _RERUNS

SET = Source("yoochoose-64", "yoochoose-64")


def write_run(folder, name, seed, precision):
    """Write the record of a run; before training again P@20 is .1 lower."""

    def results(value):
        models = {"base": {"test": {"hit@20": value, "mrr@20": value / 2}}}
        return {"models": models, "comparisons": []}

    record = results(precision - 0.1) | {
        "retrained": results(precision),
        "dataset": {"name": SET.name},
        "model": name,
        "seed": seed,
        "protocol": {"n_states": 55_400, "n_targets": 1000, "n_items": 17_376}
        | {"repeated_targets": 266},
        "config": {"seed": seed},
        "diagnostics": {},
        "environment": {},
    }
    path = folder / SET.name / f"{name}-{seed}"
    path.mkdir(parents=True)
    RunFolder(path).write_json("results.json", record)


def test_a_row_has_both_trainings_published_values_and_reruns(tmp_path):
    for seed, precision in ((2020, 0.70), (2021, 0.72)):
        write_run(tmp_path, "srgnn", seed, precision)
    write_run(tmp_path, "vstan", 2020, 0.7067)
    (table,) = suite_tables(aggregate("sessions", "quick", tmp_path, [SET]), "sessions")
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.heading == "Session models: yoochoose-64"
    assert rows["VSTAN"] == ("70.67", "35.34", "60.67 / 30.34", "–", "70.66 / 28.45 (a)")
    assert rows["SR-GNN"] == (
        "71.00 ± 1.41",
        "35.50 ± 0.71",
        "61.00 ± 1.41 / 30.50 ± 0.71",
        "70.57 / 30.94",
        "69.56 / 29.23 (a), 69.2 / 29.7 (b)",
    )
    assert table.note.startswith(
        "55,400 test prefixes, 17,376 items, 26.6 % of the targets are in their prefix. Seeds "
        "2020, 2021; a row without ± has one."
    )


def test_every_baseline_is_a_cell_and_every_quoted_value_belongs_to_one():
    names = [cell.name for cell in sessions(SET, "quick", 0)]
    assert names[:2] == ["session_popularity", "vsknn"]
    for quoted in (*_PUBLISHED.values(), *_RERUNS.values()):
        assert set(quoted) <= set(_MODELS)


@pytest.mark.parametrize("log", sorted(_PUBLISHED))
def test_values_are_precision_then_mrr(log):
    for text in (*_PUBLISHED[log].values(), *_RERUNS[log].values()):
        for pair in text.split(", "):
            precision, mrr = (float(part) for part in pair.partition(" (")[0].split(" / "))
            assert mrr < precision
