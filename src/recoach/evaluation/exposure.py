"""Exposure of items and groups of items in recommendation lists: concentration and disparity.

A group is any partition of the items, such as their providers, categories or ranges of popularity.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class GroupExposure(NamedTuple):
    """The exposure of one group of items."""

    exposure: float
    """Share of the exposure of all items, averaged over the lists."""
    merit: float
    """Share of the merit of all groups."""
    ratio: float
    """`exposure` / `merit`: 1 if exposure is proportional to merit; nan without merit."""


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of counts, 0 if all are equal.

    Args:
        counts: int64[I] >= 0.

    Returns:
        Near 1 if few items have all counts; nan if all counts are 0.
    """
    total = counts.sum()
    if total == 0:
        return float("nan")
    ascending = np.sort(counts).astype(np.float64)
    weights = 2 * np.arange(1, len(ascending) + 1) - len(ascending) - 1
    return float((weights * ascending).sum() / (len(ascending) * ascending.sum()))


def entropy(counts: np.ndarray) -> float:
    """Return the Shannon entropy of the distribution of counts, in bits.

    -Σ p log2 p with p = counts / sum, from 0 (one item has all counts) to log2 I (all equal). It is
    not divided by anything: RecBole divides its ShannonEntropy by the number of items.

    Args:
        counts: int64[I] >= 0.

    Returns:
        nan if all counts are 0.
    """
    if counts.sum() == 0:
        return float("nan")
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def group_exposure(lists: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the share of each list's exposure that each group of items has.

    The item at rank r is exposed by 1 / log2(r + 1), the position bias of Singh & Joachims 2018.

    Args:
        lists: int[B, k] items, best first; -1 after the end of a shorter list.
        groups: int64[I] group of each item; -1: in no group, its exposure counts in the sum only.
        n_groups: number of groups G.

    Returns:
        float64[B, G]; a row sums to 1 if all its items are in a group. nan for an empty list.
    """
    n_lists, k = lists.shape
    weights = np.where(lists >= 0, 1 / np.log2(np.arange(k) + 2.0), 0)
    list_groups = groups[lists]  # any group for the padding, whose weight is 0
    rows, columns = np.nonzero(list_groups >= 0)
    cells = rows * n_groups + list_groups[rows, columns]
    sums = np.bincount(cells, weights=weights[rows, columns], minlength=n_lists * n_groups)
    totals = weights.sum(axis=1, keepdims=True)
    result: np.ndarray = sums.reshape(n_lists, n_groups) / np.where(totals > 0, totals, np.nan)
    return result


def exposure_by_group(
    shares: np.ndarray, merits: np.ndarray, names: Sequence[str]
) -> dict[str, GroupExposure]:
    """Return the exposure of each group beside its merit, averaged over the lists.

    Args:
        shares: float64[B, G] of `group_exposure`; empty lists are left out.
        merits: float[G] merit of each group. Numbers of items ask for equal mean exposure of the
            groups (demographic parity), numbers of interactions for exposure in proportion to
            demand (disparate treatment), both of Singh & Joachims 2018.
        names: of the groups.
    """
    means = _mean_shares(shares)
    merit_shares = merits / merits.sum() if merits.sum() else merits * np.nan
    return {
        name: GroupExposure(float(mean), float(merit), float(mean / merit if merit else np.nan))
        for name, mean, merit in zip(names, means, merit_shares, strict=True)
    }


def exposure_parity(shares: np.ndarray, merits: np.ndarray) -> float:
    """Return the smallest exposure per merit of a group, divided by the largest.

    Of two groups this is the ratio of Singh & Joachims 2018 (or its inverse, so that it is at most
    1); of several groups that of the extreme ones.

    Args:
        shares: float64[B, G] of `group_exposure`.
        merits: float[G], see `exposure_by_group`; groups without merit are left out.

    Returns:
        From 0 (a group has no exposure) to 1 (proportional to merit); nan without exposure.
    """
    has_merit = merits > 0
    ratios = _mean_shares(shares)[has_merit] / merits[has_merit]
    largest = ratios.max(initial=0.0)
    return float(ratios.min() / largest) if largest > 0 else float("nan")


def _mean_shares(shares: np.ndarray) -> np.ndarray:
    """Return float64[G], the mean over lists that are not empty; 0 without any."""
    defined = shares[~np.isnan(shares).any(axis=1)]
    return defined.mean(axis=0) if len(defined) else np.zeros(shares.shape[1])
