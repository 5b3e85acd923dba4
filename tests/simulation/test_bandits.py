"""Bandits, random lists and the oracle in the simulated shop."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from recoach.data.split import leave_last_out
from recoach.simulation.bandits import SlateBandit, oracle, random_policy, top_unseen
from recoach.simulation.environment import EnvironmentConfig, ShopVectorEnv
from recoach.simulation.episodes import run_episodes
from recoach.simulation.shop import shop

SHOP = shop(60, 80, seed=0, n_categories=4)
DATASET = leave_last_out(SHOP.interactions)


CONFIG = EnvironmentConfig(list_length=4, max_turns=25)


def make_env(**config):
    return ShopVectorEnv(SHOP, DATASET, replace(CONFIG, **config))


def make_bandit(env, **settings):
    return SlateBandit(env, DATASET, 0, **settings)


def test_the_prior_counts_the_logs_transitions_from_each_category():
    env = make_env()
    bandit = make_bandit(env)
    moves = np.zeros((4, DATASET.n_items))
    for user in range(DATASET.n_users):
        row = DATASET.train.row(user)
        for before, after in itertools.pairwise(row):
            moves[env.item_category[before], after] += 1
    share = moves / moves.sum(axis=1, keepdims=True)
    assert np.allclose(bandit.clicks, 1 + 10 * share)
    assert np.allclose(bandit.clicks + bandit.misses, 12)


def test_clicks_and_misses_are_counted_for_the_last_items_category():
    env = make_env()
    bandit = make_bandit(env)
    clicks, misses = bandit.clicks.copy(), bandit.misses.copy()
    last = np.array([5, 9])
    observations = np.full((2, 6), DATASET.n_items)
    observations[:, :2] = [[1, 5], [2, 9]]
    bandit.learn(observations, np.array([[3, 4, -1], [7, 8, -1]]), np.array([4, -1]))
    categories = env.item_category[last]
    clicks[categories[0], 4] += 1
    misses[categories[0], 3] += 1
    misses[categories[1], [7, 8]] += 1  # an empty position is neither
    assert np.array_equal(bandit.clicks, clicks)
    assert np.array_equal(bandit.misses, misses)


def test_lists_hold_the_best_unseen_items_in_order():
    env = make_env()
    env.reset(seed=0)
    scores = np.tile(np.arange(DATASET.n_items, dtype=float), (60, 1))
    lists = top_unseen(scores, env)
    assert not np.take_along_axis(env.seen, lists, axis=1).any()
    assert (np.diff(lists, axis=1) < 0).all()
    for user in (0, 31):
        unseen = np.flatnonzero(~env.seen[user])
        assert lists[user].tolist() == unseen[::-1][:4].tolist()


def test_without_exploration_lists_follow_the_mean_rates():
    env = make_env()
    observations, _ = env.reset(seed=0)
    bandit = make_bandit(env, epsilon=0.0)
    rates = (bandit.clicks / (bandit.clicks + bandit.misses))[bandit._context(observations)]
    assert np.array_equal(bandit(observations, env), top_unseen(rates, env))
    explored = make_bandit(env, epsilon=1.0)(observations, env)
    assert not np.array_equal(explored, bandit(observations, env))
    thompson = make_bandit(env)
    assert not np.array_equal(thompson(observations, env), thompson(observations, env))


def test_epsilon_is_the_share_of_random_lists():
    count = 4000
    env = ShopVectorEnv(
        SHOP, DATASET, EnvironmentConfig(list_length=4), users=np.zeros(count, dtype=int)
    )
    observations, _ = env.reset(seed=0)
    lists = make_bandit(env, epsilon=0.3)(observations, env)
    best = make_bandit(env, epsilon=0.0)(observations, env)
    random = lists[(lists != best).any(axis=1)]
    assert len(random) / count == pytest.approx(0.3, abs=0.03)
    frequency = np.bincount(random.ravel(), minlength=DATASET.n_items) / len(random)
    unseen = ~env.seen[0]
    assert not frequency[~unseen].any()
    assert frequency[unseen] == pytest.approx(4 / unseen.sum(), abs=0.04)


@pytest.mark.parametrize("settings", [{"epsilon": 0.1}, {}])
def test_a_bandit_improves_over_episodes(settings):
    """With the same random numbers users click more than before, and more than on random lists."""
    env = make_env(no_click_logit=3.0, leave_after_no_click=0.02, min_return_probability=0.95)
    bandit = make_bandit(env, **settings)
    first = run_episodes(env, bandit, 1)
    for seed in range(2, 6):
        run_episodes(env, bandit, seed)
    last = run_episodes(env, bandit, 1)
    random = run_episodes(env, random_policy(0), 1)
    assert last.reward.sum() / last.turns.sum() > 1.1 * first.reward.sum() / first.turns.sum()
    assert last.reward.mean() > 1.5 * random.reward.mean()


def test_the_oracle_gets_the_most_clicks():
    env = make_env()
    best = run_episodes(env, oracle, 3).reward.mean()
    assert best > 1.3 * run_episodes(env, random_policy(0), 3).reward.mean()
    assert best > 1.1 * run_episodes(env, make_bandit(env), 3).reward.mean()


def test_learn_is_called_with_the_active_users_only():
    calls = []

    class RecordingPolicy:
        def __call__(self, observations, env):
            self.called_with = observations.copy(), ~env.terminated
            return top_unseen(np.zeros((len(observations), env.n_items)), env)

        def learn(self, observations, lists, clicked):
            before, active = self.called_with
            assert np.array_equal(observations, before[active])
            assert len(lists) == len(clicked) == active.sum()
            calls.append((int(active.sum()), int((clicked >= 0).sum())))

    result = run_episodes(make_env(no_click_logit=2.0), RecordingPolicy(), 0)
    assert sum(n_active for n_active, _ in calls) == result.turns.sum()
    assert sum(n_clicks for _, n_clicks in calls) == result.reward.sum() > 0
    assert calls[-1][0] < calls[0][0]
