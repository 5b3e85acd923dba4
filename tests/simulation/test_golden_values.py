"""Logs, clicks and episodes are the same numbers as in earlier versions, for the same seed."""

import hashlib

import numpy as np
import pytest

from recoach.data.split import leave_last_out
from recoach.experiments.data import embedded_shop
from recoach.models.registry import build_model
from recoach.simulation.bandits import SlateBandit, oracle, random_policy
from recoach.simulation.environment import EnvironmentConfig, ShopEnv, ShopVectorEnv
from recoach.simulation.episodes import model_policy, run_episodes
from recoach.simulation.shop import Habits, shop
from toy_logs import block_graph, checkerboard, cycle, popularity_world

SHOP = shop(60, 80, seed=0, n_categories=4)
DATASET = leave_last_out(SHOP.interactions)


def digest(*arrays):
    content = b"".join(np.ascontiguousarray(array).astype("<i8").tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def log_digest(log):
    return digest(log.users, log.items, log.times)


def text_digest(names):
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def test_the_embedded_shop():
    embedded = embedded_shop()
    assert log_digest(embedded.interactions) == "0a93b955effc6694"
    assert text_digest(embedded.item_titles) == "ce6aca2b6470af61"
    assert text_digest(embedded.item_categories) == "a59c5178c3e3d719"
    assert digest(embedded.catalogue_index) == "9d72c1a175833854"
    assert leave_last_out(embedded.interactions, name="shop").fingerprint == "431e00078a28aa23"


def test_a_shop_with_other_habits():
    habits = Habits(stay=0.6, drift=0.5, noise=0.2, skew=1.1)
    other = shop(60, 80, seed=0, n_categories=4, habits=habits)
    assert log_digest(other.interactions) == "86ba6d045d860ae9"
    likely = other.click_probabilities(other.user_states())[3].argsort()[-5:]
    assert likely.tolist() == [15, 16, 3, 37, 40]
    assert other.preference(3).max() == pytest.approx(0.274660950987, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (checkerboard, "2ecbab1098000fdd"),
        (popularity_world, "9556d13e2fd9655c"),
        (cycle, "655aba62e27354b5"),
        (block_graph, "8d97a7a61010fb13"),
    ],
)
def test_toy_logs(make, expected):
    assert log_digest(make()) == expected


EPISODES = {
    "random": (29, 443, 102, 1.0, "fc80606964f1099f"),
    "oracle": (219, 680, 136, 0.9875, "8371d64cac9b5a77"),
    "Thompson sampling": (38, 456, 108, 1.0, "d57f53c3292b370d"),
    "epsilon-greedy": (77, 520, 121, 1.0, "2c2839e79fa7e378"),
    "popularity": (59, 481, 117, 0.2625, "999b26d2230bf968"),
}
"""Clicks, turns and sessions of all users, coverage, and the digest of the values of each user."""


@pytest.mark.parametrize("name", EPISODES)
def test_episodes(name):
    env = ShopVectorEnv(SHOP, DATASET, EnvironmentConfig(list_length=4, max_turns=25))
    policy = {
        "random": random_policy(0),
        "oracle": oracle,
        "Thompson sampling": SlateBandit(env, DATASET, 0),
        "epsilon-greedy": SlateBandit(env, DATASET, 0, epsilon=0.1),
        "popularity": model_policy(build_model("popularity", DATASET)),
    }[name]
    result = run_episodes(env, policy, 3)
    totals = result.reward.sum(), result.turns.sum(), result.sessions.sum(), result.coverage
    assert (*totals, digest(*result[:3])) == EPISODES[name]


def test_one_user():
    env = ShopEnv(SHOP, DATASET, EnvironmentConfig(list_length=4))
    env.reset(seed=5)
    rows = []
    for turn in range(20):
        observation, _, terminated, _, info = env.step(np.arange(4) + 4 * turn % 76)
        rows.append([info["user"], info["clicked"], terminated, info["left"], info["returned"]])
    assert digest(np.array(rows, dtype=int)) == "d88cdb4e6de0db5a"
    assert digest(observation) == "da8d4126f3ac7fa1"
