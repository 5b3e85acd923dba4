"""`recoach front` on a tiny run: fine-tunings, re-rankers, tables and the picture."""

import json

import pytest

from recoach.experiments import front
from recoach.report.front import RL
from recoach.rerank.config import KNOBS

pytest.importorskip("moocore")

FEW = {by: knob._replace(values=knob.values[2:4]) for by, knob in KNOBS.items()}


@pytest.fixture(scope="module")
def computed(recoach, finished, tmp_path_factory):
    """Return the folder and the output of two fronts, each with one or two fine-tunings."""
    path = tmp_path_factory.mktemp("fronts")
    outputs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "KNOBS", FEW)
        for objective, weights in (("diversity", ("0.3", "3")), ("coverage", ("1",))):
            line = ["front", finished, "--objective", objective, "--output", path / objective]
            line += ["--weights", *weights, "--steps", "3", "--set", "finetune.batch_size=64"]
            outputs[objective] = recoach(*line, "finetune.num_generations=2")
        outputs["again"] = recoach(*line, "finetune.num_generations=2")
    return path, outputs


def record(computed, objective):
    return json.loads((computed[0] / objective / "front.json").read_text())


@pytest.mark.parametrize("objective", ["diversity", "coverage"])
def test_all_settings_of_all_methods_are_reported(computed, objective):
    result = computed[1][objective]
    assert result.code == 0, result.err
    found = record(computed, objective)
    sizes = {name: len(method["settings"]) for name, method in found["methods"].items()}
    n_weights = 2 if objective == "diversity" else 1
    assert sizes == {
        **dict.fromkeys(("mmr", "dpp", "xquad", "calibration", "popularity", "exposure_cap"), 2),
        **({"imitation": 2} if objective == "diversity" else {}),
        RL: n_weights,
        f"{RL}, same candidates": n_weights,
    }
    assert ("imitation" in found["differences"][RL]) == (objective == "diversity")
    for method in found["methods"].values():
        assert 0 <= method["hypervolume"] <= 1.1
    for entries in found["differences"].values():
        for entry in entries.values():
            assert entry["low"] <= entry["difference"] <= entry["high"]
    assert found["best_reranker"] in sizes
    assert found["milliseconds"][RL] > 0
    assert bool(found["optimum"]) == (objective == "coverage")


def test_validation_selects_the_settings_of_a_front(computed):
    found = record(computed, "diversity")
    for method in found["methods"].values():
        points = [
            (entry["valid"]["ndcg@10"], entry["valid"]["vector_diversity@10"])
            for entry in [found["base"], *method["settings"]]
        ]
        on_front = [method["base_on_front"], *(e["on_front"] for e in method["settings"])]
        for place, (x, y) in enumerate(points):
            dominated = any(a >= x and b >= y and (a > x or b > y) for a, b in points)
            assert not (on_front[place] and dominated)


def test_the_best_reranker_of_lists_on_validation_is_imitated(computed):
    found = record(computed, "diversity")
    lists = ("mmr", "dpp", "xquad", "calibration")
    best = max(lists, key=lambda name: found["methods"][name]["valid_hypervolume"])
    knobs = [entry["knob"] for entry in found["methods"][best]["settings"]]
    assert [entry["knob"] for entry in found["methods"]["imitation"]["settings"]] == knobs
    folder = computed[0] / "diversity" / "fine-tunings"
    for knob in knobs:
        stored = (folder / f"imitation-{best}-{knob:g}" / "config.toml").read_text()
        assert f'by = "{best}"' in stored
        assert f"knob = {knob}" in stored
        assert "max_steps = 3" in stored


def test_a_larger_weight_gives_more_diverse_lists(computed):
    small, large = record(computed, "diversity")["methods"][RL]["settings"]
    metric = "vector_diversity@10"
    assert small["test"] != large["test"]
    assert large["test"][metric] > record(computed, "diversity")["base"]["test"][metric]


def test_the_base_of_the_run_is_only_read_and_finished_fine_tunings_are_loaded(computed, finished):
    path, outputs = computed
    assert not (finished / "fine-tunings").exists()
    assert (path / "coverage" / "fine-tunings" / "coverage-1" / "checkpoints" / "tuned").is_dir()
    assert outputs["again"].code == 0, outputs["again"].err
    stable = ("hypervolume", "settings")
    found = record(computed, "coverage")["methods"][RL]
    assert {name: found[name] for name in stable}


def test_tables_picture_and_sentences_are_written(computed):
    folder = computed[0] / "diversity"
    text = (folder / "front.md").read_text()
    for words in ("# Accuracy and diversity", "### Methods", "### At equal accuracy", "| base |"):
        assert words in text
    assert "The front of fine-tuning" in computed[1]["diversity"].out
    assert (folder / "front.svg").read_text().count("<svg") == 1
    assert "data:image/png;base64" in (folder / "front.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "diversity", "--weights", "0"], "--weights must be numbers above 0"),
        (["--objective", "novelty", "--column", "price"], "--column is for --objective value"),
        (["--objective", "value"], "the log has no column `value`"),
    ],
)
def test_settings_are_checked(recoach, finished, tmp_path, words, message):
    result = recoach("front", finished, "--output", tmp_path / "out", *words)
    assert result.code == 2
    assert message in result.err
