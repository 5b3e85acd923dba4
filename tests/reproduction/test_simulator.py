"""The suite of simulated customers, at the smallest size."""

import json

import pytest

from recoach.errors import ConfigError
from recoach.reproduction import simulator
from recoach.reproduction.paper_tables import write_suite
from recoach.reproduction.simulator import Simulation, simulate
from recoach.simulation.environment import EnvironmentConfig
from recoach.simulation.shop import Habits
from recoach.training.callbacks import Callback
from recoach.training.config import GRPOConfig
from recoach.training.supervised import PretrainConfig


def plan(output, seeds=(1, 2), **settings):
    short = {
        "pretrain": PretrainConfig(max_steps=4, eval_steps=2),
        "grpo": GRPOConfig(max_steps=2, eval_steps=1),
        "environment": EnvironmentConfig(max_turns=4),
    }
    return Simulation(seeds, output, customers=60, items=80, **short | settings)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulator")
    announced = []
    record = simulate(plan(folder), lambda stage: Callback(), announced.append)
    return folder, record, announced


def again(folder, **settings):
    announced = []
    record = simulate(plan(folder, **settings), lambda stage: Callback(), announced.append)
    return record, announced


def test_every_policy_is_played_in_every_shop(played):
    _, record, announced = played
    assert announced == ["simulated shop, seed 1", "simulated shop, seed 2"]
    names = {"popularity", "base", "+ supervised steps", "+ GRPO", "random", "epsilon-greedy"}
    names |= {"Thompson sampling", "oracle"}
    names |= {f"+ GRPO, novelty {weight:g}" for weight in simulator.NOVELTY}
    assert set(record["policies"]) == names
    for found in record["policies"].values():
        assert len(found["reward"]["each"]) == 2
        assert found["turns"]["mean"] <= 4
    own = record["policies"]["base"]["reward"]["against_base"]
    assert (own["difference"], own["verdict"]) == (0, "no difference")
    assert record["policies"]["oracle"]["reward"]["mean"] > own["difference"]


def test_what_is_played_is_not_played_again(played):
    folder, record, _ = played
    found, announced = again(folder)
    assert announced == []
    assert found == record


def test_other_settings_need_another_folder(played):
    folder, _, _ = played
    with pytest.raises(ConfigError, match="other settings"):
        again(folder, environment=EnvironmentConfig(max_turns=5))


def test_the_habits_are_those_of_the_shop_and_its_customers(played):
    folder, record, _ = played
    found, _ = again(folder.parent / "chained", seeds=(1,), habits=Habits(chain=4.0))
    assert record["settings"]["habits"]["chain"] == 1.0
    oracle = [each["policies"]["oracle"]["reward"]["each"][0] for each in (record, found)]
    assert oracle[0] < oracle[1]  # what follows the last click is likelier, and the oracle knows it


def test_a_setting_that_came_later_changes_nothing(played):
    folder, record, _ = played
    path = folder / "seed-1" / "results.json"
    world = json.loads(path.read_text())
    del world["settings"]["grpo"]["entropy_coef"]
    path.write_text(json.dumps(world))
    assert again(folder)[0] == record


def test_novelty_is_rewarded_with_growing_weight(played, monkeypatch):
    asked = []
    real = simulator.GRPOTrainer

    def watched(model, *, args, **settings):
        asked.append((args.reward_funcs, args.reward_weights, args.select))
        return real(model, args=args, **settings)

    monkeypatch.setattr(simulator, "GRPOTrainer", watched)
    again(played[0].parent / "other", seeds=(1,))
    assert asked[0] == (("future",), (), "best")
    assert asked[1:] == [
        (("future", "novelty"), (1.0, weight), "last") for weight in simulator.NOVELTY
    ]


def test_the_tables_and_the_front_are_written(played, tmp_path):
    _, record, _ = played
    paths = write_suite(record, "simulator", tmp_path)
    text = paths[0].read_text()
    assert "### Simulated customers" in text
    assert "| base | " in text
    assert "### Accuracy and diversity" in text
    assert text.count("| oracle |") == 1  # no model: its lists are not judged on the log
    assert {path.suffix for path in paths} == {".md", ".tex", ".html", ".svg", ".png", ".json"}
