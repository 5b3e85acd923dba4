"""A metric over windows of time: mean, deviation and slope, with intervals over users."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MAX_COUNTS = 2**22
"""Counts of resampled users in memory at most, 32 MiB."""


class WindowSummary(NamedTuple):
    """A metric, or a difference of two models, over windows of time.

    The intervals are of 95 %, over other users in the same windows.
    """

    means: tuple[float, ...]
    """The mean over the states of each window."""
    mean: float
    """The mean over the windows, each with the same weight."""
    low: float
    high: float
    deviation: float
    """The standard deviation over the windows; nan with one window."""
    slope: float
    """The change per unit of time, by least squares; nan with one window."""
    slope_low: float
    slope_high: float


def summarize_windows(
    values: Sequence[np.ndarray],
    users: Sequence[np.ndarray],
    times: Sequence[float] | None = None,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> WindowSummary:
    """Summarise a metric over windows, with a cluster bootstrap by user.

    A user is resampled with all states in all windows, because these are not independent.

    Args:
        values: of each window float[B], a metric of each state (`Evaluation.metrics`), or the
            difference of two models.
        users: of each window int64[B], the user of each state, with the same numbers in all.
        times: of each window, in any unit. Default: 0, 1, 2 and on, so that the slope is per
            window.
        samples: number of resamples.
        seed: of the resampling.

    Raises:
        ValueError: the lengths differ, or a window has no state.
    """
    moments = np.arange(len(values), dtype=float) if times is None else np.asarray(times, float)
    sizes = [(len(value), len(user)) for value, user in zip(values, users, strict=True)]
    if not values or len(moments) != len(values) or any(n != m or not n for n, m in sizes):
        raise ValueError("every window needs at least one state, a user for each, and a time")
    sums, counts = _user_sums(values, users)
    means = sums.sum(axis=0) / counts.sum(axis=0)
    resampled = _resampled_means(sums, counts, samples, np.random.default_rng(seed))
    low, high = np.nanquantile(resampled.mean(axis=1), [0.025, 0.975])
    slope = slope_low = slope_high = deviation = float("nan")
    if len(means) > 1:
        deviation, slope = float(means.std(ddof=1)), float(_slopes(means, moments))
        slope_low, slope_high = np.nanquantile(_slopes(resampled, moments), [0.025, 0.975])
    return WindowSummary(
        tuple(means.tolist()),
        float(means.mean()),
        float(low),
        float(high),
        deviation,
        slope,
        float(slope_low),
        float(slope_high),
    )


def _user_sums(
    values: Sequence[np.ndarray], users: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64[U, W] sums and counts of the states of each user in each window."""
    _, codes = np.unique(np.concatenate(users), return_inverse=True)
    bounds = np.cumsum([len(user) for user in users])[:-1]
    n_users = int(codes.max()) + 1
    columns = [
        (np.bincount(code, weights=value, minlength=n_users), np.bincount(code, minlength=n_users))
        for value, code in zip(values, np.split(codes, bounds), strict=True)
    ]
    sums, counts = zip(*columns, strict=True)
    return np.stack(sums, axis=1), np.stack(counts, axis=1).astype(float)


def _resampled_means(
    sums: np.ndarray, counts: np.ndarray, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """Return float64[samples, W]; nan for a window of which no user was resampled."""
    n_users = len(sums)
    at_once = max(1, _MAX_COUNTS // n_users)
    means = []
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        times = generator.multinomial(n_users, np.full(n_users, 1 / n_users), size=size)
        with np.errstate(invalid="ignore"):
            means.append((times @ sums) / (times @ counts))
    return np.concatenate(means)


def _slopes(means: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the slope of float64[..., W] means over times, by least squares."""
    centred = times - times.mean()
    slopes: np.ndarray = (means @ centred) / (centred @ centred)
    return slopes
