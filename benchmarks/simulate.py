"""Simulate a log of a given number of rows: `simulate.py ROWS FILE`.

Users and items are drawn from power laws of the shape of the paper's largest set (8 rows a user,
35 an item after its 5-core), with random times.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl


def simulate(rows: int, target: Path, seed: int = 0) -> None:
    """Write a RecBole atomic file."""
    random = np.random.default_rng(seed)
    counts = {"user": max(1, rows * 15 // 100), "item": max(1, rows * 3 // 100)}
    drawn = {}
    for (name, count), (shift, power) in zip(counts.items(), ((50, 0.6), (20, 0.8)), strict=True):
        weight = 1 / (np.arange(count) + shift) ** power
        drawn[name] = random.choice(count, rows, p=weight / weight.sum())
    frame = pl.DataFrame(
        {
            "user_id:token": drawn["user"],
            "item_id:token": drawn["item"],
            "timestamp:float": random.integers(1_500_000_000, 1_690_000_000, rows),
        }
    )
    frame = frame.with_columns(
        pl.format("A{}", pl.col("user_id:token").cast(pl.String).str.zfill(27)).alias(
            "user_id:token"
        ),
        pl.format("B{}", pl.col("item_id:token").cast(pl.String).str.zfill(9)).alias(
            "item_id:token"
        ),
    )
    frame.write_csv(target, separator="\t")


if __name__ == "__main__":
    simulate(int(sys.argv[1]), Path(sys.argv[2]))
