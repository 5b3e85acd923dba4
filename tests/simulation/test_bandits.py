"""Policies that learn while they serve."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from recoach.data.split import leave_last_out
from recoach.simulation.bandits import SlateBandit, best_unseen, oracle, random_policy
from recoach.simulation.environment import Customers, Moods, play
from recoach.simulation.shop import shop

SHOP = shop(60, 80, seed=0, n_categories=4)
DATASET = leave_last_out(SHOP.interactions)


def customers(**moods):
    return Customers(SHOP, DATASET, replace(Moods(list_length=4, turns=25), **moods))


def bandit(floor, **settings):
    return SlateBandit(floor, DATASET, 0, **settings)


def test_the_prior_is_where_the_log_went_from_each_shelf():
    floor = customers()
    made = bandit(floor)
    moves = np.zeros((4, DATASET.n_items))
    for user in range(DATASET.n_users):
        row = DATASET.train.row(user)
        for before, after in itertools.pairwise(row):
            moves[floor.shelf[before], after] += 1
    share = moves / moves.sum(axis=1, keepdims=True)
    assert np.allclose(made.clicks, 1 + 10 * share)
    assert np.allclose(made.clicks + made.misses, 12)


def test_what_was_shown_is_counted_where_people_came_from():
    floor = customers()
    made = bandit(floor)
    clicks, misses = made.clicks.copy(), made.misses.copy()
    last = np.array([5, 9])
    observed = np.full((2, 6), DATASET.n_items)
    observed[:, :2] = [[1, 5], [2, 9]]
    made.learn(observed, np.array([[3, 4, -1], [7, 8, -1]]), np.array([4, -1]))
    shelves = floor.shelf[last]
    clicks[shelves[0], 4] += 1
    misses[shelves[0], 3] += 1
    misses[shelves[1], [7, 8]] += 1  # an empty place is neither
    assert np.array_equal(made.clicks, clicks)
    assert np.array_equal(made.misses, misses)


def test_only_unseen_items_are_shown_the_best_first():
    floor = customers()
    floor.reset(seed=0)
    worth = np.tile(np.arange(DATASET.n_items, dtype=float), (60, 1))
    lists = best_unseen(worth, floor)
    assert not np.take_along_axis(floor.seen, lists, axis=1).any()
    assert (np.diff(lists, axis=1) < 0).all()
    for user in (0, 31):
        unseen = np.flatnonzero(~floor.seen[user])
        assert lists[user].tolist() == unseen[::-1][:4].tolist()


def test_without_exploring_the_mean_rates_decide():
    floor = customers()
    observed, _ = floor.reset(seed=0)
    made = bandit(floor, epsilon=0.0)
    rates = (made.clicks / (made.clicks + made.misses))[made._context(observed)]
    assert np.array_equal(made(observed, floor), best_unseen(rates, floor))
    explored = bandit(floor, epsilon=1.0)(observed, floor)
    assert not np.array_equal(explored, made(observed, floor))
    drawn = bandit(floor)
    assert not np.array_equal(drawn(observed, floor), drawn(observed, floor))


def test_exploring_shows_a_share_of_the_customers_any_unseen_item():
    count = 4000
    floor = Customers(SHOP, DATASET, Moods(list_length=4), users=np.zeros(count, dtype=int))
    observed, _ = floor.reset(seed=0)
    lists = bandit(floor, epsilon=0.3)(observed, floor)
    best = bandit(floor, epsilon=0.0)(observed, floor)
    random = lists[(lists != best).any(axis=1)]
    assert len(random) / count == pytest.approx(0.3, abs=0.03)
    shown = np.bincount(random.ravel(), minlength=DATASET.n_items) / len(random)
    unseen = ~floor.seen[0]
    assert not shown[~unseen].any()
    assert shown[unseen] == pytest.approx(4 / unseen.sum(), abs=0.04)


@pytest.mark.parametrize("settings", [{"epsilon": 0.1}, {}])
def test_a_bandit_learns_from_those_it_serves(settings):
    """The same customers click more the second time, and more than on lists drawn at random."""
    floor = customers(outside=3.0, leave_after_none=0.02, return_at_worst=0.95)
    made = bandit(floor, **settings)
    first = play(floor, made, 1)
    for seed in range(2, 6):
        play(floor, made, seed)
    again = play(floor, made, 1)
    random = play(floor, random_policy(0), 1)
    assert again.reward.sum() / again.turns.sum() > 1.1 * first.reward.sum() / first.turns.sum()
    assert again.reward.mean() > 1.5 * random.reward.mean()


def test_nobody_beats_who_knows_the_truth():
    floor = customers()
    known = play(floor, oracle, 3).reward.mean()
    assert known > 1.3 * play(floor, random_policy(0), 3).reward.mean()
    assert known > 1.1 * play(floor, bandit(floor), 3).reward.mean()


def test_a_policy_that_learns_is_told_of_those_who_were_there():
    told = []

    class Listener:
        def __call__(self, observed, floor):
            self.asked = observed.copy(), ~floor.gone
            return best_unseen(np.zeros((len(observed), floor.n_items)), floor)

        def learn(self, observed, lists, clicked):
            before, here = self.asked
            assert np.array_equal(observed, before[here])
            assert len(lists) == len(clicked) == here.sum()
            told.append((int(here.sum()), int((clicked >= 0).sum())))

    stay = play(customers(outside=2.0), Listener(), 0)
    assert sum(there for there, _ in told) == stay.turns.sum()
    assert sum(clicks for _, clicks in told) == stay.reward.sum() > 0
    assert told[-1][0] < told[0][0]
