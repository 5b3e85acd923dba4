"""Small logs: an enumerated one of lists, and samples with known propensities."""

import itertools

import numpy as np
import polars as pl

from recoach.ope.log import from_frame
from recoach.ope.policies import Choices

ITEMS = ("a", "b", "c")


def conditional(weights, above):
    """Return the Plackett-Luce probability of each of 3 items, given those above it."""
    left = np.array([0.0 if item in above else weight for item, weight in enumerate(weights)])
    return left / left.sum()


def ranked_lists(weights, length):
    """Return every list of a Plackett-Luce policy with its conditional probabilities."""
    return {
        items: [conditional(weights, items[:k])[item] for k, item in enumerate(items)]
        for items in itertools.permutations(range(len(weights)), length)
    }


class ListPolicy:
    """A Plackett-Luce policy over the items of a log."""

    def __init__(self, weights):
        self.weights = weights

    def choices(self, log, rows):
        above = [log.items[row - log.positions[row] + 1 : row].tolist() for row in rows]
        order = np.array([ITEMS.index(item_id) for item_id in log.item_ids])
        probabilities = np.stack(
            [conditional(self.weights, order[np.array(items, dtype=int)])[order] for items in above]
        )
        return Choices(np.tile(np.arange(len(order)), (len(rows), 1)), probabilities)


def sampled_rows(n, weights, rates, seed=0, users=None):
    """Return a frame of n single impressions of a fixed policy over 3 items."""
    rng = np.random.default_rng(seed)
    probabilities = np.array(weights) / sum(weights)
    items = rng.choice(3, n, p=probabilities)
    columns = {
        "item_id": np.array(ITEMS)[items],
        "reward": (rng.random(n) < np.array(rates)[items]).astype(float),
        "propensity": probabilities[items],
    }
    if users is not None:
        columns["user_id"] = [f"u{user}" for user in rng.integers(users, size=n)]
    return pl.DataFrame(columns)


def table(weights):
    """Return the frame of a table policy with the same frequencies at all positions."""
    return pl.DataFrame({"item_id": ITEMS, "probability": np.array(weights) / sum(weights)})


def sampled_lists(n, weights, reward_of, seed=0):
    """Return a log of n lists of two of three items; reward_of(list, position) is the reward."""
    rng = np.random.default_rng(seed)
    lists = ranked_lists(weights, 2)
    chosen = rng.choice(len(lists), n, p=[np.prod(p) for p in lists.values()])
    rows = []
    for number, choice in enumerate(chosen):
        items, probabilities = list(lists.items())[choice]
        rows += [
            (f"r{number}", k + 1, ITEMS[item], probabilities[k], float(reward_of(items, k)))
            for k, item in enumerate(items)
        ]
    names = ["impression_id", "position", "item_id", "propensity", "reward"]
    return from_frame(pl.DataFrame(rows, schema=names, orient="row"))
