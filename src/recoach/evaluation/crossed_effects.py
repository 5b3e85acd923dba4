"""Differences of two models over users and training seeds, both of them random effects."""

import math

import numpy as np

from recoach.evaluation.estimates import Estimate, student_estimate


def user_means(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Return float64[U, S], the mean over the states of each user, sorted by user.

    Users with one state and users with many then count alike, whereas the metrics in results.json
    are means over states: the two differ where users have several states.

    Args:
        values: float[B, S], a metric of each state (row) and seed (column).
        users: int64[B], the user of each state; the visitor where states are sessions.
    """
    _, places, n_states = np.unique(users, return_inverse=True, return_counts=True)
    sums = np.zeros((len(n_states), values.shape[1]))
    np.add.at(sums, places, values)
    return sums / n_states[:, None]


def crossed_interval(differences: np.ndarray, *, alpha: float = 0.05) -> Estimate:
    """Return the mean difference of two models, with users and seeds as crossed random effects.

    The interval holds for new users and for new seeds. One over users alone holds for these
    trained models only; one over seeds alone holds for these users only.

    From the mean squares of users, seeds and their interaction, the variance of the mean is
    (MS_users + MS_seeds - MS_interaction) / (U · S), at least
    max(MS_users, MS_seeds) / (U · S). Its degrees of freedom are Satterthwaite's (1946); at the
    lower bound they are those of the larger mean square. With one seed the standard error is that
    over users, and the interval does not hold for other seeds.

    In simulations of 60 users (2,000 samples each) the 95 % interval covers the true mean in 94 to
    96 % of the samples with five seeds. With three seeds it does so in 95 % where the seeds'
    variance of the mean is at most that of the users and in 92 % where it is several times as
    large; with two seeds in 94 and 89 %.

    Args:
        differences: float[U, S], the difference of the metric of each user (row) under the models
            of each seed (column). A seed is that of the base, which is trained anew with it: seeds
            of the fine-tuning alone give too short an interval. Users with several states: see
            `user_means`.
        alpha: two-sided level; 0.05 gives the 95 % interval.

    Raises:
        ValueError: fewer than two users, no seed, or a value that is not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    _check(differences)
    return student_estimate(float(differences.mean()), *_standard_error(differences), alpha=alpha)


def crossed_log_ratio(ours: np.ndarray, theirs: np.ndarray, *, alpha: float = 0.05) -> Estimate:
    """Return the logarithm of the ratio of two models' means over users and seeds.

    `math.expm1` of the value and of the ends of its interval are relative changes. The standard
    error is that of `crossed_interval` for the linearised ratio, ours / mean(ours) -
    theirs / mean(theirs) (delta method); it needs means that are several standard errors from 0.

    Args:
        ours: float[U, S], a metric of each user and seed under the first model.
        theirs: float[U, S], the metric of the same users and seeds under the second.
        alpha: two-sided level; 0.05 gives the 95 % interval.

    Raises:
        ValueError: as for `crossed_interval`, the shapes differ, or a mean is not positive.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"the models have different shapes, {ours.shape} and {theirs.shape}.")
    _check(ours)
    _check(theirs)
    means = float(ours.mean()), float(theirs.mean())
    if min(means) <= 0:
        raise ValueError(f"a ratio needs positive means, not {means[0]:g} and {means[1]:g}.")
    linearised = ours / means[0] - theirs / means[1]
    return student_estimate(
        math.log(means[0] / means[1]), *_standard_error(linearised), alpha=alpha
    )


def _check(values: np.ndarray) -> None:
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1:
        raise ValueError(
            f"expected users × seeds with at least two users and one seed, not {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError("every user needs a finite value for every seed.")


def _standard_error(differences: np.ndarray) -> tuple[float, float]:
    """Return the standard error of the mean over users and seeds, and its degrees of freedom."""
    n_users, n_seeds = differences.shape
    mean = differences.mean()
    by_user, by_seed = differences.mean(axis=1) - mean, differences.mean(axis=0) - mean
    users_df, seeds_df = n_users - 1, n_seeds - 1
    users_ms = n_seeds * float(by_user @ by_user) / users_df
    if n_seeds == 1:
        return math.sqrt(users_ms / n_users), users_df
    seeds_ms = n_users * float(by_seed @ by_seed) / seeds_df
    residuals = differences - mean - by_user[:, None] - by_seed
    residuals_df = users_df * seeds_df
    residuals_ms = float(np.square(residuals).sum()) / residuals_df
    scaled = users_ms + seeds_ms - residuals_ms  # the variance of the mean times U · S
    lower_bound, lower_bound_df = max((users_ms, users_df), (seeds_ms, seeds_df))
    if scaled <= lower_bound:
        scaled, degrees_of_freedom = lower_bound, float(lower_bound_df)
    else:
        parts = users_ms**2 / users_df + seeds_ms**2 / seeds_df + residuals_ms**2 / residuals_df
        degrees_of_freedom = scaled**2 / parts
    return math.sqrt(scaled / differences.size), degrees_of_freedom
