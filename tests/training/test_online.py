"""Algorithms that learn by acting: advantages by hand, episodes, known optima, resuming."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from acting import Detour
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pages import ROOT, codes, tables
from recoach.data.split import leave_last_out
from recoach.errors import ConfigError
from recoach.models.registry import build_model
from recoach.simulation.environment import EnvironmentConfig, ShopVectorEnv
from recoach.simulation.shop import shop
from recoach.training.algorithms.base import Statistics
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.online.advantages import generalised_advantages, leave_one_out
from recoach.training.online.base import greedy_lists
from recoach.training.online.coverage import coverage_alarm
from recoach.training.online.observation_model import build_observation_model
from recoach.training.online.replay import Replayed
from recoach.training.online.rollouts import (
    Choice,
    Rollout,
    collect_episodes,
    episode_means,
)
from recoach.training.online.states import States, read_states
from recoach.training.online.trainer import ONLINE_ALGORITHMS, OnlineTrainer, evaluate_policy

SHORT = {
    "ppo": {"minibatch_size": 64, "num_epochs": 3},
    "reinforce": {"baseline": "leave_one_out"},
    "actor_critic": {"critic_learning_rate": 2e-2, "entropy_coef": 0.2},
    "dqn": {"updates_per_step": 10, "epsilon_steps": 15, "buffer_size": 500, "tau": 0.1},
}


def settings(name, **changes):
    steps = {"max_steps": 25, "eval_steps": 25, "learning_rate": 1e-2}
    return ONLINE_ALGORITHMS[name].config(**steps | SHORT[name] | changes)


def detour_trainer(name, seed=1, *, folder=None, resume=False, callbacks=(), **changes):
    model = build_observation_model(2, 3, seed=seed, hidden_dim=16, dim=8)
    context = RunContext(progress=False, seed=seed, folder=folder, resume=resume)
    return OnlineTrainer(
        model,
        Detour(),
        settings(name, **changes),
        eval_env=Detour(2),
        callbacks=callbacks,
        context=context,
    )


def rollout_of(rewards, active, terminated, truncated):
    """Return a rollout of float and bool [T, n] lists, without states and actions."""
    flags = [torch.tensor(part, dtype=torch.bool) for part in (active, terminated, truncated)]
    values = torch.tensor(rewards, dtype=torch.float32)
    n = (len(values) + 1) * values.shape[1]
    states = States(torch.zeros(n, 1), torch.zeros(n), torch.zeros(n, 0))
    return Rollout(states, torch.zeros(*values.shape, 1), torch.zeros_like(values), values, *flags)


def test_generalised_advantages_by_hand():
    # Environment 0 is terminated in turn 2, environment 1 truncated in turn 1.
    rollout = rollout_of(
        [[1, 2], [0, 1], [4, 0]],
        [[1, 1], [1, 1], [1, 0]],
        [[0, 0], [0, 0], [1, 0]],
        [[0, 0], [0, 1], [0, 0]],
    )
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0], [2.0, 10.0], [100.0, 100.0]])
    advantages = generalised_advantages(rollout, values, gamma=0.5, gae_lambda=0.5)
    last = 4 - 2  # terminated: the next value, 100, does not count
    middle = 0 + 0.5 * 2 - 3 + 0.25 * last
    first = 1 + 0.5 * 3 - 1 + 0.25 * middle
    cut = 1 + 0.5 * 10 - 5  # truncated: the next value counts
    before = 2 + 0.5 * 5 - 2 + 0.25 * cut
    expected = torch.tensor([[first, before], [middle, cut], [last, 0.0]])
    assert torch.allclose(advantages, expected)


def test_lambda_one_is_the_discounted_return_minus_the_value():
    rollout = rollout_of([[1.0], [2.0], [3.0]], [[1]] * 3, [[0], [0], [1]], [[0]] * 3)
    values = torch.tensor([[0.3], [-2.0], [7.0], [50.0]])
    advantages = generalised_advantages(rollout, values, gamma=0.9, gae_lambda=1.0)
    returns = torch.tensor([1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3.0])
    assert torch.allclose(advantages[:, 0], returns - values[:3, 0])


def test_the_baseline_of_an_environment_is_the_mean_of_the_others():
    active = torch.tensor([[True, True, True], [True, False, True], [True, False, False]])
    returns = torch.tensor([[1.0, 2.0, 6.0], [4.0, 9.0, 8.0], [5.0, 9.0, 9.0]])
    expected = torch.tensor([[4.0, 3.5, 1.5], [8.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    assert torch.equal(leave_one_out(returns, active), expected)


def always(item):
    return lambda states: Choice(
        torch.full((states.n_states, 1), item), torch.zeros(states.n_states)
    )


@pytest.mark.parametrize("scalar", [True, False])
def test_a_rollout_holds_one_episode_of_each_environment(scalar):
    rollout = collect_episodes(Detour(3, scalar=scalar), always(1), seed=0)
    assert rollout.active.tolist() == [[True] * 3, [True] * 3]
    assert rollout.terminated.tolist() == [[False] * 3, [True] * 3]
    assert not rollout.truncated.any()
    assert rollout.states.observations.argmax(dim=1).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    means = episode_means(rollout, 3)
    assert means.turns.tolist() == [2, 2, 2]
    assert means.coverage == pytest.approx(1 / 3)
    assert means.repeats == pytest.approx(0.5)


def test_a_cut_episode_is_truncated():
    rollout = collect_episodes(Detour(2), always(1), seed=0, max_turns=1)
    assert rollout.truncated.tolist() == [[True, True]]
    assert not rollout.terminated.any()


def test_a_policy_without_repetitions_shows_other_items():
    model = build_observation_model(2, 3)
    seen = []

    def act(states):
        choice = greedy_lists(model, states, 1)
        seen.append(choice.items[:, 0].tolist())
        return Choice(torch.where(torch.tensor(len(seen) == 1), 1, choice.items), choice.log_probs)

    collect_episodes(Detour(2), act, seed=0, no_repeat=True)
    assert len(seen) == 2
    assert 1 not in seen[1]


class Counter(gymnasium.Env):
    """Observes its turn, pays 1 a turn and ends after three."""

    observation_space = spaces.Box(0, 9, (1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, *, terminates):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.turn += 1
        ends = self.turn == 3
        observation = np.full(1, self.turn, dtype=np.float32)
        return observation, 1.0, ends and self.terminates, ends and not self.terminates, {}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("terminates", [True, False])
def test_environments_that_reset_themselves_end_once_with_their_last_observation(mode, terminates):
    makers = [lambda: Counter(terminates=True), lambda: Counter(terminates=terminates)]
    env = SyncVectorEnv([makers[0], makers[1]], autoreset_mode=mode)
    # Environment 0 is over a turn later: it continues to be active after environment 1 has reset.
    env.envs[0].unwrapped.step = late_step(env.envs[0].unwrapped)
    rollout = collect_episodes(env, always(0), seed=0)
    assert rollout.active.tolist() == [[True, True]] * 3 + [[True, False]]
    assert rollout.rewards.sum(dim=0).tolist() == [4, 3]
    assert rollout.terminated[2].tolist() == [False, terminates]
    assert rollout.truncated[2].tolist() == [False, not terminates]
    observations = rollout.states.observations.view(5, 2)
    assert observations[:4, 1].tolist() == [0, 1, 2, 3]
    assert observations[:, 0].tolist() == [0, 1, 2, 3, 4]


def late_step(env):
    def step(action):
        env.turn += 1
        return np.full(1, env.turn, dtype=np.float32), 1.0, env.turn == 4, False, {}

    return step


@pytest.mark.parametrize("name", ONLINE_ALGORITHMS)
def test_every_algorithm_prefers_the_delayed_reward(name):
    trainer = detour_trainer(name)
    result = trainer.train()
    assert result.best_value == 5
    assert result.best_step > 0
    assert float(evaluate_policy(trainer.model, Detour(4), 7).returns.mean()) == 5


class StopAfter(Callback):
    def __init__(self, step):
        self.last, self.now = step, 0

    def on_step(self, step, logs):
        self.now = step

    def stops(self):
        return self.now == self.last


@pytest.mark.parametrize("name", ONLINE_ALGORITHMS)
def test_a_resumed_training_ends_with_the_same_weights(name, tmp_path):
    short = {"max_steps": 4, "eval_steps": 3, "select": "last"}
    whole = detour_trainer(name, folder=tmp_path / "whole", **short)
    whole.train()
    detour_trainer(name, folder=tmp_path / "cut", callbacks=[StopAfter(2)], **short).train()
    resumed = detour_trainer(name, seed=1, folder=tmp_path / "cut", resume=True, **short)
    resumed.train()
    assert resumed.interactions < whole.interactions
    for kept, expected in (
        (resumed.model, whole.model),
        *zip(resumed.algorithm.modules.values(), whole.algorithm.modules.values(), strict=True),
    ):
        for key, value in expected.state_dict().items():
            assert torch.equal(kept.state_dict()[key], value), key


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    weights = []
    for seed in (1, 1, 2):
        trainer = detour_trainer("ppo", max_steps=2, select="last")
        trainer.context = RunContext(progress=False, seed=seed)
        trainer.train()
        weights.append(torch.cat([p.flatten() for p in trainer.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


SHOP = shop(40, 60, seed=0, n_categories=3)
DATASET = leave_last_out(SHOP.interactions)


def shop_env(users=None, **config):
    return ShopVectorEnv(SHOP, DATASET, EnvironmentConfig(max_turns=4, **config), users)


@pytest.mark.parametrize(("name", "model"), [("ppo", "bprmf"), ("reinforce", "sasrec")])
def test_a_recommender_is_trained_in_the_shop(name, model):
    built = build_model(model, DATASET, dim=8)
    before = {key: value.clone() for key, value in built.state_dict().items()}
    args = settings(name, max_steps=2, eval_steps=1, select="last")
    env = shop_env(list_length=3)
    trainer = OnlineTrainer(
        built, env, args, eval_env=shop_env(np.arange(8), list_length=3), context=QUIET
    )
    trainer.train()
    assert any(not torch.equal(before[key], value) for key, value in built.state_dict().items())
    row = trainer.state.log_history[-1]
    assert 0 < row["valid/coverage"] <= 1
    assert 0 < row["interactions"] <= 160
    assert row["entropy"] > 0


QUIET = RunContext(progress=False)


def test_a_training_with_random_users_is_resumed_bit_for_bit(tmp_path):
    def train(folder, *, resume=False, callbacks=()):
        args = settings("reinforce", max_steps=3, eval_steps=3, select="last")
        context = RunContext(progress=False, seed=4, folder=folder, resume=resume)
        model, env = build_model("bprmf", DATASET, dim=4), shop_env(list_length=3)
        eval_env = shop_env(np.arange(8), list_length=3)
        trainer = OnlineTrainer(
            model, env, args, eval_env=eval_env, callbacks=callbacks, context=context
        )
        trainer.train()
        return model.state_dict()

    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", callbacks=[StopAfter(1)])
    resumed = train(tmp_path / "cut", resume=True)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_items_that_a_user_has_clicked_are_not_drawn():
    env = shop_env(list_length=3)
    trainer = OnlineTrainer(
        build_model("bprmf", DATASET, dim=4),
        env,
        settings("ppo"),
        eval_env=shop_env(list_length=3),
        context=QUIET,
    )
    observations, _ = env.reset(seed=0)
    states = read_states(env, observations)
    lists = trainer.algorithm.act(states, torch.Generator().manual_seed(0)).items
    assert not states.masked.gather(1, lists).any()
    assert states.masked.any()


def test_dqn_learns_in_a_shop_that_shows_one_item():
    built = build_model("sasrec", DATASET, dim=8)
    args = settings("dqn", max_steps=2, eval_steps=1, updates_per_step=3)
    env, eval_env = shop_env(list_length=1), shop_env(np.arange(8), list_length=1)
    trainer = OnlineTrainer(built, env, args, eval_env=eval_env, context=QUIET)
    trainer.train()
    assert len(trainer.algorithm.replay) == trainer.interactions
    assert trainer.state.log_history[-1]["td_loss"] > 0


def test_a_target_of_dqn_has_the_next_value_unless_the_episode_is_terminated():
    algorithm = detour_trainer("dqn", gamma=0.5).algorithm
    algorithm.range.update(torch.tensor([-10.0, 10.0]))
    for parameter in algorithm.target.state[-1].parameters():
        parameter.data *= -1  # the target network has minus the model's Q
    following = States(torch.eye(2), torch.full((2,), -1), torch.zeros(2, 0, dtype=torch.bool))
    chooser, value = (algorithm._q(m, following)[1] for m in (algorithm.model, algorithm.target))
    best = int(chooser.argmax())
    assert best != int(value.argmax())  # double: the model chooses, the target network evaluates

    def target(terminated, masked):
        states = following._replace(masked=masked)
        parts = torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 2.0])
        batch = Replayed(following, *parts, states, torch.tensor(terminated))
        return algorithm._targets(batch, Statistics())[1]

    none, mask = torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    assert target([True, True], none) == 2
    assert target([True, False], none) == pytest.approx(float(2 + 0.5 * value[best]))
    mask[1, best] = True
    second = int(chooser.masked_fill(mask[1], -torch.inf).argmax())
    assert target([True, False], mask) == pytest.approx(float(2 + 0.5 * value[second]))
    mask[1] = True
    assert target([True, False], mask) == 2


def test_targets_beyond_the_possible_returns_are_clamped():
    algorithm = detour_trainer("dqn", gamma=0.5).algorithm
    algorithm.range.update(torch.tensor([0.0, 1.0]))
    states = States(torch.eye(2), torch.full((2,), -1), torch.zeros(2, 0, dtype=torch.bool))
    batch = Replayed(
        states, torch.zeros(2).long(), torch.tensor([7.0, -7.0]), states, torch.tensor([True, True])
    )
    statistics = Statistics()
    assert algorithm._targets(batch, statistics).tolist() == [2, 0]
    assert statistics.means()["target_clamped"] == 1


def test_exploration_falls_linearly():
    algorithm = detour_trainer("dqn", epsilon_steps=10, epsilon_end=0.2).algorithm
    steps = (0, 5, 10, 50)
    assert [algorithm.before_step(step) or round(algorithm.epsilon, 6) for step in steps] == [
        1.0,
        0.6,
        0.2,
        0.2,
    ]
    states = States(torch.eye(2).repeat(2000, 1), torch.zeros(4000), torch.zeros(4000, 0))
    best = greedy_lists(algorithm.model, states, 1).items
    items = algorithm.act(states, torch.Generator().manual_seed(0)).items
    assert float((items != best).float().mean()) == pytest.approx(0.2 * 2 / 3, abs=0.03)


def test_dqn_refuses_lists():
    model = build_model("sasrec", DATASET, dim=8)
    with pytest.raises(ConfigError, match="shows lists of 3"):
        OnlineTrainer(
            model, shop_env(list_length=3), settings("dqn"), eval_env=shop_env(list_length=3)
        )


@pytest.mark.parametrize(
    ("model", "env", "reason"),
    [
        (build_observation_model(2, 4), Detour(2), "scores 4 items"),
        (build_observation_model(5, 3), Detour(2), "reads vectors of 5"),
        (build_model("sasrec", DATASET, dim=8), Detour(2), "scores 60 items"),
    ],
)
def test_a_model_that_does_not_fit_the_environment_is_refused(model, env, reason):
    with pytest.raises(ConfigError, match=reason):
        OnlineTrainer(model, env, settings("ppo"), eval_env=env)


def test_a_return_from_the_same_items_for_everybody_is_reported():
    first = {"valid/return": 1.0, "valid/coverage": 0.5, "step": 0}
    fine = {"valid/return": 2.0, "valid/coverage": 0.2, "step": 5}
    bad = fine | {"valid/coverage": 0.02}
    assert coverage_alarm(fine, first) == ""
    assert "return rose (1 to 2)" in coverage_alarm(bad, first)
    assert "did not rise" in coverage_alarm(bad | {"valid/return": 0.5}, first)


def test_a_collapsed_coverage_is_warned_of_once():
    trainer = detour_trainer("ppo", max_steps=1, eval_steps=1)
    rows = iter([(1.0, 1.0), (2.0, 0.1), (2.0, 0.1)])

    def evaluate(model):
        value, coverage = next(rows)
        return {"return": value, "coverage": coverage}

    trainer._evaluate = evaluate
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    assert [str(w.message)[:8] for w in caught] == ["Step 1: "]


def test_the_page_names_every_algorithm_setting_and_logged_value():
    text = (ROOT / "docs" / "how-to" / "learn-in-an-environment.md").read_text()
    algorithms, _, settings_and_logs = text.partition("## Algorithms and settings")[2].partition(
        "All take"
    )
    assert [codes(row[0])[0] for row in tables(algorithms)] == list(ONLINE_ALGORITHMS)
    names, _, logs = settings_and_logs.partition("## Read what is logged")
    fields = {name for entry in ONLINE_ALGORITHMS.values() for name in entry.config.model_fields}
    assert set(codes(names)) == fields - {"algorithm"}
    logged = set()
    for name in ONLINE_ALGORITHMS:
        trainer = detour_trainer(
            name, max_steps=1, eval_steps=1, **{"baseline": "value"} if name == "reinforce" else {}
        )
        trainer.train()
        logged |= set(trainer.state.log_history[-1])
    assert {name for row in tables(logs) for name in codes(row[0])} == logged
