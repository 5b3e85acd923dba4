"""Which interactions to keep: rating threshold, repeated pairs, iterated k-core."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from recoach.data.config import PrepareConfig
from recoach.data.interactions import IntArray, Interactions
from recoach.data.read_report import ReadReport
from recoach.errors import DataError

BoolArray = npt.NDArray[np.bool_]
NO_RATINGS = (
    "min_rating: a rating threshold needs a rating column, and this log has none. Drop min_rating "
    "or pass --column rating=NAME."
)


def apply_filters(interactions: Interactions, config: PrepareConfig) -> Interactions:
    """Return the log after rating threshold, deduplication and k-core, in this order.

    Its report has the number of rows that each of them drops.
    """
    counts = [len(interactions)]
    if config.min_rating is not None:
        interactions = rating_at_least(interactions, config.min_rating)
    counts.append(len(interactions))
    if config.dedup != "none":
        interactions = deduplicate(interactions, config.dedup)
    counts.append(len(interactions))
    if config.k_core:
        interactions = k_core(interactions, config.k_core)
    counts.append(len(interactions))
    if interactions.report is None:
        return interactions
    return replace(interactions, report=add_filters(interactions.report, config, counts))


def add_filters(report: ReadReport, config: PrepareConfig, counts: Sequence[int]) -> ReadReport:
    """Return a report with the rows that the filters drop.

    `counts` are the rows before the filters and after rating threshold, deduplication and k-core.
    """
    reasons = (
        f"rated below {config.min_rating or 0:g}",
        "repeated",
        f"outside the {config.k_core}-core",
    )
    dropped = {
        reason: before - after
        for reason, (before, after) in zip(reasons, pairwise(counts), strict=True)
        if before > after
    }
    return replace(report, dropped={**report.dropped, **dropped})


def k_core(interactions: Interactions, k: int = 5) -> Interactions:
    """Return the largest part of the log in which every user and every item has k rows or more.

    Filtering repeats until nothing changes. Rows are counted: a repeated pair counts each time.
    DataError if nothing is left, with the largest k for which something would be.
    """
    users, items = interactions.users, interactions.items
    rows = _core_rows(users, items, k)
    if not rows.any():

        def core_counts(k: int) -> tuple[int, int, int]:
            rows = _core_rows(users, items, k)
            return len(np.unique(users[rows])), len(np.unique(items[rows])), int(rows.sum())

        raise empty_core_error(k, core_counts)
    return interactions if rows.all() else interactions.keep(rows)


def deduplicate(interactions: Interactions, keep: Literal["first", "last"]) -> Interactions:
    """Return the log with one row for each pair of user and item, the earliest or the latest.

    File order breaks ties in time, and orders a log without times. The rows keep their file order.
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
        raise DataError(NO_RATINGS)
    rows = interactions.ratings >= np.float32(threshold)
    if not rows.any():
        raise ratings_too_low_error(threshold, interactions.ratings.max())
    return interactions.keep(rows)


def _core_rows(users: IntArray, items: IntArray, k: int) -> BoolArray:
    """Return bool[N], whether a row is in the k-core; each round only subtracts removed rows."""
    core_users, core_items = users.astype(np.intp), items.astype(np.intp)
    user_counts, item_counts = np.bincount(users), np.bincount(items)
    while True:
        rare_users, rare_items = user_counts < k, item_counts < k
        removed = rare_users.take(core_users) | rare_items.take(core_items)
        if not removed.any():
            return ~(rare_users[users] | rare_items[items])
        removed_rows = np.flatnonzero(removed)
        user_counts -= np.bincount(core_users[removed_rows], minlength=len(user_counts))
        item_counts -= np.bincount(core_items[removed_rows], minlength=len(item_counts))
        core_users, core_items = core_users[~removed], core_items[~removed]


def empty_core_error(k: int, core_counts: Callable[[int], tuple[int, int, int]]) -> DataError:
    """Return the error for an empty k-core, with the largest core that is not empty.

    `core_counts` returns the number of users, items and interactions of the core of a given k; the
    0-core is the whole log.
    """
    low, high, counts = 0, k, core_counts(0)
    while high - low > 1:
        middle = (low + high) // 2
        middle_counts = core_counts(middle)
        if middle_counts[2]:
            low, counts = middle, middle_counts
        else:
            high = middle
    n_users, n_items, n_rows = counts
    return DataError(
        f"k_core: the {k}-core is empty: no users and items with {k} interactions each are left. "
        f"Use a longer log or k_core = {low}, the largest k that leaves something "
        f"({n_users:,} users, {n_items:,} items, {n_rows:,} interactions)."
    )


def ratings_too_low_error(threshold: float, highest: float) -> DataError:
    """Return the error for a threshold that no rating reaches."""
    return DataError(
        f"min_rating: no rating reaches {threshold:g}, the highest is {highest:g}. Lower "
        "min_rating."
    )
