"""Count what every split and target tests on a log, with Recoach and with pandas, and compare.

    python benchmarks/split_counts.py LOG [--k-core 5] [--column user_id=NAME ...] [--json FILE]

The counts of pandas are made here, event by event, without the package's splits and targets. The
exit code is 1 if any of the counts differ.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recoach.data.dataset import Dataset, merge_valid
from recoach.data.filters import k_core
from recoach.data.ingest import read_interactions
from recoach.data.interactions import Interactions
from recoach.data.protocol import ByRatio, ByTime, LeaveLastOut
from recoach.data.split import leaked_share, split_log
from recoach.data.targets import targets_of
from recoach.errors import DataError

SPLITS = {
    "leave last out": LeaveLastOut(),
    "leave last out, ties group": LeaveLastOut(ties="group"),
    "leave last 3 out, all": LeaveLastOut(test_items=3),
    "leave last 3 out, successive": LeaveLastOut(test_items=3, target="successive"),
    **{
        f"time, {target}": ByTime(target=target)
        for target in ("last", "first", "successive", "all")
    },
    **{
        f"time, {target}, ties group": ByTime(target=target, ties="group")
        for target in ("last", "first", "successive", "all")
    },
    "time, random": ByTime(target="random", min_history=0),
    "time, random, ties group": ByTime(target="random", ties="group", min_history=0),
    "time, last, cold drop": ByTime(cold="drop"),
    "time, all, cold drop": ByTime(target="all", cold="drop"),
    "time, last, cold users drop": ByTime(cold_users="drop"),
    "time, last, history 3": ByTime(min_history=3),
    "time, last, history 0": ByTime(min_history=0),
    "time, last, at .8": ByTime(at=0.8),
    "time, last, valid users": ByTime(valid="users"),
    "time, last, valid last": ByTime(valid="last"),
    "time, all, valid last": ByTime(target="all", valid="last"),
    "ratio, all": ByRatio(),
    "ratio, successive": ByRatio(target="successive"),
    "ratio, last, ties group": ByRatio(target="last", ties="group"),
}
REPEATS = ("new", "all", "repeat")


# --- Recoach --------------------------------------------------------------------------------------


def times_only(path: Path, columns: dict[str, str], k: int) -> Interactions:
    """Return users, items and times of a log, after an iterated k-core."""
    log = read_interactions(path, columns=columns)
    log = replace(log, columns={"timestamp": log.columns["timestamp"]})
    return k_core(log, k) if k else log


def counts_of_recoach(log: Interactions, split: LeaveLastOut | ByTime | ByRatio) -> dict:
    dataset = split_log(log, split)
    counts = {
        name: len(part.values)
        for name, part in (
            ("train rows", dataset.train),
            ("valid rows", dataset.valid),
            ("test rows", dataset.test),
        )
    }
    counts["users with valid rows"] = int((dataset.valid.lengths > 0).sum())
    in_test = dataset.test.lengths > 0
    counts["users with test rows"] = int(in_test.sum())
    counts["of them without train rows"] = int((in_test & (dataset.train.lengths == 0)).sum())
    earlier = dataset.train.lengths + dataset.valid.lengths
    counts["of them without earlier rows"] = int((in_test & (earlier == 0)).sum())
    counts["leaked"] = round(1e6 * leaked_share(dataset))
    counts["cold test rows"] = cold_rows(dataset)
    counts["cold test rows after retraining"] = cold_rows(merge_valid(dataset))
    for part in ("valid", "test"):
        for repeats in REPEATS:
            try:
                targets = targets_of(dataset, part, repeats)
            except DataError:
                counts[f"{part} {repeats}"] = "no target"
                continue
            counts[f"{part} {repeats}"] = {
                "users": len(np.unique(targets.users)),
                "states": len(targets.users),
                "targets": len(targets.positions),
                "repeated": int(targets.repeated.sum()),
                "cold": int(targets.cold.sum()),
                "history": int(targets.ends.sum()),
                "items": len(np.unique(targets.items)),
            }
    return counts


def cold_rows(dataset: Dataset) -> int:
    return int((~np.isin(dataset.test.values, dataset.train.values)).sum())


# --- pandas ---------------------------------------------------------------------------------------


def frame_of(path: Path, columns: dict[str, str], k: int) -> pd.DataFrame:
    """Return user, item and time of a CSV file in seconds or ms, after an iterated k-core."""
    names = {columns.get(name, name): name for name in ("user_id", "item_id", "timestamp")}
    known = {"userId": "user_id", "movieId": "item_id"} | names
    rows = pd.read_csv(path).rename(columns=known)[["user_id", "item_id", "timestamp"]]
    while k:
        users = rows.groupby("user_id")["item_id"].transform("size")
        items = rows.groupby("item_id")["user_id"].transform("size")
        keep = (users >= k) & (items >= k)
        if keep.all():
            break
        rows = rows[keep]
    rows = rows.reset_index(drop=True)
    rows["file_row"] = rows.index
    rows = rows.sort_values(["user_id", "timestamp", "file_row"]).reset_index(drop=True)
    rows["place"] = rows.groupby("user_id").cumcount()
    rows["events"] = rows.groupby("user_id")["place"].transform("size")
    return rows


def parts_of(rows: pd.DataFrame, split: LeaveLastOut | ByTime | ByRatio) -> pd.Series:
    """Return the part of each row: train, valid or test."""
    parts = pd.Series("train", index=rows.index)
    from_end = rows["events"] - rows["place"]  # 1 for the last event
    if isinstance(split, LeaveLastOut):
        n_test = (rows["events"] - 2).clip(upper=split.test_items)
        n_test = n_test.mask(rows["events"] == 2, 1).mask(rows["events"] == 1, 0)
        parts[from_end <= n_test] = "test"
        parts[(from_end == n_test + 1) & (rows["events"] >= 3)] = "valid"
    elif isinstance(split, ByRatio):
        n_test = (rows["events"] * round(100 * split.test_ratio)) // 100
        n_valid = (rows["events"] * round(100 * split.valid_ratio)) // 100
        parts[from_end <= n_test + n_valid] = "valid"
        parts[from_end <= n_test] = "test"
    else:
        moment = rows["timestamp"].quantile(split.at)
        parts[rows["timestamp"] > moment] = "test"
        before = rows[parts == "train"]
        if split.valid == "time":
            later = before["timestamp"] > before["timestamp"].quantile(split.valid_at)
            parts[before.index[later]] = "valid"
        elif split.valid == "users":
            known = before["user_id"].drop_duplicates()
            drawn = known.sample(min(split.valid_users, len(known) // 2), random_state=1)
            parts[before.index[before["user_id"].isin(drawn)]] = "valid"
        else:
            last = before.groupby("user_id").tail(1)
            has_two = before.groupby("user_id")["place"].transform("size")[last.index] >= 2
            parts[last.index[has_two]] = "valid"
    return parts


def counts_of_pandas(rows: pd.DataFrame, split: LeaveLastOut | ByTime | ByRatio) -> dict:
    rows = rows.assign(part=parts_of(rows, split))
    sizes = rows["part"].value_counts()
    counts = {f"{part} rows": int(sizes.get(part, 0)) for part in ("train", "valid", "test")}
    train_users = set(rows["user_id"][rows["part"] == "train"])
    earlier_users = set(rows["user_id"][rows["part"] != "test"])
    test_users = set(rows["user_id"][rows["part"] == "test"])
    counts["users with valid rows"] = int(rows["user_id"][rows["part"] == "valid"].nunique())
    counts["users with test rows"] = len(test_users)
    counts["of them without train rows"] = len(test_users - train_users)
    counts["of them without earlier rows"] = len(test_users - earlier_users)
    test = rows[rows["part"] == "test"]
    leaked = (test["timestamp"] <= rows["timestamp"].quantile(0.9)).mean()
    counts["leaked"] = round(1e6 * leaked)
    train_items = set(rows["item_id"][rows["part"] == "train"])
    earlier_items = set(rows["item_id"][rows["part"] != "test"])
    counts["cold test rows"] = int((~test["item_id"].isin(train_items)).sum())
    counts["cold test rows after retraining"] = int((~test["item_id"].isin(earlier_items)).sum())
    for part in ("valid", "test"):
        past = rows[rows["part"] != "test"] if part == "valid" else rows
        targets = candidates(past, part, split)
        cold = ~targets["item_id"].isin(train_items)
        targets = targets.assign(cold=cold, repeated=repeated(past, targets))
        targets = targets[targets["end"] >= split.min_history]
        if split.cold_users == "drop":
            targets = targets[targets["user_id"].isin(train_users)]
        if split.cold == "drop":
            targets = targets[~targets["cold"]]
        for repeats in REPEATS:
            kept = {
                "all": targets,
                "new": targets[~targets["repeated"]],
                "repeat": targets[targets["repeated"]],
            }[repeats]
            counts[f"{part} {repeats}"] = summary(kept) if len(kept) else "no target"
    return counts


def candidates(
    past: pd.DataFrame, part: str, split: LeaveLastOut | ByTime | ByRatio
) -> pd.DataFrame:
    """Return the target events with "end", the length of the history of their state."""
    tie = past.groupby(["user_id", "timestamp"])["place"].transform("min")
    step = tie if split.ties == "group" else past["place"]
    held_out = past.assign(step=step)[past["part"] == part]
    by_user = held_out.groupby("user_id")["step"]
    if split.target == "all":
        held_out = held_out.assign(end=by_user.transform("min"))
    elif split.target == "random":
        drawn = held_out.drop_duplicates(["user_id", "step"]).groupby("user_id").sample(1)
        held_out = held_out.merge(drawn[["user_id", "step"]])
        held_out = held_out.assign(end=held_out["step"])
    else:
        if split.target in ("first", "last"):
            chosen = by_user.transform("min" if split.target == "first" else "max")
            held_out = held_out[held_out["step"] == chosen]
        held_out = held_out.assign(end=held_out["step"])
    return held_out.drop_duplicates(["user_id", "end", "item_id"])


def repeated(past: pd.DataFrame, targets: pd.DataFrame) -> pd.Series:
    """Return whether the item of each target is among the first "end" events of its user."""
    first = past.groupby(["user_id", "item_id"])["place"].min().rename("first").reset_index()
    return targets.merge(first, how="left")["first"].to_numpy() < targets["end"]


def summary(targets: pd.DataFrame) -> dict[str, int]:
    states = targets.drop_duplicates(["user_id", "end"])
    return {
        "users": int(targets["user_id"].nunique()),
        "states": len(states),
        "targets": len(targets),
        "repeated": int(targets["repeated"].sum()),
        "cold": int(targets["cold"].sum()),
        "history": int(states["end"].sum()),
        "items": int(targets["item_id"].nunique()),
    }


# --- comparison -----------------------------------------------------------------------------------


def compare(log: Interactions, rows: pd.DataFrame) -> dict[str, dict]:
    """Return {split: {"recoach", "pandas": counts, "equal": bool}}."""
    result = {}
    for name, split in SPLITS.items():
        ours, theirs = counts_of_recoach(log, split), counts_of_pandas(rows, split)
        comparable = [fixed(counts, split) for counts in (ours, theirs)]
        result[name] = {
            "recoach": ours,
            "pandas": theirs,
            "equal": comparable[0] == comparable[1],
        }
    return result


def fixed(counts: dict, split: LeaveLastOut | ByTime | ByRatio) -> dict:
    """Return the counts that do not depend on what a split draws at random."""
    if isinstance(split, ByTime) and split.valid == "users":
        return {
            name: counts[name]
            for name in ("test rows", "users with test rows", "users with valid rows", "leaked")
        }
    if split.target != "random":
        return counts
    plain = {name: value for name, value in counts.items() if name.split()[-1] not in REPEATS}
    return plain | {part: counts[f"{part} all"]["users"] for part in ("valid", "test")}


def ties_share(rows: pd.DataFrame) -> float:
    """Return the share of rows that share user and time with another row."""
    return float(rows.duplicated(["user_id", "timestamp"], keep=False).mean())


def show(name: str, entry: dict) -> None:
    print(f"{name}: {'equal' if entry['equal'] else 'DIFFERENT'}")
    for key, value in entry["pandas"].items():
        ours = entry["recoach"][key]
        mark = "" if ours == value else f"   recoach: {ours}"
        print(f"    {key}: {value}{mark}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--k-core", type=int, default=0)
    parser.add_argument("--column", nargs="*", default=[], metavar="NAME=COLUMN")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    columns = dict(entry.split("=", 1) for entry in options.column)
    log = times_only(options.log, columns, options.k_core)
    rows = frame_of(options.log, columns, options.k_core)
    print(f"{log.n_users:,} users, {log.n_items:,} items, {len(log):,} rows")
    print(f"{ties_share(rows):.4f} of the rows share user and time")
    result = compare(log, rows)
    for name, entry in result.items():
        show(name, entry)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(entry["equal"] for entry in result.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
