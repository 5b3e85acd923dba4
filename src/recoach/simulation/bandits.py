"""Policies that learn while they serve, and the simplest ones, to set a model beside."""

import numpy as np

from recoach.data.split import Dataset
from recoach.simulation.environment import Customers, Floats, Longs, Policy

_TRUST = 10.0
"""Views that a share of the log is worth before anybody is served."""


class SlateBandit:
    """Learns how often an item is clicked by those who come from a shelf, shared by all customers.

    Thompson sampling draws each rate from its Beta posterior; with `epsilon` it shows the best mean
    rates, and now and then a random list.

    Args:
        customers: tell the shelves.
        dataset: its training histories say where people went from each shelf, the prior.
        seed: of the draws.
        epsilon: share of random lists; None for Thompson sampling.
    """

    def __init__(
        self, customers: Customers, dataset: Dataset, seed: int, epsilon: float | None = None
    ) -> None:
        self._shelf, self._epsilon = customers.shelf, epsilon
        self._rng = np.random.default_rng(seed)
        train = dataset.train
        inside = np.ones(len(train.values), dtype=np.bool_)
        inside[train.offsets[:-1][train.lengths > 0]] = False
        places = np.flatnonzero(inside)
        shape = (int(self._shelf.max()) + 1, dataset.n_items)
        moves = np.zeros(shape)
        np.add.at(moves, (self._shelf[train.values[places - 1]], train.values[places]), 1)
        share = moves / np.maximum(1, moves.sum(axis=1, keepdims=True))
        self.clicks, self.misses = 1 + _TRUST * share, 1 + _TRUST * (1 - share)

    def __call__(self, observed: Longs, customers: Customers) -> Longs:
        """Return the unseen items of the best, or of drawn, rates."""
        context = self._context(observed)
        clicks, misses = self.clicks[context], self.misses[context]
        if self._epsilon is None:
            rates = self._rng.beta(clicks, misses)
        else:
            rates = clicks / (clicks + misses)
            random = self._rng.random(len(rates)) < self._epsilon
            rates[random] = self._rng.random((int(random.sum()), rates.shape[1]))
        return best_unseen(rates, customers)

    def learn(self, observed: Longs, lists: Longs, clicked: Longs) -> None:
        """Count a click or a miss for every item that was shown."""
        context = np.repeat(self._context(observed)[:, None], lists.shape[1], axis=1)
        hit, shown = lists == clicked[:, None], lists >= 0
        for counts, which in ((self.clicks, hit & shown), (self.misses, ~hit & shown)):
            np.add.at(counts, (context[which], lists[which]), 1)

    def _context(self, observed: Longs) -> Longs:
        lengths = (observed != len(self._shelf)).sum(axis=1)
        context: Longs = self._shelf[observed[np.arange(len(observed)), lengths - 1]]
        return context


def random_policy(seed: int) -> Policy:
    """Return the policy that shows unseen items at random."""
    rng = np.random.default_rng(seed)
    return lambda observed, customers: best_unseen(
        rng.random((len(observed), customers.n_items)), customers
    )


def oracle(observed: Longs, customers: Customers) -> Longs:
    """Show what each customer is truly most likely to click now: what nobody can know."""
    del observed
    return best_unseen(customers.worth(np.arange(customers.num_envs)), customers)


def best_unseen(worth: Floats, customers: Customers) -> Longs:
    """Return int64[n, list_length], the unseen items of highest worth, best first.

    Args:
        worth: float[n, n_items].
        customers: tell what was seen, and how long a list is.
    """
    hidden = np.where(customers.seen, -np.inf, worth)
    best: Longs = np.argsort(-hidden, axis=1, kind="stable")[:, : customers.moods.list_length]
    return best
