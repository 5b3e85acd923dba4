"""Loading, filtering and splitting written in pandas."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from common import main, write_result


def k_core_filter(log: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return the k-core: all users and items have at least k interactions."""
    while True:
        before = len(log)
        for column in ("user_id", "item_id"):
            counts = log[column].value_counts()
            log = log[log[column].isin(counts[counts >= k].index)]
        if len(log) == before:
            return log


def load(folder: Path, out: Path, k_core: int = 5) -> None:
    """Time pandas from reading the file to the split."""
    start = time.perf_counter()
    log = pd.read_csv(folder / "log.inter", sep="\t")
    log.columns = ["user_id", "item_id", "timestamp"]
    log = k_core_filter(log, k_core).copy()
    log["user_id"], users = pd.factorize(log["user_id"])
    log["item_id"], items = pd.factorize(log["item_id"])
    log = log.sort_values(["user_id", "timestamp"], ignore_index=True)
    from_end = log.groupby("user_id").cumcount(ascending=False)
    split = log[from_end > 1], log[from_end == 1], log[from_end == 0]
    seconds = time.perf_counter() - start
    assert sum(map(len, split)) == len(log)
    result = {"seconds": seconds, "users": len(users), "items": len(items), "rows": len(log)}
    write_result(out, result, "pandas")


if __name__ == "__main__":
    main({"load": load})
