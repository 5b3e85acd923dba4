"""Estimators of the value of a policy from a log of lists: the sum of the rewards of a list.

Weights of positions are conditional: the probability of the item at a position given the items
above it, under the policy over that of the log. Lists that are shorter than the longest are filled
with reward 0 and weight 1.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recoach.ope.estimators import Ratio, Terms, mean_of

Floats = npt.NDArray[np.float64]


class Lists(NamedTuple):
    """What the estimators read of L lists of at most K items."""

    rewards: Floats
    """float64[L, K]."""
    weights: Floats
    """float64[L, K], given the items above."""
    logged_values: Floats
    """float64[L, K], the reward model's value of the logged item at its position."""
    policy_values: Floats
    """float64[L, K], the same averaged over the policy, given the logged items above."""
    values_below: Floats
    """float64[L, K], a prediction of the sum of the rewards below each position under the policy,
    which may depend on the state and on the items above the position, not on the list from there
    on."""


Estimator = Callable[[Lists], Terms]


def logged_mean(lists: Lists) -> Terms:
    """Mean of the lists' rewards: the value of the policy that wrote the log."""
    return [mean_of(lists.rewards.sum(axis=1))]


def sips(lists: Lists) -> Terms:
    """IPS of whole lists: the mean of (product of all weights) times (sum of rewards)."""
    return [mean_of(lists.weights.prod(axis=1) * lists.rewards.sum(axis=1))]


def snsips(lists: Lists) -> Terms:
    """IPS of whole lists, divided by the sum of the products of weights."""
    weights = lists.weights.prod(axis=1)
    return [Ratio(weights * lists.rewards.sum(axis=1), weights)]


def rips(lists: Lists) -> Terms:
    """Reward-interaction IPS (McInerney et al. 2020): each reward has the weights down to it.

    Unbiased if a reward depends on the items at and above its position only (cascade).
    """
    weights = np.cumprod(lists.weights, axis=1)
    return [mean_of((weights * lists.rewards).sum(axis=1))]


def snrips(lists: Lists) -> Terms:
    """Reward-interaction IPS, divided by the sum of the weights at each position."""
    weights = np.cumprod(lists.weights, axis=1)
    return [Ratio(w * r, w) for w, r in zip(weights.T, lists.rewards.T, strict=True)]


def direct(lists: Lists) -> Terms:
    """Direct method: the reward model's value under the policy, given the logged items above.

    At position 1 this is the value of the model; further down the items above are those of the
    log, not those of the policy.
    """
    return [mean_of(lists.policy_values.sum(axis=1))]


def cascade_dr(lists: Lists) -> Terms:
    """Cascade-DR (Kiyohara et al. 2022): reward-interaction IPS with a reward model.

    The mean of Σ_k [w_1..k (r_k - Q_k) + w_1..k-1 E[Q_k]], where Q_k is the value of positions k to
    K: the model's value at k plus `values_below`. Unbiased under cascade for any model.
    """
    weights = np.cumprod(lists.weights, axis=1)
    before = np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)
    logged = lists.logged_values + lists.values_below
    expected = lists.policy_values + lists.values_below
    return [mean_of((weights * (lists.rewards - logged) + before * expected).sum(axis=1))]


def iips(rewards: Floats, weights: Floats) -> Terms:
    """Item-position IPS (Li et al. 2018): the mean of Σ_k w_k r_k.

    Unbiased if a reward depends on the item at its position only.

    Args:
        rewards: float64[L, K].
        weights: float64[L, K], of the marginal probabilities of the item at the position, averaged
            over the items above it, not those given the items above.
    """
    return [mean_of((weights * rewards).sum(axis=1))]


def pseudo_inverse(rewards: Floats, weights: Floats) -> Terms:
    """Pseudo-inverse estimator (Swaminathan et al. 2017) for positions sampled independently.

    The mean of (1 + Σ_k (w_k - 1)) times the list's reward: unbiased if the expected reward of a
    list is a sum over its positions.

    Args:
        rewards: float64[L, K].
        weights: float64[L, K], marginal, as for `iips`.
    """
    return [mean_of((1 + (weights - 1).sum(axis=1)) * rewards.sum(axis=1))]


ESTIMATORS: Final[Mapping[str, Estimator]] = {
    "sips": sips,
    "snsips": snsips,
    "rips": rips,
    "snrips": snrips,
    "dm": direct,
    "cascade_dr": cascade_dr,
}
"""Estimators by name for logs of lists, whose propensities are given the items above."""
