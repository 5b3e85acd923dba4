"""Tiny synthetic logs for which the best model is known.

Random logs are sampled from one `numpy.random.Generator` (or a seed for it). Rows are grouped by
user and ordered by time; no user has an item twice.
"""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from recoach.data.dataset import Dataset
from recoach.data.interactions import Interactions
from recoach.simulation.shop import Seed, make_log


def checkerboard(n_users: int = 20, n_items: int = 16) -> Interactions:
    """Return a log in which even users have every even item and odd users every odd item.

    The last item of a user is the only one of the user's parity that is not in the history, so the
    first item of a ranking that masks seen items is known. The order rotates from user to user.
    """
    per_user = n_items // 2
    step = np.arange(per_user)
    user = np.arange(n_users)[:, None]
    items = 2 * ((step + user // 2) % per_user) + user % 2
    return make_log(*_to_columns(items), (n_users, 2 * per_user))


def popularity_world(
    n_users: int = 400, n_items: int = 50, seed: Seed = 0, *, length: int = 8
) -> Interactions:
    """Return a log in which all users follow one Zipf distribution, so that popularity is optimal.

    Item 0 is the most popular; a user's items are sampled without replacement.
    """
    rng = np.random.default_rng(seed)
    weight = -np.log1p(np.arange(n_items))
    # Sorting by Gumbel keys samples without replacement.
    keys = weight + rng.gumbel(size=(n_users, n_items))
    return make_log(*_to_columns(np.argsort(-keys, axis=1)[:, :length]), (n_users, n_items))


def cycle(n_users: int = 60, n_items: int = 30, *, length: int = 10) -> Interactions:
    """Return a log in which item i is always followed by i + 1 (the last one by item 0).

    Only the order tells the next item from the one before the first, so a sequential model must
    beat a graph model. `length` is at most n_items - 1.
    """
    start = np.arange(n_users)[:, None]
    items = (start + np.arange(min(length, n_items - 1))) % n_items
    return make_log(*_to_columns(items), (n_users, n_items))


def block_graph(
    n_users: int = 120, n_items: int = 60, seed: Seed = 0, *, n_blocks: int = 4, length: int = 10
) -> Interactions:
    """Return a log in which user u has random items of block u mod n_blocks and no others.

    Item i belongs to block i mod n_blocks. All blocks are equally popular, so a graph model can
    find the block and popularity cannot. `length` is at most the size of a block.
    """
    rng = np.random.default_rng(seed)
    size = n_items // n_blocks
    permutations = np.argsort(rng.random((n_users, size)), axis=1)[:, :length]
    items = permutations * n_blocks + np.arange(n_users)[:, None] % n_blocks
    return make_log(*_to_columns(items), (n_users, size * n_blocks))


def _to_columns(items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flatten items[n_users, length] to the user and item columns of a log."""
    return np.repeat(np.arange(len(items)), items.shape[1]), items.ravel()


def with_event_types(log: Interactions, types: ArrayLike | None = None) -> Interactions:
    """Return the log with the event types view and buy.

    `types` has the code of each event; by default a random quarter of the events is buy.
    """
    if types is None:
        types = np.random.default_rng(0).random(len(log.items)) < 0.25
    names = ("view", "buy")
    values = [names[code] for code in np.asarray(types).astype(int)]
    column = pl.Series("event_type", values, dtype=pl.Enum(names))
    return replace(log, columns={**log.columns, "event_type": column})


def with_ratings(dataset: Dataset, ratings: ArrayLike) -> Dataset:
    """Return the dataset with a rating for each training interaction."""
    columns = {"rating": pl.Series(np.asarray(ratings), dtype=pl.Float32)}
    return replace(dataset, train=replace(dataset.train, columns=columns))


def log_with_ratings() -> Interactions:
    """Return the log of two users with 6 and 4 of six items, latest row first, with ratings."""
    rows = [(0, item, 1 + item % 5) for item in range(6)] + [(1, item, 5) for item in (0, 1, 2, 3)]
    users, items, ratings = (np.array(column) for column in zip(*rows, strict=True))
    names = [
        pl.Series([f"{kind}{n}" for n in range(count)]) for kind, count in (("u", 2), ("i", 6))
    ]
    return Interactions(
        users.astype(np.int32),
        items.astype(np.int32),
        *names,
        {
            "timestamp": pl.Series(np.arange(len(rows))[::-1], dtype=pl.Int64),
            "rating": pl.Series(ratings, dtype=pl.Float32),
        },
    )
