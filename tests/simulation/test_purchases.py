"""Purchases of the simulated shop: the expected outcome of lists is that of many samples."""

import numpy as np
import pytest

from recoach.simulation.purchases import (
    EVENT_TYPES,
    PurchaseHabits,
    UserResponse,
    add_purchases,
)
from recoach.simulation.shop import shop

SHOP = shop(40, 80, seed=1, n_categories=4)
PURCHASES = add_purchases(SHOP, seed=2)
RESPONSE = PURCHASES.response()


def random_lists(n_lists, k=5, seed=0):
    generator = np.random.default_rng(seed)
    users = generator.integers(len(RESPONSE.clicks), size=n_lists)
    keys = generator.random((n_lists, RESPONSE.clicks.shape[1]))
    return users, keys.argsort(axis=1)[:, :k]


def test_expected_outcomes_are_those_of_many_samples():
    best = (-RESPONSE.clicks).argsort(axis=1)[:, :5]
    users = np.tile(np.arange(len(best)), 500)
    lists, rng = best[users], np.random.default_rng(3)
    items, outcome = RESPONSE.sample(users, lists, rng)
    expected = RESPONSE.expected(users, lists)
    for sampled, exact in zip(outcome, expected, strict=True):
        error = sampled.std() / np.sqrt(len(sampled))
        assert abs(sampled.mean() - exact.mean()) < 4 * error
        assert error < 0.05 * exact.mean()
    is_click = items >= 0
    assert (is_click == (outcome.clicks == 1)).all()
    assert (lists[is_click] == items[is_click, None]).any(axis=1).all()
    bought = outcome.purchases == 1
    assert (outcome.revenue[bought] == PURCHASES.prices[items[bought]]).all()
    assert not outcome.revenue[~bought].any()


def test_a_list_by_hand():
    response = UserResponse(
        clicks=np.array([[0.5, 0.3, 0.2]]),
        purchases=np.array([[0.1, 0.5, 0.2]]),
        prices=np.array([10.0, 20.0, 50.0]),
    )
    user, lists = np.array([0]), np.array([[1, 2, -1]])
    outcome = response.expected(user, lists)
    assert outcome.clicks == pytest.approx([0.5])
    assert outcome.purchases == pytest.approx([0.3 * 0.5 + 0.2 * 0.2])
    assert outcome.revenue == pytest.approx([0.3 * 0.5 * 20 + 0.2 * 0.2 * 50])
    assert response.expected_ndcg(user, lists) == pytest.approx([0.3 + 0.2 / np.log2(3)])


def test_the_log_has_the_clicks_of_the_shop_and_their_purchases():
    log = PURCHASES.interactions
    assert (log.users == SHOP.interactions.users).all()
    assert (log.items == SHOP.interactions.items).all()
    kinds = log.columns["event_type"].cast(str).to_numpy()
    assert set(kinds) == set(EVENT_TYPES)
    values = log.columns["value"].to_numpy()
    is_purchase = kinds == "purchase"
    assert values[is_purchase] == pytest.approx(PURCHASES.prices[log.items][is_purchase], rel=1e-6)
    assert not values[~is_purchase].any()
    expected = RESPONSE.purchases[log.users, log.items]
    error = np.sqrt((expected * (1 - expected)).sum())
    assert abs(is_purchase.sum() - expected.sum()) < 4 * error


def test_purchases_depend_on_the_item_its_price_and_the_user():
    off = {"appeal": 0.0, "sensitivity": 0.0, "category_intention": 0.0}
    constant = add_purchases(SHOP, 2, PurchaseHabits(**off)).response().purchases
    assert np.ptp(constant) < 1e-12
    by_item = add_purchases(SHOP, 2, PurchaseHabits(**off | {"appeal": 1.0})).response().purchases
    assert np.ptp(by_item, axis=0).max() < 1e-12 < np.ptp(by_item, axis=1).min()
    by_price = add_purchases(SHOP, 2, PurchaseHabits(**off | {"sensitivity": 0.7})).response()
    category = np.array(SHOP.item_categories) == SHOP.item_categories[0]
    order = np.argsort(by_price.prices[category])
    assert (np.diff(by_price.purchases[:, category][:, order], axis=1) <= 0).all()
    assert np.ptp(by_price.purchases, axis=0).min() > 0


def test_the_same_seed_gives_the_same_log():
    again = add_purchases(SHOP, seed=2)
    assert again.interactions.columns["value"].equals(PURCHASES.interactions.columns["value"])
    assert list(again.item_table.columns) == ["item_id", "title", "category", "price"]
    other = add_purchases(SHOP, seed=3)
    assert not other.interactions.columns["value"].equals(PURCHASES.interactions.columns["value"])
