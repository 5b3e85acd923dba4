"""Measure recall and speed of the approximate index: `python benchmarks/approximate.py [ITEMS]`.

Item vectors form clusters, as those of trained models do; each state vector is close to an item.
"""

import sys
import time

import numpy as np

from recoach.serving.index import build_index

DIM, CLUSTERS, QUERIES, K = 64, 20_000, 256, 10


def clustered(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32[count, DIM] vectors around CLUSTERS centres."""
    centres = rng.standard_normal((CLUSTERS, DIM), dtype=np.float32)
    noise = rng.standard_normal((count, DIM), dtype=np.float32)
    return centres[rng.integers(CLUSTERS, size=count)] + 0.5 * noise


def main(count: int) -> None:
    """Build the index, search it for 256 states, rank all items exactly, and print both."""
    rng = np.random.default_rng(0)
    items = clustered(count, rng)
    states = items[rng.integers(count, size=QUERIES)]
    states = states + 0.5 * rng.standard_normal(states.shape, dtype=np.float32)
    start = time.perf_counter()
    index = build_index(items, exact_up_to=0)
    build_seconds = time.perf_counter() - start
    start = time.perf_counter()
    approximate = index.search(states, K)[1]
    approximate_seconds = (time.perf_counter() - start) / QUERIES
    start = time.perf_counter()
    exact = [np.argpartition(-(items @ state), K)[:K] for state in states]
    exact_seconds = (time.perf_counter() - start) / QUERIES
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(approximate, exact, strict=True)])
    print(f"{count:,} items: built in {build_seconds:.0f} s, recall@{K} {recall:.1%}")
    print(f"per list: index {1e3 * approximate_seconds:.1f} ms, exact {1e3 * exact_seconds:.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_100_000)
