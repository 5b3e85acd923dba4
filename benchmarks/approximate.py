"""How much an approximate index finds, and how fast: `python benchmarks/approximate.py [ITEMS]`.

Items stand in clusters, as trained ones do; states stand beside items.
"""

import sys
import time

import numpy as np

from recoach.serving.index import build_index

DIM, CLUSTERS, QUERIES, K = 64, 20_000, 256, 10


def clustered(count: int, random: np.random.Generator) -> np.ndarray:
    """Return float32[count, DIM] vectors around CLUSTERS centres."""
    centres = random.standard_normal((CLUSTERS, DIM), dtype=np.float32)
    noise = random.standard_normal((count, DIM), dtype=np.float32)
    return centres[random.integers(CLUSTERS, size=count)] + 0.5 * noise


def main(count: int) -> None:
    """Build the index, look 256 states up in it and in all items, and print what was found."""
    random = np.random.default_rng(0)
    items = clustered(count, random)
    states = items[random.integers(count, size=QUERIES)]
    states = states + 0.5 * random.standard_normal(states.shape, dtype=np.float32)
    start = time.perf_counter()
    index = build_index(items, exact_up_to=0)
    built = time.perf_counter() - start
    start = time.perf_counter()
    found = index.search(states, K)[1]
    looked_up = (time.perf_counter() - start) / QUERIES
    start = time.perf_counter()
    best = [np.argpartition(-(items @ state), K)[:K] for state in states]
    exact = (time.perf_counter() - start) / QUERIES
    share = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, best, strict=True)])
    print(f"{count:,} items: built in {built:.0f} s; of the {K} best {share:.1%} found")
    print(f"a list: {1e3 * looked_up:.1f} ms by the index, {1e3 * exact:.1f} ms among all items")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_100_000)
