"""Simulate a log of a known policy and another policy: `simulate_bandit.py ROWS FILE`.

Visitors of ten groups see one of twenty items each and click or not. FILE is written in numpy's
format: `group`, `item`, `reward`, `propensity` (one value a row) and `policy`, the probability of
each item for each group under the policy that is to be evaluated.
"""

import sys
from pathlib import Path

import numpy as np

N_GROUPS, N_ITEMS = 10, 20


def simulate(rows: int, target: Path, seed: int = 0) -> None:
    """Write the log."""
    rng = np.random.default_rng(seed)
    appeal = rng.normal(size=(N_GROUPS, N_ITEMS))
    logging, policy = _softmax(0.5 * appeal), _softmax(appeal)
    clicks = 0.2 / (1 + np.exp(-appeal))
    group = rng.integers(N_GROUPS, size=rows)
    drawn = (logging.cumsum(axis=1)[group] < rng.random((rows, 1))).sum(axis=1)
    item = np.minimum(drawn, N_ITEMS - 1)  # a sum of probabilities may be slightly below 1
    np.savez(
        target,
        group=group,
        item=item,
        reward=(rng.random(rows) < clicks[group, item]).astype(np.float64),
        propensity=logging[group, item],
        policy=policy,
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    simulate(int(sys.argv[1]), Path(sys.argv[2]))
