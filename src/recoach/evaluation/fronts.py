"""Fronts of two metrics: non-dominated points, hypervolume, and resamples of users."""

from types import ModuleType
from typing import Literal

import numpy as np

from recoach.errors import ConfigError

Scheme = Literal["bootstrap", "half"]
"""How users are resampled: with replacement, or half of them without (for distinct counts)."""


def nondominated(points: np.ndarray) -> np.ndarray:
    """Return bool[n], whether no other point of float[n, 2] is at least as good in both metrics.

    Larger is better. Of equal points the first is kept.

    Raises:
        ConfigError: moocore is not installed.
    """
    moocore = _moocore()
    mask: np.ndarray = moocore.is_nondominated(
        np.ascontiguousarray(points, dtype=np.float64), maximise=True
    )
    return mask


def hypervolume(points: np.ndarray) -> float:
    """Return the area that float[n, 2] points dominate above the reference (0, 0).

    Larger is better; a point that is not above the reference in both metrics adds nothing. Points
    may dominate each other.

    Source: Zitzler & Thiele 1998, computed by moocore.

    Raises:
        ConfigError: moocore is not installed.
    """
    if not len(points):
        return 0.0
    moocore = _moocore()
    data = np.ascontiguousarray(points, dtype=np.float64)
    return float(moocore.hypervolume(data, ref=[0.0, 0.0], maximise=True))


def normalised(points: np.ndarray, nadir: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """Return points with each metric scaled so that the nadir is 0 and the ideal is 1."""
    scaled: np.ndarray = (points - nadir) / (ideal - nadir)
    return scaled


def resampled_weights(
    users: np.ndarray, samples: int, *, scheme: Scheme = "bootstrap", seed: int = 0
) -> np.ndarray:
    """Return int32[S, B], how often each state counts in each resample of the users.

    A user is resampled with all states (the cluster bootstrap). With "half", a half of the users is
    drawn without replacement: deviations from the mean then have the variance of the bootstrap, and
    a number of distinct items, which is too low if users are repeated, is that of half as many
    users.

    Args:
        users: int64[B], the user of each state.
        samples: number S of resamples.
        scheme: see `Scheme`.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    _, index = np.unique(users, return_inverse=True)
    n_users = int(index.max(initial=-1)) + 1
    if scheme == "bootstrap":
        counts = generator.multinomial(n_users, np.full(n_users, 1 / n_users), size=samples)
    else:
        order = generator.random((samples, n_users)).argsort(axis=1)
        counts = (order < n_users // 2).astype(np.int64)
    weights: np.ndarray = counts[:, index].astype(np.int32)
    return weights


def resampled_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return float64[S], the mean of float[B] values in each resample; nan values are left out."""
    is_defined = np.isfinite(values)
    sums = weights @ np.where(is_defined, values, 0.0)
    result: np.ndarray = sums / np.maximum(weights @ is_defined.astype(np.float64), 1)
    return result


def resampled_coverage(lists: np.ndarray, n_items: int, weights: np.ndarray) -> np.ndarray:
    """Return float64[S], the fraction of items in at least one list of each resample."""
    values = []
    for of_sample in weights:
        is_listed = np.zeros(n_items + 1, dtype=np.bool_)
        is_listed[lists[of_sample > 0]] = True  # -1 is the last place
        values.append(is_listed[:-1].mean())
    return np.array(values)


def interval(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a value: its resamples, moved so that their mean is the value."""
    low, high = np.quantile(resampled - resampled.mean(), [0.025, 0.975])
    return float(value + low), float(value + high)


def _moocore() -> ModuleType:
    try:
        import moocore  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "The hypervolume of a front needs moocore. Install it: pip install 'recoach[fronts]'."
        ) from error
    module: ModuleType = moocore
    return module
