"""Baseline policies for `recoach.simulation.environment`: bandits, random lists and an oracle."""

import numpy as np

from recoach.data.dataset import Dataset
from recoach.simulation.environment import Floats, Longs, ShopVectorEnv
from recoach.simulation.episodes import Policy

_PRIOR_WEIGHT = 10.0
"""Number of pseudo-impressions by which the log's transition frequencies enter the prior."""


class SlateBandit:
    """A contextual bandit on click-through rates, given the category of a user's last item.

    The rates are shared by all users and have Beta posteriors. Thompson sampling samples each rate
    from its posterior; with `epsilon`, lists hold the items of highest mean rate, or random items.

    Args:
        env: has the categories of the items.
        dataset: transitions of its training histories, from category to next item, are the prior.
        seed: of sampled rates and random lists.
        epsilon: probability of a random list; None for Thompson sampling.
    """

    def __init__(
        self, env: ShopVectorEnv, dataset: Dataset, seed: int, epsilon: float | None = None
    ) -> None:
        self._item_category, self._epsilon = env.item_category, epsilon
        self._rng = np.random.default_rng(seed)
        train = dataset.train
        has_previous = np.ones(len(train.values), dtype=np.bool_)
        has_previous[train.offsets[:-1][train.lengths > 0]] = False
        positions = np.flatnonzero(has_previous)
        transitions = np.zeros((int(self._item_category.max()) + 1, dataset.n_items))
        previous_category = self._item_category[train.values[positions - 1]]
        np.add.at(transitions, (previous_category, train.values[positions]), 1)
        frequency = transitions / np.maximum(1, transitions.sum(axis=1, keepdims=True))
        self.clicks = 1 + _PRIOR_WEIGHT * frequency
        self.misses = 1 + _PRIOR_WEIGHT * (1 - frequency)

    def __call__(self, observations: Longs, env: ShopVectorEnv) -> Longs:
        """Return the unseen items of highest sampled or mean rate, int64[n, list_length]."""
        context = self._context(observations)
        clicks, misses = self.clicks[context], self.misses[context]
        if self._epsilon is None:
            rates = self._rng.beta(clicks, misses)
        else:
            rates = clicks / (clicks + misses)
            random = self._rng.random(len(rates)) < self._epsilon
            rates[random] = self._rng.random((int(random.sum()), rates.shape[1]))
        return top_unseen(rates, env)

    def learn(self, observations: Longs, lists: Longs, clicked: Longs) -> None:
        """Count a click or a miss for every item shown."""
        context = np.repeat(self._context(observations)[:, None], lists.shape[1], axis=1)
        is_click, is_item = lists == clicked[:, None], lists >= 0
        for counts, mask in ((self.clicks, is_click & is_item), (self.misses, ~is_click & is_item)):
            np.add.at(counts, (context[mask], lists[mask]), 1)

    def _context(self, observations: Longs) -> Longs:
        """Return int64[n], the category of each user's last item."""
        lengths = (observations != len(self._item_category)).sum(axis=1)
        last_items = observations[np.arange(len(observations)), lengths - 1]
        context: Longs = self._item_category[last_items]
        return context


def random_policy(seed: int) -> Policy:
    """Return the policy that shows random unseen items."""
    rng = np.random.default_rng(seed)
    return lambda observations, env: top_unseen(rng.random((len(observations), env.n_items)), env)


def oracle(observations: Longs, env: ShopVectorEnv) -> Longs:
    """Return the items that each user is most likely to click, by the environment's true logits.

    No real policy has access to these; it is an upper reference for greedy policies.
    """
    del observations
    return top_unseen(env.item_logits(np.arange(env.num_envs)), env)


def top_unseen(scores: Floats, env: ShopVectorEnv) -> Longs:
    """Return int64[n, list_length], the unseen items of highest score, best first.

    Args:
        scores: float[n, n_items].
        env: has the seen items and the length of lists.
    """
    masked = np.where(env.seen, -np.inf, scores)
    best: Longs = np.argsort(-masked, axis=1, kind="stable")[:, : env.config.list_length]
    return best
