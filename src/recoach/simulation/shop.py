"""Worlds with known answers: a simulated shop, and tiny logs in which the best model is known.

Every world is drawn from one `numpy.random.Generator` (or a seed for it), so the same seed gives
the same log. Rows are grouped by user and in time order; nobody sees an item twice.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recoach.data.interactions import Interactions
from recoach.errors import DataError

Floats = NDArray[np.float64]
Seed = int | np.random.Generator

SHELVES: Final = (
    *("Camping", "Kitchen", "Garden", "Music", "Cycling", "Lighting", "Stationery", "Toys"),
    *("Coffee", "Tea", "Travel", "Photography", "Climbing", "Sewing", "Baking", "Pets"),
    *("Running", "Painting", "Board games", "Woodwork"),
)
EPOCH: Final = 1_700_000_000_000  # the shop opens: milliseconds since 1970
MINUTE: Final = 60_000
DAY: Final = 24 * 60 * MINUTE
SHORTEST: Final = 8
TASTE_DIM: Final = 8


@dataclass(frozen=True, slots=True)
class Habits:
    """How the people of a shop behave; the defaults reward a sequential model."""

    stay: float = 0.75
    """Probability that the next click stays on the shelf of the session."""
    chain: float = 4.0
    """Log-odds bonus of the item that follows the last one on its shelf; it halves per place."""
    affinity: float = 1.0
    """Weight of the personal taste for an item beside its popularity."""
    focus: float = 3.0
    """Weight of the personal taste in the choice of a shelf."""
    drift: float = 0.2
    """Share of a taste that is new after each session, 0 (fixed) to 1 (forgotten)."""
    skew: float = 0.8
    """Exponent of the Zipf law of item popularity."""
    noise: float = 0.05
    """Probability of a click on anything, by popularity alone."""
    length: float = 20.0
    """Mean number of interactions of a user, before the cut at 60."""


USUAL: Final = Habits()
BROWSING: Final = Habits(chain=1.0)
"""As in most real logs, the last click tells more of the next one's shelf than of the item."""


@dataclass(frozen=True, slots=True, eq=False)
class _Catalogue:
    """What is on sale: float64 vectors and weights, one shelf after the other."""

    starts: NDArray[np.int64]  # [n_shelves] first item of each shelf
    shelf: NDArray[np.int64]  # [n_items]
    shelf_vectors: Floats  # [n_shelves, TASTE_DIM]
    item_vectors: Floats  # [n_items, TASTE_DIM]
    popularity: Floats  # [n_items], sums to 1
    follows: Floats  # [n_items, n_items] log-odds bonus of the column after the row


@dataclass(frozen=True, slots=True, eq=False)
class Visitors:
    """Where a set of users stands: the whole state from which the next click is drawn.

    Items are places in the catalogue here, see `Shop.sold`.
    """

    taste: Floats
    """[n, TASTE_DIM]."""
    last: NDArray[np.int64]
    """[n] last item of the session, -1 before the first click."""
    seen: NDArray[np.bool_]
    """[n, n_items]."""

    def rows(self, index: NDArray[np.int64]) -> "Visitors":
        """Return copies of some of them."""
        return Visitors(self.taste[index], self.last[index], self.seen[index])

    def change_taste(self, rows: NDArray[np.int64], drift: float, fresh: Floats) -> None:
        """Renew a share `drift` of some users' taste, in place, by `fresh`[rows, TASTE_DIM]."""
        self.taste[rows] = np.sqrt(1 - drift**2) * self.taste[rows] + drift * fresh


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """A simulated log together with the truth it was drawn from."""

    interactions: Interactions
    item_titles: tuple[str, ...]
    item_categories: tuple[str, ...]
    habits: Habits
    sold: NDArray[np.int64]
    """[n_items of the log] the place of each item in the catalogue."""
    _catalogue: _Catalogue
    _visitors: Visitors

    def __repr__(self) -> str:
        log = self.interactions
        return (
            f"Shop({log.n_users:,} customers, {len(self.item_titles):,} items, {len(log):,} clicks)"
        )

    def visitors(self) -> Visitors:
        """Return copies of the customers as the log leaves them."""
        return self._visitors.rows(np.arange(len(self._visitors.last)))

    def law(self, visitors: Visitors) -> Floats:
        """Return the true probability of each item to be the next click.

        Args:
            visitors: n users, wherever they stand.

        Returns:
            float64[n, n_items of the log]; items already seen have probability 0, and what is
            missing from a sum of 1 lies on items that nobody has clicked yet.
        """
        same, new, stray = (
            _click(self._catalogue, visitors, self.habits, kind)
            for kind in ("stay", "new", "stray")
        )
        stay, noise = self.habits.stay, self.habits.noise
        truth: Floats = noise * stray + (1 - noise) * (stay * same + (1 - stay) * new)
        return truth[:, self.sold]

    def preference(self, user_index: int) -> Floats:
        """Return the true probability of each item to be the user's next click after the log.

        Args:
            user_index: dense user id, 0..n_users-1.

        Returns:
            float64[n_items of the log], see `law`.
        """
        truth: Floats = self.law(self._visitors.rows(np.array([user_index])))[0]
        return truth


def shop(
    n_users: int = 2000,
    n_items: int = 1000,
    seed: Seed = 0,
    *,
    n_categories: int = 20,
    habits: Habits = USUAL,
) -> Shop:
    """Simulate a shop whose customers browse in sessions and change their taste slowly.

    A session stays on one shelf (category), where each item makes the ones that follow it likely;
    a new session picks a shelf by taste. Users have 8 to 60 interactions (at most half the items).

    Args:
        n_users: number of customers, ids "u0000" and on.
        n_items: number of items on sale, ids "item-0000" and on in the order of the shelves; an
            item that nobody clicks is not part of the log.
        seed: an integer or the generator to draw from.
        n_categories: number of shelves, of equal size up to one item.
        habits: how the customers behave.

    Raises:
        DataError: there is no user, or there are too few items for the shelves.
    """
    if n_users < 1 or n_items < 2 * max(SHORTEST, n_categories) or n_categories < 1:
        raise DataError(
            f"A shop needs a user, a category and at least {2 * max(SHORTEST, n_categories)} items "
            f"for {n_categories} categories; got {n_users} users and {n_items} items."
        )
    rng = np.random.default_rng(seed)
    catalogue = _stock(n_items, n_categories, habits, rng)
    longest = min(60, n_items // 2)
    extra = rng.exponential(max(habits.length - SHORTEST, 0.0), n_users).astype(np.int64)
    lengths = np.minimum(SHORTEST + extra, longest)
    visitors, items, opens = _browse(catalogue, lengths, habits, rng)
    taken = np.arange(items.shape[1]) < lengths[:, None]
    users = np.repeat(np.arange(n_users), lengths)
    log = _log(users, items[taken], (n_users, n_items), _clock(opens, rng)[taken])
    log = log.keep(np.ones(len(log), dtype=np.bool_))  # items nobody clicked leave the log
    sold = log.item_ids.str.slice(len("item-")).cast(pl.Int64).to_numpy()
    titles, shelves = (tuple(np.array(names)[sold].tolist()) for names in _titles(catalogue))
    return Shop(log, titles, shelves, habits, sold, catalogue, visitors)


def checkerboard(n_users: int = 20, n_items: int = 16) -> Interactions:
    """Return a log in which even users take every even item, odd users every odd one.

    The last item of a user is the only one of his parity that he has not had before, so the first
    place of a list that leaves out what was seen is known. The order turns from user to user.
    """
    per_user = n_items // 2
    step = np.arange(per_user)
    user = np.arange(n_users)[:, None]
    items = 2 * ((step + user // 2) % per_user) + user % 2
    return _log(*_rows(items), (n_users, 2 * per_user))


def popularity_world(
    n_users: int = 400, n_items: int = 50, seed: Seed = 0, *, length: int = 8
) -> Interactions:
    """Return a log in which all users draw from one Zipf law, so that popularity is optimal.

    Item 0 is the most popular; a user's next item is drawn among the unseen ones by weight.
    """
    rng = np.random.default_rng(seed)
    weight = -np.log1p(np.arange(n_items))
    keys = weight + rng.gumbel(size=(n_users, n_items))  # sorted Gumbel keys draw without repeats
    return _log(*_rows(np.argsort(-keys, axis=1)[:, :length]), (n_users, n_items))


def cycle(n_users: int = 60, n_items: int = 30, *, length: int = 10) -> Interactions:
    """Return a log in which item i is always followed by i + 1 (the last one by item 0).

    Only the direction of time tells the next item from the one before the first, so that a
    sequential model must beat a graph model. `length` is at most n_items - 1.
    """
    start = np.arange(n_users)[:, None]
    items = (start + np.arange(min(length, n_items - 1))) % n_items
    return _log(*_rows(items), (n_users, n_items))


def block_graph(
    n_users: int = 120, n_items: int = 60, seed: Seed = 0, *, n_blocks: int = 4, length: int = 10
) -> Interactions:
    """Return a log in which user u takes random items of block u mod n_blocks and no others.

    Item i belongs to block i mod n_blocks. Blocks are alike, so popularity knows nothing and a
    graph model finds the block. `length` is at most the size of a block.
    """
    rng = np.random.default_rng(seed)
    size = n_items // n_blocks
    places = np.argsort(rng.random((n_users, size)), axis=1)[:, :length]
    items = places * n_blocks + np.arange(n_users)[:, None] % n_blocks
    return _log(*_rows(items), (n_users, size * n_blocks))


def _stock(n_items: int, n_categories: int, habits: Habits, rng: np.random.Generator) -> _Catalogue:
    """Fill the shelves: items near their shelf in taste space, Zipf popularity in random order."""
    starts = np.arange(n_categories) * n_items // n_categories
    sizes = np.diff(starts, append=n_items)
    shelf = np.repeat(np.arange(n_categories), sizes)
    vectors = rng.normal(size=(n_categories, TASTE_DIM)) / np.sqrt(TASTE_DIM)
    spread = rng.normal(size=(n_items, TASTE_DIM)) / np.sqrt(TASTE_DIM)
    popularity = (1.0 + rng.permutation(n_items)) ** -habits.skew
    place = np.arange(n_items) - starts[shelf]
    ahead = (place[None, :] - place[:, None]) % sizes[shelf]
    linked = (shelf[None, :] == shelf[:, None]) & (ahead > 0)
    follows = np.where(linked, habits.chain * 0.5 ** (ahead - 1.0), 0.0)
    return _Catalogue(
        starts, shelf, vectors, vectors[shelf] + spread, popularity / popularity.sum(), follows
    )


def _click(catalogue: _Catalogue, visitors: Visitors, habits: Habits, kind: str) -> Floats:
    """Return float64[n, n_items], the law of a click that stays, opens a session or strays."""
    free = ~visitors.seen
    if kind == "stray":
        return _normalised(catalogue.popularity * free)
    begun = visitors.last >= 0
    bonus = catalogue.follows[visitors.last] * (begun & (kind == "stay"))[:, None]
    taste = habits.affinity * visitors.taste @ catalogue.item_vectors.T
    weight = catalogue.popularity * np.exp(taste + bonus) * free
    of_shelf = np.add.reduceat(weight, catalogue.starts, axis=1)
    shelf = np.exp(habits.focus * visitors.taste @ catalogue.shelf_vectors.T)
    if kind == "stay":
        here = catalogue.shelf[visitors.last]
        stays = begun & (of_shelf[np.arange(len(here)), here] > 0)
        one = np.arange(len(catalogue.starts)) == here[:, None]
        shelf = np.where(stays[:, None], one, shelf)  # a bare shelf ends the session
    share = np.divide(shelf, of_shelf, out=np.zeros_like(of_shelf), where=of_shelf > 0)
    return _normalised(weight * share[:, catalogue.shelf])


def _browse(
    catalogue: _Catalogue,
    lengths: NDArray[np.int64],
    habits: Habits,
    rng: np.random.Generator,
) -> tuple[Visitors, NDArray[np.int64], NDArray[np.bool_]]:
    """Let all users click side by side; return where they end, items[n, T] and session starts."""
    n_users, n_items = len(lengths), len(catalogue.shelf)
    visitors = Visitors(
        rng.normal(size=(n_users, TASTE_DIM)),
        np.full(n_users, -1),
        np.zeros((n_users, n_items), dtype=np.bool_),
    )
    items = np.full((n_users, int(lengths.max())), -1)
    opens = np.zeros(items.shape, dtype=np.bool_)
    for step in range(items.shape[1]):
        active = np.flatnonzero(lengths > step)
        stray = rng.random(len(active)) < habits.noise
        new = ~stray & ((visitors.last[active] < 0) | (rng.random(len(active)) >= habits.stay))
        for kind, chosen in (("stray", stray), ("new", new), ("stay", ~stray & ~new)):
            users = active[chosen]
            law = _click(catalogue, visitors.rows(users), habits, kind)
            items[users, step] = clicked = _draw(law, rng)
            visitors.seen[users, clicked] = True
            if kind != "stray":
                visitors.last[users] = clicked
        opened = active[new]
        opens[opened, step] = True
        fresh = rng.normal(size=(len(opened), visitors.taste.shape[1]))
        visitors.change_taste(opened, habits.drift, fresh)
    return visitors, items, opens


def _normalised(weight: Floats) -> Floats:
    law: Floats = weight / weight.sum(axis=1, keepdims=True)
    return law


def _draw(law: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one item a row; an item of probability 0 is never drawn."""
    level = np.cumsum(law, axis=1)
    mark = rng.random((len(law), 1)) * level[:, -1:]
    drawn: NDArray[np.int64] = (level <= mark).sum(axis=1)
    return drawn


def _clock(opens: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return int64[n, T] milliseconds: minutes inside a session, days between two."""
    gap = rng.exponential(np.where(opens, 6 * DAY, 2 * MINUTE)) + 1000
    arrival = rng.uniform(0, 200 * DAY, size=(len(opens), 1))
    return EPOCH + (arrival + np.cumsum(gap, axis=1)).astype(np.int64)


def _titles(catalogue: _Catalogue) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name each item after its shelf and its place there: "Camping 08" comes after "07"."""
    rounds = np.arange(len(catalogue.starts)) // len(SHELVES)
    names = [
        SHELVES[i % len(SHELVES)] + (f" {turn + 1}" if turn else "")
        for i, turn in enumerate(rounds.tolist())
    ]
    shelves = tuple(names[i] for i in catalogue.shelf)
    places = np.arange(len(shelves)) - catalogue.starts[catalogue.shelf] + 1
    titles = (f"{name} {place:02d}" for name, place in zip(shelves, places.tolist(), strict=True))
    return tuple(titles), shelves


def _rows(items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flatten items[n_users, length] to the two columns of a log."""
    return np.repeat(np.arange(len(items)), items.shape[1]), items.ravel()


def _log(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    shape: tuple[int, int],
    times: NDArray[np.int64] | None = None,
) -> Interactions:
    """Wrap dense columns as a log of shape (n_users, n_items); without times, a minute a row."""
    n_users, n_items = shape
    minutes = EPOCH + MINUTE * np.arange(len(users), dtype=np.int64)
    return Interactions(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        user_ids=pl.Series("user_id", [f"u{i:04d}" for i in range(n_users)], dtype=pl.String),
        item_ids=pl.Series("item_id", [f"item-{i:04d}" for i in range(n_items)], dtype=pl.String),
        times=minutes if times is None else times,
        ratings=None,
    )
