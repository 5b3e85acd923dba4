"""The suite `simulator`, at the smallest size."""

import json

import pytest

from recoach.errors import ConfigError
from recoach.reproduction import simulator
from recoach.reproduction.paper_tables import write_suite
from recoach.reproduction.simulator import Simulation, simulate
from recoach.simulation.environment import EnvironmentConfig
from recoach.simulation.shop import Habits
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.pretrain_config import PretrainConfig


def plan(output, seeds=(1, 2), **settings):
    short = {
        "pretrain": PretrainConfig(max_steps=4, eval_steps=2),
        "grpo": GRPOConfig(max_steps=2, eval_steps=1),
        "environment": EnvironmentConfig(max_turns=4),
    }
    return Simulation(seeds, output, customers=60, items=80, **short | settings)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulator")
    announced = []
    record = simulate(plan(folder), lambda stage: Callback(), announced.append)
    return folder, record, announced


def run_again(folder, **settings):
    announced = []
    record = simulate(plan(folder, **settings), lambda stage: Callback(), announced.append)
    return record, announced


def test_every_policy_runs_in_every_shop(simulated):
    _, record, announced = simulated
    assert announced == ["simulated shop, seed 1", "simulated shop, seed 2"]
    names = {"popularity", "base", "+ supervised steps", "+ GRPO", "random", "epsilon-greedy"}
    names |= {"Thompson sampling", "oracle"}
    names |= {f"+ GRPO, novelty {weight:g}" for weight in simulator.NOVELTY}
    assert set(record["policies"]) == names
    for policy in record["policies"].values():
        assert len(policy["reward"]["each"]) == 2
        assert policy["turns"]["mean"] <= 4
    itself = record["policies"]["base"]["reward"]["against_base"]
    assert (itself["difference"], itself["verdict"]) == (0, "no difference")
    assert record["policies"]["oracle"]["reward"]["mean"] > itself["difference"]


def test_a_finished_seed_is_not_run_again(simulated):
    folder, record, _ = simulated
    repeated, announced = run_again(folder)
    assert announced == []
    assert repeated == record


def test_other_settings_need_another_folder(simulated):
    folder, _, _ = simulated
    with pytest.raises(ConfigError, match="other settings"):
        run_again(folder, environment=EnvironmentConfig(max_turns=5))


def test_the_habits_change_the_shop_and_the_oracle(simulated):
    folder, record, _ = simulated
    chained, _ = run_again(folder.parent / "chained", seeds=(1,), habits=Habits(chain=4.0))
    assert record["settings"]["habits"]["chain"] == 1.0
    oracle = [each["policies"]["oracle"]["reward"]["each"][0] for each in (record, chained)]
    assert oracle[0] < oracle[1]  # the next click is more predictable, and the oracle knows it


def test_a_setting_that_was_added_later_has_its_default_in_old_results(simulated):
    folder, record, _ = simulated
    path = folder / "seed-1" / "results.json"
    result = json.loads(path.read_text())
    del result["settings"]["grpo"]["entropy_coef"]
    path.write_text(json.dumps(result))
    assert run_again(folder)[0] == record


def test_the_novelty_reward_has_increasing_weights(simulated, monkeypatch):
    settings_of_runs = []
    real = simulator.GRPOTrainer

    def recording(model, *, args, **settings):
        settings_of_runs.append((args.reward_funcs, args.reward_weights, args.select))
        return real(model, args=args, **settings)

    monkeypatch.setattr(simulator, "GRPOTrainer", recording)
    run_again(simulated[0].parent / "other", seeds=(1,))
    assert settings_of_runs[0] == (("future",), (), "best")
    assert settings_of_runs[1:] == [
        (("future", "novelty"), (1.0, weight), "last") for weight in simulator.NOVELTY
    ]


def test_the_tables_and_the_front_are_written(simulated, tmp_path):
    _, record, _ = simulated
    paths = write_suite(record, "simulator", tmp_path)
    text = paths[0].read_text()
    assert "### Simulated customers" in text
    assert "| base | " in text
    assert "### Accuracy and diversity" in text
    assert text.count("| oracle |") == 1  # no model: it has no accuracy on the log
    assert {path.suffix for path in paths} == {".md", ".tex", ".html", ".svg", ".png", ".json"}
