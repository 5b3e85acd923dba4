"""Carts, purchases and prices on top of the clicks of `recoach.simulation.shop`.

Every click of the shop is a view. Whether it becomes a cart or a purchase depends on the item, on
its price and on the user. What lists bring in is known exactly, without a simulation of clicks.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recoach.data.interactions import Interactions
from recoach.simulation.shop import Floats, Shop

Longs = NDArray[np.int64]

EVENT_TYPES: Final = ("view", "cart", "purchase")
_MEAN_PRICE: Final = 30.0
_BLOCK_SIZE: Final = 512
"""Users whose click probabilities are computed at once."""


@dataclass(frozen=True, slots=True)
class PurchaseHabits:
    """How clicks become carts and purchases.

    A click becomes a cart, and a cart a purchase, with the probabilities sigmoid(`cart_logit` + x)
    and sigmoid(`purchase_logit` + x). The intention x of a user for an item is the item's appeal
    plus the user's intention in the category minus price sensitivity times relative price. The
    relative price is the log price less the mean of the category, in standard deviations.
    """

    cart_logit: float = -1.5
    """Logit of a cart after a click, for an intention of 0."""
    purchase_logit: float = -0.5
    """Logit of a purchase after a cart, for an intention of 0."""
    appeal: float = 1.0
    """Standard deviation of the appeal of items."""
    quality: float = 0.5
    """Correlation of appeal and price within a category: dearer items are better on average."""
    sensitivity: float = 0.7
    """Median price sensitivity of users."""
    sensitivity_spread: float = 0.6
    """Standard deviation of the logarithm of the price sensitivity, which depends on what the user
    likes to look at."""
    category_intention: float = 1.0
    """Standard deviation of the intention of a user in a category: users buy in some categories and
    only look in others."""
    category_price: float = 0.4
    """Standard deviation of the mean log price of categories."""
    item_price: float = 0.5
    """Standard deviation of the log price within a category."""


DEFAULT_PURCHASE_HABITS: Final = PurchaseHabits()


class Outcome(NamedTuple):
    """What n lists bring in: expectations, or one draw."""

    clicks: Floats
    """float64[n]."""
    purchases: Floats
    """float64[n]."""
    revenue: Floats
    """float64[n], the sum of the prices of the purchases."""


@dataclass(frozen=True, slots=True, eq=False)
class UserResponse:
    """How users respond to one list after the log.

    A user who is shown a list clicks the item that would have been the next click of the log, if
    the list has it, and buys it with the probability of a purchase after a click.
    """

    clicks: Floats
    """float64[n_users, n_items], the probability of each item to be the next click."""
    purchases: Floats
    """float64[n_users, n_items], the probability that a click becomes a purchase."""
    prices: Floats
    """float64[n_items]."""

    def expected(self, users: Longs, lists: Longs) -> Outcome:
        """Return the expected clicks, purchases and revenue of lists, exactly.

        Args:
            users: int64[n], to whom the lists are shown.
            lists: int64[n, k], distinct items; -1 for an empty position.
        """
        clicks, purchases = self._probabilities(users, lists)
        bought = clicks * purchases
        return Outcome(
            clicks.sum(axis=1), bought.sum(axis=1), (bought * self.prices[lists]).sum(axis=1)
        )

    def expected_ndcg(self, users: Longs, lists: Longs) -> Floats:
        """Return float64[n], the expected NDCG of lists with the next click as the only target.

        See `expected` for the arguments.
        """
        discounts = 1 / np.log2(np.arange(lists.shape[1]) + 2)
        expected: Floats = (self._probabilities(users, lists)[0] * discounts).sum(axis=1)
        return expected

    def sample(self, users: Longs, lists: Longs, rng: np.random.Generator) -> tuple[Longs, Outcome]:
        """Sample one response to each list.

        Args:
            users: int64[n], to whom the lists are shown.
            lists: see `expected`.
            rng: to sample from.

        Returns:
            int64[n], the clicked item or -1, and the outcome.
        """
        clicks, purchases = self._probabilities(users, lists)
        cumulative = clicks.cumsum(axis=1)
        position = (cumulative <= rng.random((len(lists), 1))).sum(axis=1)
        is_click = position < lists.shape[1]
        rows, position = np.arange(len(lists)), np.minimum(position, lists.shape[1] - 1)
        items = np.where(is_click, lists[rows, position], -1)
        is_bought = is_click & (rng.random(len(lists)) < purchases[rows, position])
        revenue = np.where(is_bought, self.prices[items], 0.0)
        return items, Outcome(is_click.astype(float), is_bought.astype(float), revenue)

    def _probabilities(self, users: Longs, lists: Longs) -> tuple[Floats, Floats]:
        rows, is_item = users[:, None], lists >= 0
        return np.where(is_item, self.clicks[rows, lists], 0.0), self.purchases[rows, lists]


@dataclass(frozen=True, slots=True, eq=False)
class PurchaseShop:
    """A simulated log of views, carts and purchases, and how it was sampled."""

    shop: Shop
    """The users, the items and the clicks."""
    interactions: Interactions
    """The clicks with the columns `event_type`, the last step that a click reached, and `value`,
    the price of a purchase and 0 of other events."""
    prices: Floats
    """float64[n_items]."""
    habits: PurchaseHabits
    _intentions: Floats
    """float64[n_users, n_items]."""

    def __repr__(self) -> str:
        n_purchases = int((self.interactions.columns["value"] > 0).sum())
        return f"PurchaseShop({self.shop!r}, {n_purchases:,} purchases)"

    @property
    def item_table(self) -> pl.DataFrame:
        """A row for each item: item_id, title, category and price."""
        return pl.DataFrame(
            {
                "item_id": self.interactions.item_ids,
                "title": pl.Series(self.shop.item_titles, dtype=pl.String),
                "category": pl.Series(self.shop.item_categories, dtype=pl.String),
                "price": self.prices,
            }
        )

    def response(self) -> UserResponse:
        """Return how users respond to lists after the log."""
        states = self.shop.user_states()
        starts = range(0, len(states.last_item), _BLOCK_SIZE)
        blocks = [np.arange(len(states.last_item))[start : start + _BLOCK_SIZE] for start in starts]
        clicks = [self.shop.click_probabilities(states.select(block)) for block in blocks]
        cart, purchase = _step_probabilities(self.habits, self._intentions)
        return UserResponse(np.concatenate(clicks), cart * purchase, self.prices)


def add_purchases(
    shop: Shop, seed: int = 0, habits: PurchaseHabits = DEFAULT_PURCHASE_HABITS
) -> PurchaseShop:
    """Sample prices, and which clicks of a shop's log become carts and purchases.

    The clicks themselves do not change; price sensitivity and intentions of a user are constant
    over the log.

    Args:
        shop: the shop.
        seed: of everything that is sampled here.
        habits: parameters of prices and users.
    """
    rng = np.random.default_rng(seed)
    log, names = shop.interactions, sorted(set(shop.item_categories))
    category = np.array([names.index(name) for name in shop.item_categories])
    relative_price, noise = rng.normal(size=(2, len(category)))
    category_price = habits.category_price * rng.normal(size=len(names))
    log_price = category_price[category] + habits.item_price * relative_price
    prices = np.round(_MEAN_PRICE * np.exp(log_price), 2)
    appeal = habits.quality * relative_price + np.sqrt(1 - habits.quality**2) * noise
    intention = rng.normal(size=(log.n_users, len(names)))[:, category]
    intentions = (
        habits.appeal * appeal
        + habits.category_intention * intention
        - _sensitivities(shop, habits, rng)[:, None] * relative_price
    )
    cart, purchase = _step_probabilities(habits, intentions[log.users, log.items])
    is_cart, is_purchase = rng.random((2, len(log))) < (cart, purchase)
    steps = np.where(is_cart, 1 + is_purchase, 0)
    columns = {
        "timestamp": log.columns["timestamp"],
        "event_type": pl.Series(np.array(EVENT_TYPES)[steps], dtype=pl.Enum(EVENT_TYPES)),
        "value": pl.Series(np.where(steps == 2, prices[log.items], 0.0), dtype=pl.Float32),
    }
    return PurchaseShop(shop, replace(log, columns=columns), prices, habits, intentions)


def _sensitivities(shop: Shop, habits: PurchaseHabits, rng: np.random.Generator) -> Floats:
    """Return float64[n_users], log-normal and a function of the vectors of what users like."""
    vectors = shop.user_states().vectors
    direction = rng.normal(size=vectors.shape[1])
    deviation = vectors @ (direction / np.linalg.norm(direction))
    sensitivities: Floats = habits.sensitivity * np.exp(habits.sensitivity_spread * deviation)
    return sensitivities


def _step_probabilities(habits: PurchaseHabits, intentions: Floats) -> tuple[Floats, Floats]:
    """Return the probabilities of a cart after a click and of a purchase after a cart."""
    cart, purchase = (
        1 / (1 + np.exp(-logit - intentions))
        for logit in (habits.cart_logit, habits.purchase_logit)
    )
    return cart, purchase
