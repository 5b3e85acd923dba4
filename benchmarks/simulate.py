"""Simulate a log with a given number of rows: `simulate.py ROWS FILE`.

Users and items are drawn from power laws fitted to the paper's largest dataset (8 rows per user
and 35 per item after the 5-core filter); timestamps are uniform.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

CHUNK_ROWS = 10_000_000  # rows written at a time


def simulate(rows: int, target: Path, seed: int = 0) -> None:
    """Write a RecBole atomic file."""
    rng = np.random.default_rng(seed)
    counts = {"user": max(1, rows * 15 // 100), "item": max(1, rows * 3 // 100)}
    columns = {}
    for (name, count), (shift, power) in zip(counts.items(), ((50, 0.6), (20, 0.8)), strict=True):
        weight = 1 / (np.arange(count) + shift) ** power
        columns[name] = rng.choice(count, rows, p=weight / weight.sum())
    columns["time"] = rng.integers(1_500_000_000, 1_690_000_000, rows)
    with target.open("wb") as file:
        for start in range(0, rows, CHUNK_ROWS):
            chunk = {name: values[start : start + CHUNK_ROWS] for name, values in columns.items()}
            _to_atomic_columns(chunk).write_csv(file, separator="\t", include_header=start == 0)


def _to_atomic_columns(chunk: dict[str, np.ndarray]) -> pl.DataFrame:
    user, item = pl.col("user").cast(pl.String), pl.col("item").cast(pl.String)
    return pl.DataFrame(chunk).select(
        pl.format("A{}", user.str.zfill(27)).alias("user_id:token"),
        pl.format("B{}", item.str.zfill(9)).alias("item_id:token"),
        pl.col("time").alias("timestamp:float"),
    )


if __name__ == "__main__":
    simulate(int(sys.argv[1]), Path(sys.argv[2]))
