"""Which interactions to keep: rating threshold, repeated pairs, iterated k-core."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from recoach.data.interactions import IntArray, Interactions
from recoach.errors import DataError

BoolArray = npt.NDArray[np.bool_]


def k_core(interactions: Interactions, k: int = 5) -> Interactions:
    """Return the largest part of the log in which every user and every item has k rows or more.

    Filtering is repeated until nothing changes. Rows count, so repeats of a pair count each time.
    DataError where nothing is left, saying for which k something would be.
    """
    rows = _core_rows(interactions.users, interactions.items, k)
    if not len(rows):
        raise DataError(_empty_core(interactions, k))
    if len(rows) == len(interactions):
        return interactions
    return interactions.keep(_mask(rows, len(interactions)))


def deduplicate(interactions: Interactions, keep: Literal["first", "last"]) -> Interactions:
    """Return the log with one row for each pair of user and item, the earliest or the latest.

    Ties in time go by file order, as does a log without times. The rows keep their file order.
    """
    pairs = interactions.users.astype(np.int64) * interactions.n_items + interactions.items
    if interactions.times is None:
        order = np.argsort(pairs, kind="stable")
    else:
        order = np.lexsort((interactions.times, pairs))
    changes = np.flatnonzero(np.diff(pairs[order])) + 1
    edge = np.concatenate(([0], changes)) if keep == "first" else np.append(changes, len(order)) - 1
    return interactions.keep(_mask(order[edge], len(interactions)))


def rating_at_least(interactions: Interactions, threshold: float) -> Interactions:
    """Return the rows rated `threshold` or better; DataError without ratings or without any row."""
    if interactions.ratings is None:
        raise DataError(
            "a rating threshold needs a rating column, and this log has none; drop min_rating "
            "or map the column with columns={'rating': ...}"
        )
    rows = interactions.ratings >= np.float32(threshold)
    if not rows.any():
        raise DataError(
            f"no rating reaches {threshold:g}, the highest is {interactions.ratings.max():g}; "
            "lower min_rating"
        )
    return interactions.keep(rows)


def _core_rows(users: IntArray, items: IntArray, k: int) -> npt.NDArray[np.int64]:
    """Return int64[m], the rows of the k-core in file order."""
    rows = np.arange(len(users))
    while len(rows):
        enough_of_user = np.bincount(users) >= k
        enough_of_item = np.bincount(items) >= k
        stays = enough_of_user[users] & enough_of_item[items]
        if stays.all():
            break
        rows, users, items = rows[stays], users[stays], items[stays]
    return rows


def _mask(rows: npt.NDArray[np.int64], length: int) -> BoolArray:
    mask = np.zeros(length, dtype=np.bool_)
    mask[rows] = True
    return mask


def _empty_core(interactions: Interactions, k: int) -> str:
    low, high = 0, k  # the low-core has rows (the 0-core has all), the high-core none
    rows = np.arange(len(interactions))
    while high - low > 1:
        middle = (low + high) // 2
        found = _core_rows(interactions.users, interactions.items, middle)
        low, high, rows = (middle, high, found) if len(found) else (low, middle, rows)
    users = len(np.unique(interactions.users[rows]))
    items = len(np.unique(interactions.items[rows]))
    return (
        f"the {k}-core is empty: no users and items with {k} interactions each are left; the "
        f"largest k that leaves something is {low} ({users:,} users, {items:,} items, "
        f"{len(rows):,} interactions), so use k_core = {low} or a longer log"
    )
