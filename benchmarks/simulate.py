"""Simulate a log of a given number of rows: `simulate.py ROWS FILE`.

Users and items are drawn from power laws of the shape of the paper's largest set (8 rows a user,
35 an item after its 5-core), with random times.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

PART = 10_000_000  # rows turned into text at once


def simulate(rows: int, target: Path, seed: int = 0) -> None:
    """Write a RecBole atomic file."""
    random = np.random.default_rng(seed)
    counts = {"user": max(1, rows * 15 // 100), "item": max(1, rows * 3 // 100)}
    drawn = {}
    for (name, count), (shift, power) in zip(counts.items(), ((50, 0.6), (20, 0.8)), strict=True):
        weight = 1 / (np.arange(count) + shift) ** power
        drawn[name] = random.choice(count, rows, p=weight / weight.sum())
    drawn["time"] = random.integers(1_500_000_000, 1_690_000_000, rows)
    with target.open("wb") as file:
        for start in range(0, rows, PART):
            part = {name: values[start : start + PART] for name, values in drawn.items()}
            _atomic(part).write_csv(file, separator="\t", include_header=start == 0)


def _atomic(part: dict[str, np.ndarray]) -> pl.DataFrame:
    user, item = pl.col("user").cast(pl.String), pl.col("item").cast(pl.String)
    return pl.DataFrame(part).select(
        pl.format("A{}", user.str.zfill(27)).alias("user_id:token"),
        pl.format("B{}", item.str.zfill(9)).alias("item_id:token"),
        pl.col("time").alias("timestamp:float"),
    )


if __name__ == "__main__":
    simulate(int(sys.argv[1]), Path(sys.argv[2]))
