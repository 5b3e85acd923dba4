"""A simulated shop: a synthetic log and the click probabilities it was sampled from.

The log is sampled from one `numpy.random.Generator` (or a seed for it), so the same seed gives the
same log. Rows are grouped by user and ordered by time; no user has an item twice.
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

CATEGORY_NAMES: Final = (
    *("Camping", "Kitchen", "Garden", "Music", "Cycling", "Lighting", "Stationery", "Toys"),
    *("Coffee", "Tea", "Travel", "Photography", "Climbing", "Sewing", "Baking", "Pets"),
    *("Running", "Painting", "Board games", "Woodwork"),
)
EPOCH: Final = 1_700_000_000_000  # earliest timestamp of a log: milliseconds since 1970
MINUTE: Final = 60_000
DAY: Final = 24 * 60 * MINUTE
MIN_LENGTH: Final = 8
LATENT_DIM: Final = 8


@dataclass(frozen=True, slots=True)
class Habits:
    """Parameters of the simulated users; with the defaults the next item depends on the last."""

    stay: float = 0.75
    """Probability that the next click stays in the category of the session."""
    chain: float = 4.0
    """Logit added to the item that follows the last clicked item in its category; it halves with
    every further position."""
    affinity: float = 1.0
    """Weight of the dot product of user and item vector in the logit of an item."""
    focus: float = 3.0
    """Weight of the dot product of user and category vector in the logit of a category."""
    drift: float = 0.2
    """Share of new noise in a user's vector after each session, 0 (constant) to 1 (replaced)."""
    skew: float = 0.8
    """Exponent of the Zipf distribution of item popularity."""
    noise: float = 0.05
    """Probability that a click ignores session and preferences and follows popularity alone."""
    length: float = 20.0
    """Mean number of interactions of a user, before it is limited to 60."""


DEFAULT_HABITS: Final = Habits()
BROWSING: Final = Habits(chain=1.0)
"""The last click says more about the next category than about the next item, as in most real
logs."""


@dataclass(frozen=True, slots=True, eq=False)
class _Catalogue:
    """All items of the shop, sorted by category; vectors and weights are float64."""

    category_starts: NDArray[np.int64]  # [n_categories] first item of each category
    item_category: NDArray[np.int64]  # [n_items]
    category_vectors: Floats  # [n_categories, LATENT_DIM]
    item_vectors: Floats  # [n_items, LATENT_DIM]
    popularity: Floats  # [n_items], sums to 1
    transition_logits: Floats  # [n_items, n_items] added to the column's item after the row's item


@dataclass(frozen=True, slots=True, eq=False)
class UserStates:
    """The states of n users, from which their next clicks are sampled.

    Items are indices into the catalogue of the shop, not into its log; see `Shop.catalogue_index`.
    """

    vectors: Floats
    """[n, LATENT_DIM] what each user prefers."""
    last_item: NDArray[np.int64]
    """[n] last item of the session, -1 before its first click."""
    seen: NDArray[np.bool_]
    """[n, n_items] which items each user has clicked."""

    def select(self, rows: NDArray[np.int64]) -> "UserStates":
        """Return a copy of the states of some users."""
        return UserStates(self.vectors[rows], self.last_item[rows], self.seen[rows])

    def update_vectors(self, rows: NDArray[np.int64], drift: float, noise: Floats) -> None:
        """Mix `noise`[len(rows), LATENT_DIM] into the vectors of some users, in place.

        The weights, sqrt(1 - drift²) and drift, leave the variance of a vector as it is.
        """
        self.vectors[rows] = np.sqrt(1 - drift**2) * self.vectors[rows] + drift * noise


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """A simulated log together with the click probabilities it was sampled from."""

    interactions: Interactions
    item_titles: tuple[str, ...]
    item_categories: tuple[str, ...]
    habits: Habits
    catalogue_index: NDArray[np.int64]
    """[n_items of the log] index of each item in the catalogue of the shop."""
    _catalogue: _Catalogue
    _user_states: UserStates

    def __repr__(self) -> str:
        log = self.interactions
        return (
            f"Shop({log.n_users:,} customers, {len(self.item_titles):,} items, {len(log):,} clicks)"
        )

    def user_states(self) -> UserStates:
        """Return a copy of the states of all users at the end of the log."""
        return self._user_states.select(np.arange(len(self._user_states.last_item)))

    def click_probabilities(self, states: UserStates) -> Floats:
        """Return the true probability of each item to be the next click.

        Args:
            states: the states of n users, at the end of the log or later.

        Returns:
            float64[n, n_items of the log]; 0 for items already seen. Rows sum to less than 1 where
            the catalogue has unseen items that do not occur in the log.
        """
        same_category, new_session, random = (
            _click_probabilities(self._catalogue, states, self.habits, kind)
            for kind in ("same_category", "new_session", "random")
        )
        stay, noise = self.habits.stay, self.habits.noise
        in_session = stay * same_category + (1 - stay) * new_session
        probabilities: Floats = noise * random + (1 - noise) * in_session
        return probabilities[:, self.catalogue_index]

    def preference(self, user_index: int) -> Floats:
        """Return `click_probabilities` of the user with this number, float64[n_items of the log].

        They are those of the next click after the log.
        """
        states = self._user_states.select(np.array([user_index]))
        probabilities: Floats = self.click_probabilities(states)[0]
        return probabilities


def shop(
    n_users: int = 2000,
    n_items: int = 1000,
    seed: Seed = 0,
    *,
    n_categories: int = 20,
    habits: Habits = DEFAULT_HABITS,
) -> Shop:
    """Simulate a shop whose users click in sessions and whose preferences change slowly.

    A session stays in one category, where each item raises the probability of the items after it;
    a new session samples a category by the user's preferences. A user has 8 to 60 interactions, but
    at most half the items.

    Args:
        n_users: number of users, with ids "u0000" and on.
        n_items: number of items in the catalogue, with ids "item-0000" and on, sorted by category;
            an item without a click is not part of the log.
        seed: an integer or the generator to sample from.
        n_categories: number of categories; their sizes differ by at most one item.
        habits: parameters of the users.

    Raises:
        DataError: there is no user, or there are too few items for the categories.
    """
    if n_users < 1 or n_items < 2 * max(MIN_LENGTH, n_categories) or n_categories < 1:
        raise DataError(
            "A shop needs at least one user, one category and "
            f"{2 * max(MIN_LENGTH, n_categories)} items "
            f"for {n_categories} categories; got {n_users} users and {n_items} items."
        )
    rng = np.random.default_rng(seed)
    catalogue = _make_catalogue(n_items, n_categories, habits, rng)
    max_length = min(60, n_items // 2)
    extra = rng.exponential(max(habits.length - MIN_LENGTH, 0.0), n_users).astype(np.int64)
    lengths = np.minimum(MIN_LENGTH + extra, max_length)
    states, items, session_starts = _simulate_sessions(catalogue, lengths, habits, rng)
    mask = np.arange(items.shape[1]) < lengths[:, None]
    users = np.repeat(np.arange(n_users), lengths)
    timestamps = _timestamps(session_starts, rng)[mask]
    log = make_log(users, items[mask], (n_users, n_items), timestamps)
    log = log.keep(np.ones(len(log), dtype=np.bool_))  # drop items without a click
    catalogue_index = log.item_ids.str.slice(len("item-")).cast(pl.Int64).to_numpy()
    titles, categories = (
        tuple(np.array(names)[catalogue_index].tolist()) for names in _titles(catalogue)
    )
    return Shop(log, titles, categories, habits, catalogue_index, catalogue, states)


def _make_catalogue(
    n_items: int, n_categories: int, habits: Habits, rng: np.random.Generator
) -> _Catalogue:
    """Sample item vectors around their category's vector, and Zipf popularity in random order."""
    starts = np.arange(n_categories) * n_items // n_categories
    sizes = np.diff(starts, append=n_items)
    item_category = np.repeat(np.arange(n_categories), sizes)
    category_vectors = rng.normal(size=(n_categories, LATENT_DIM)) / np.sqrt(LATENT_DIM)
    offsets = rng.normal(size=(n_items, LATENT_DIM)) / np.sqrt(LATENT_DIM)
    popularity = (1.0 + rng.permutation(n_items)) ** -habits.skew
    position = np.arange(n_items) - starts[item_category]
    distance = (position[None, :] - position[:, None]) % sizes[item_category]
    follows = (item_category[None, :] == item_category[:, None]) & (distance > 0)
    transition_logits = np.where(follows, habits.chain * 0.5 ** (distance - 1.0), 0.0)
    return _Catalogue(
        starts,
        item_category,
        category_vectors,
        category_vectors[item_category] + offsets,
        popularity / popularity.sum(),
        transition_logits,
    )


def _click_probabilities(
    catalogue: _Catalogue, states: UserStates, habits: Habits, kind: str
) -> Floats:
    """Return float64[n, n_items], the distribution of one kind of click.

    The kind is "same_category" for a click that continues the session, "new_session", or "random"
    for one by popularity alone.
    """
    unseen = ~states.seen
    if kind == "random":
        return _normalised(catalogue.popularity * unseen)
    in_session = states.last_item >= 0
    bonus = (
        catalogue.transition_logits[states.last_item]
        * (in_session & (kind == "same_category"))[:, None]
    )
    affinity = habits.affinity * states.vectors @ catalogue.item_vectors.T
    weight = catalogue.popularity * np.exp(affinity + bonus) * unseen
    category_weight = np.add.reduceat(weight, catalogue.category_starts, axis=1)
    category_share = np.exp(habits.focus * states.vectors @ catalogue.category_vectors.T)
    if kind == "same_category":
        current = catalogue.item_category[states.last_item]
        # Without an unseen item in the category, the session ends.
        stays = in_session & (category_weight[np.arange(len(current)), current] > 0)
        one_hot = np.arange(len(catalogue.category_starts)) == current[:, None]
        category_share = np.where(stays[:, None], one_hot, category_share)
    factor = np.divide(
        category_share,
        category_weight,
        out=np.zeros_like(category_weight),
        where=category_weight > 0,
    )
    return _normalised(weight * factor[:, catalogue.item_category])


def _simulate_sessions(
    catalogue: _Catalogue,
    lengths: NDArray[np.int64],
    habits: Habits,
    rng: np.random.Generator,
) -> tuple[UserStates, NDArray[np.int64], NDArray[np.bool_]]:
    """Sample the clicks of all users in parallel.

    Returns:
        The states after the last click, items[n, T] (-1 beyond the length of a user) and
        bool[n, T], which clicks start a session.
    """
    n_users, n_items = len(lengths), len(catalogue.item_category)
    states = UserStates(
        rng.normal(size=(n_users, LATENT_DIM)),
        np.full(n_users, -1),
        np.zeros((n_users, n_items), dtype=np.bool_),
    )
    items = np.full((n_users, int(lengths.max())), -1)
    session_starts = np.zeros(items.shape, dtype=np.bool_)
    for step in range(items.shape[1]):
        active = np.flatnonzero(lengths > step)
        random = rng.random(len(active)) < habits.noise
        leaves = rng.random(len(active)) >= habits.stay
        new = ~random & ((states.last_item[active] < 0) | leaves)
        kinds = (("random", random), ("new_session", new), ("same_category", ~random & ~new))
        for kind, mask in kinds:
            users = active[mask]
            probabilities = _click_probabilities(catalogue, states.select(users), habits, kind)
            items[users, step] = clicked = _sample(probabilities, rng)
            states.seen[users, clicked] = True
            if kind != "random":
                states.last_item[users] = clicked
        starting = active[new]
        session_starts[starting, step] = True
        noise = rng.normal(size=(len(starting), states.vectors.shape[1]))
        states.update_vectors(starting, habits.drift, noise)
    return states, items, session_starts


def _normalised(weight: Floats) -> Floats:
    probabilities: Floats = weight / weight.sum(axis=1, keepdims=True)
    return probabilities


def _sample(probabilities: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample one item per row; an item of probability 0 is never sampled."""
    cumulative = np.cumsum(probabilities, axis=1)
    threshold = rng.random((len(probabilities), 1)) * cumulative[:, -1:]
    items: NDArray[np.int64] = (cumulative <= threshold).sum(axis=1)
    return items


def _timestamps(session_starts: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return int64[n, T] milliseconds: minutes apart within a session, days between sessions."""
    gap = rng.exponential(np.where(session_starts, 6 * DAY, 2 * MINUTE)) + 1000
    arrival = rng.uniform(0, 200 * DAY, size=(len(session_starts), 1))
    return EPOCH + (arrival + np.cumsum(gap, axis=1)).astype(np.int64)


def _titles(catalogue: _Catalogue) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a title such as "Camping 08" and the name of the category for each item."""
    rounds = np.arange(len(catalogue.category_starts)) // len(CATEGORY_NAMES)
    names = [
        CATEGORY_NAMES[i % len(CATEGORY_NAMES)] + (f" {number + 1}" if number else "")
        for i, number in enumerate(rounds.tolist())
    ]
    categories = tuple(names[i] for i in catalogue.item_category)
    first = catalogue.category_starts[catalogue.item_category]
    numbers = np.arange(len(categories)) - first + 1
    titles = (f"{name} {n:02d}" for name, n in zip(categories, numbers.tolist(), strict=True))
    return tuple(titles), categories


def make_log(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    shape: tuple[int, int],
    times: NDArray[np.int64] | None = None,
) -> Interactions:
    """Return the log of int64[N] columns; without times (milliseconds) rows are a minute apart.

    The ids of the (n_users, n_items) of `shape` are "u0000" and on, "item-0000" and on.
    """
    n_users, n_items = shape
    minutes = EPOCH + MINUTE * np.arange(len(users), dtype=np.int64)
    return Interactions(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        user_ids=pl.Series("user_id", [f"u{i:04d}" for i in range(n_users)], dtype=pl.String),
        item_ids=pl.Series("item_id", [f"item-{i:04d}" for i in range(n_items)], dtype=pl.String),
        columns={"timestamp": pl.Series(minutes if times is None else times, dtype=pl.Int64)},
    )
