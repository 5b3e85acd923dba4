"""Tables over several logs and suites name what their numbers are relative to."""

from tools.results.overview_tables import change_by_model


def a_cell(base, tuned, seeds):
    test = {"base": base, "tuned": tuned}
    return {
        "seeds": seeds,
        "models": {stage: {"test": {"ndcg@10": {"mean": test[stage]}}} for stage in test},
        "comparisons": [{"a": "tuned", "b": "base", "metric": "ndcg@10", "verdict": "better"}],
    }


def test_a_change_names_its_seeds_and_its_base():
    cells = {
        "sasrec": a_cell(0.1, 0.12, [1, 2]),
        "sasrec-grpo": a_cell(0.1, 0.11, [1]),
        "gsau": a_cell(0.1, 0.12, [1, 2]),
        "gsau-grpo": a_cell(0.08, 0.1, [1]),
        "gsau-KL-0.3": a_cell(0.08, 0.1, [1]),
        "gsau-from-scratch": a_cell(0.01, 0.1, [1]),
    }
    (grid,) = change_by_model({"data": {"log": {"cells": cells}}}, "Ablation")
    assert grid.rows[0][1:] == ("+20.0 %, better (2 seeds)", "–", "+20.0 %, better (2 seeds)")
    assert grid.rows[1][1:] == ("+10.0 %, better", "–", "+25.0 %, better")
    assert grid.rows[-1][1:] == ("–", "–", "0.1000")
    bases = "SASRec 0.1000. GSAU 0.1000 (default recipe), 0.0800 (the others)."
    assert grid.note.endswith(f"whose NDCG@10 is: {bases}")
