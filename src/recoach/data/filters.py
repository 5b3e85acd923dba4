"""Which interactions to keep: rating threshold, repeated pairs, iterated k-core."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from recoach.data.interactions import IntArray, Interactions
from recoach.errors import DataError

BoolArray = npt.NDArray[np.bool_]
NOT_RATED = (
    "a rating threshold needs a rating column, and this log has none; drop min_rating "
    "or map the column with columns={'rating': ...}"
)


def k_core(interactions: Interactions, k: int = 5) -> Interactions:
    """Return the largest part of the log in which every user and every item has k rows or more.

    Filtering is repeated until nothing changes. Rows count, so repeats of a pair count each time.
    DataError where nothing is left, saying for which k something would be.
    """
    rows = _core_rows(interactions.users, interactions.items, k)
    if not rows.any():
        raise DataError(_empty_core(interactions, k))
    return interactions if rows.all() else interactions.keep(rows)


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
    rows = np.zeros(len(interactions), dtype=np.bool_)
    rows[order[edge]] = True
    return interactions.keep(rows)


def rating_at_least(interactions: Interactions, threshold: float) -> Interactions:
    """Return the rows rated `threshold` or better; DataError without ratings or without any row."""
    if interactions.ratings is None:
        raise DataError(NOT_RATED)
    rows = interactions.ratings >= np.float32(threshold)
    if not rows.any():
        raise DataError(rated_too_low(threshold, interactions.ratings.max()))
    return interactions.keep(rows)


def _core_rows(users: IntArray, items: IntArray, k: int) -> BoolArray:
    """Return bool[N], whether a row is in the k-core; counts lose what went, not counted anew."""
    left_users, left_items = users.astype(np.intp), items.astype(np.intp)
    of_user, of_item = np.bincount(users), np.bincount(items)
    while True:
        few_of_user, few_of_item = of_user < k, of_item < k
        goes = few_of_user.take(left_users) | few_of_item.take(left_items)
        if not goes.any():
            return ~(few_of_user[users] | few_of_item[items])
        gone = np.flatnonzero(goes)
        of_user -= np.bincount(left_users[gone], minlength=len(of_user))
        of_item -= np.bincount(left_items[gone], minlength=len(of_item))
        left_users, left_items = left_users[~goes], left_items[~goes]


def _empty_core(interactions: Interactions, k: int) -> str:
    low, high = 0, k  # the low-core has rows (the 0-core has all), the high-core none
    rows = np.ones(len(interactions), dtype=np.bool_)
    while high - low > 1:
        middle = (low + high) // 2
        found = _core_rows(interactions.users, interactions.items, middle)
        low, high, rows = (middle, high, found) if found.any() else (low, middle, rows)
    users = len(np.unique(interactions.users[rows]))
    items = len(np.unique(interactions.items[rows]))
    return empty_core(k, low, (users, items, int(np.count_nonzero(rows))))


def empty_core(k: int, low: int, left: tuple[int, int, int]) -> str:
    """Return what to say of an empty k-core.

    Args:
        k: what was asked for.
        low: the largest k that leaves something.
        left: users, items and interactions of that core.
    """
    users, items, rows = left
    return (
        f"the {k}-core is empty: no users and items with {k} interactions each are left; the "
        f"largest k that leaves something is {low} ({users:,} users, {items:,} items, "
        f"{rows:,} interactions), so use k_core = {low} or a longer log"
    )


def rated_too_low(threshold: float, highest: float) -> str:
    """Return what to say where no rating reaches a threshold."""
    return f"no rating reaches {threshold:g}, the highest is {highest:g}; lower min_rating"
