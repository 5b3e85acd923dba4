"""Compare the baselines with published-protocol figures on the five session sets.

`python benchmarks/session_baselines.py [--data DIR] [--sets NAME …] [--rows LABEL …]`

Every prefix of a test session is a state and its next item the target; nothing is masked; P@20 (the
hit rate) and MRR@20 are means over prefixes; ties count against the model. Finished cells are read
from `benchmarks/session_baselines.json`, so an interrupted run goes on where it stopped; the page
docs/results/session-baselines.md is written from that file.
"""

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from recoach.data.dataset import Dataset, RaggedArray, assemble
from recoach.data.queries import Queries, gather_windows
from recoach.evaluation.model_scores import model_scores
from recoach.evaluation.ranking import ranks_of_scores
from recoach.models.base import Recommender
from recoach.models.neighbours.repeat_last import RepeatLast, RepeatLastConfig
from recoach.models.registry import build_model

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "session-baselines.md"
RESULTS = ROOT / "benchmarks" / "session_baselines.json"
SETS = ("diginetica", "tmall", "retailrocket-views", "nowplaying", "yoochoose-64")
_STATES_AT_ONCE = 1024
_START, _END = "<!-- rows: written by benchmarks/session_baselines.py -->", "<!-- end of rows -->"

STAN = {"lambda_ipw": 0.0, "idf_weight": 0.0}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "S-POP": ("session_popularity", {}),
    "most recent first": ("repeat_last", {}),
    "Item-KNN (20, .5), last item": ("itemknn", {"query": "last"}),
    "SR 10 div": ("sequential_rules", {}),
    "V-SKNN 100/1000 div div": (
        "vsknn",
        {"neighbours": 100, "sample": 1000, "weighting": "div", "decay": "div", "idf_weight": 0},
    ),
    "V-SKNN 500/5000 quadratic div idf 5": ("vsknn", {}),
    "STAN 500/10000 (1.225, –, 4.9)": (
        "vstan",
        {"neighbours": 500, "sample": 10000, "lambda_spw": 1.225, "lambda_inh": 4.9} | STAN,
    ),
    "STAN 1000/5000 (3.62, –, .4525)": (
        "vstan",
        {"neighbours": 1000, "sample": 5000, "lambda_spw": 3.62, "lambda_inh": 0.4525} | STAN,
    ),
    "VSTAN 1500/5000 (4.9, –, 4.9, 1.225, 10)": ("vstan", {}),
    "VSTAN 1000/2500 (3.62, –, .4525, 3.62, 1)": ("vstan", {"preset": "short_decay"}),
}
"""Label -> model and settings."""
REFERENCE = {
    "S-POP": "21.08/13.69 45.78/22.74 38.96/26.33 7.79/4.54 31.14/18.63",
    "most recent first": "21.09/13.77 45.78/18.53 39.08/25.96 7.79/4.91 31.12/19.88",
    "Item-KNN (20, .5), last item": "37.11/11.89 9.39/3.37 28.30/10.74 15.21/4.78 53.16/22.51",
    "SR 10 div": "40.37/14.10 14.27/6.77 40.40/19.42 16.60/7.75 67.69/30.45",
    "V-SKNN 100/1000 div div": "50.62/17.96 34.49/14.83 53.31/26.02 21.92/7.06 66.65/27.37",
    "V-SKNN 500/5000 quadratic div idf 5": (
        "51.35/18.27 33.81/15.12 53.48/26.17 21.69/7.18 69.34/28.39"
    ),
    "STAN 500/10000 (1.225, –, 4.9)": "51.98/18.57 31.83/14.81 56.22/27.95 21.44/7.24 69.67/28.56",
    "STAN 1000/5000 (3.62, –, .4525)": "49.86/18.10 45.72/17.49 55.83/28.72 20.28/6.62 68.40/27.02",
    "VSTAN 1500/5000 (4.9, –, 4.9, 1.225, 10)": (
        "52.33/18.74 30.96/14.77 56.53/28.05 22.01/7.46 70.66/28.45"
    ),
    "VSTAN 1000/2500 (3.62, –, .4525, 3.62, 1)": (
        "50.50/18.45 41.56/17.41 56.22/28.96 20.35/6.82 69.40/27.45"
    ),
}
"""Label -> P@20/MRR@20 of an independent program on the same files, in the order of `SETS`."""


class SessionSet(NamedTuple):
    """Training sessions, and test prefixes with their targets."""

    dataset: Dataset
    prefixes: RaggedArray
    targets: np.ndarray


def read_set(folder: Path) -> SessionSet:
    """Read `train.txt.gz` (session item …) and `test.txt.gz` (item … target)."""
    train = [line.split()[1:] for line in _lines(folder / "train.txt.gz")]
    test = [line.split() for line in _lines(folder / "test.txt.gz")]
    item_ids = sorted({int(item) for row in train + test for item in row})
    code = {str(item): number for number, item in enumerate(item_ids)}
    parts = _ragged(train, code), _ragged([], code, len(train)), _ragged([], code, len(train))
    ids = (
        pl.Series("user_id", [str(row) for row in range(len(train))]),
        pl.Series("item_id", [str(item) for item in item_ids]),
    )
    prefixes = _ragged([row[:-1] for row in test], code)
    targets = np.array([code[row[-1]] for row in test])
    return SessionSet(assemble(folder.name, ids, parts), prefixes, targets)


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return file.read().splitlines()


def _ragged(rows: list[list[str]], code: dict[str, int], n_empty: int = 0) -> RaggedArray:
    lengths = np.array([len(row) for row in rows] + [0] * n_empty, dtype=np.int64)
    values = np.array([code[item] for row in rows for item in row], dtype=np.int32)
    return RaggedArray.from_lengths(lengths, values)


def prefix_queries(
    model: Recommender, prefixes: RaggedArray
) -> Iterator[tuple[np.ndarray, Queries]]:
    """Yield the numbers int64[b] of some prefixes and their queries, the shortest first."""
    order = np.argsort(prefixes.lengths, kind="stable")
    for start in range(0, len(order), _STATES_AT_ONCE):
        which = order[start : start + _STATES_AT_ONCE]
        stops = prefixes.offsets[which + 1]
        starts = np.maximum(prefixes.offsets[which], stops - model.history_length)
        lengths = torch.from_numpy(stops - starts)
        yield (
            which,
            Queries(
                users=torch.full((len(which),), -1),
                history=gather_windows(prefixes.values, starts, stops, model.n_items),
                lengths=lengths,
                rows=torch.arange(len(which)),
                ends=lengths,
            ),
        )


@torch.no_grad()
def ranks(model: Recommender, prefixes: RaggedArray, targets: np.ndarray) -> np.ndarray:
    """Return int64[B], the rank of the target of each prefix; nothing is masked."""
    model.eval()
    result = np.empty(len(targets), np.int64)
    for which, queries in prefix_queries(model, prefixes):
        pairs = torch.arange(len(which)), torch.from_numpy(targets[which].astype(np.int64))
        result[which] = ranks_of_scores(model_scores(model, queries), pairs).numpy()
    return result


def measure(sessions: SessionSet, label: str) -> dict[str, float]:
    """Build a model, rank all test prefixes and return P@20, MRR@20 and CPU seconds."""
    name, settings = ROWS[label]
    start = time.process_time()
    model = build_model(name, sessions.dataset, **settings)
    built = time.process_time()
    found = ranks(model, sessions.prefixes, sessions.targets)
    hits = found <= 20
    return {
        "p@20": 100 * float(hits.mean()),
        "mrr@20": 100 * float(np.where(hits, 1 / found, 0).mean()),
        "build_cpu_seconds": built - start,
        "rank_cpu_seconds": time.process_time() - built,
    }


def repeats_by_event(path: Path) -> dict[str, dict[str, float]]:
    """Return metrics of repeat-last by event type, on a log of views, carts and purchases.

    As in the protocol of SQN: no purchases, then items with more than two events, then users with
    more than two. Every event but a user's first is a target; the list holds the distinct items of
    the ten events before it, the most recent first, and nothing else.
    """
    log = pl.read_csv(path).sort("user_id", "timestamp", maintain_order=True)
    log = log.filter(pl.col("event_type") != "buy")
    log = log.filter(pl.len().over("item_id") > 2).filter(pl.len().over("user_id") > 2)
    items = log["item_id"].rank("dense").to_numpy().astype(np.int32) - 1
    starts = log["user_id"].rank("min").to_numpy().astype(np.int64) - 1
    states = np.flatnonzero(np.arange(len(log)) > starts)
    prefixes = [items[max(starts[state], state - 10) : state] for state in states]
    lengths = np.array([len(prefix) for prefix in prefixes])
    rows = RaggedArray.from_lengths(lengths, np.concatenate(prefixes))
    model = RepeatLast(RepeatLastConfig(), rows, int(items.max()) + 1)
    found = ranks(model, rows, items[states])
    repeated = [item in prefix for item, prefix in zip(items[states], prefixes, strict=True)]
    rank = np.where(repeated, found, np.inf)
    kinds = log["event_type"].to_numpy()[states]
    return {kind: _event_metrics(rank[kinds == kind]) for kind in ("view", "cart")}


def _event_metrics(rank: np.ndarray) -> dict[str, float]:
    gains = 1 / np.log2(1 + rank)
    return {
        "events": len(rank),
        "hit@1": float((rank <= 1).mean()),
        "hit@5": float((rank <= 5).mean()),
        "ndcg@5": float(np.where(rank <= 5, gains, 0).mean()),
        "ndcg@10": float(np.where(rank <= 10, gains, 0).mean()),
    }


def tables(results: dict[str, Any]) -> str:
    """Return the tables of the page in Markdown; a cell that is not measured has a dash."""
    text = "| P@20 / MRR@20 | " + " | ".join(SETS) + " |\n|---|" + "---:|" * len(SETS) + "\n"
    for label in ROWS:
        cells = [_cell(results, name, label) for name in SETS]
        text += f"| {label} | " + " | ".join(cells) + " |\n"
    text += "\n| CPU seconds | " + " | ".join(SETS) + " |\n|---|" + "---:|" * len(SETS) + "\n"
    for label in ROWS:
        cells = [results.get(name, {}).get(label) for name in SETS]
        parts = [_seconds(cell) for cell in cells]
        text += f"| {label} | " + " | ".join(parts) + " |\n"
    text += (
        "\n| target | events | hit@1 | hit@5 | NDCG@5 | NDCG@10 |\n|---|---:|---:|---:|---:|---:|\n"
    )
    for kind, row in results.get("events", {}).items():
        values = " | ".join(f"{value:.3f}" for name, value in row.items() if name != "events")
        text += f"| {kind} | {row['events']:,} | {values} |\n"
    return text


def _cell(results: dict[str, Any], name: str, label: str) -> str:
    cell = results.get(name, {}).get(label)
    if cell is None:
        return "–"
    reference = [float(part) for part in REFERENCE[label].split()[SETS.index(name)].split("/")]
    values = cell["p@20"], cell["mrr@20"]
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    return f"{values[0]:.2f} / {values[1]:.2f} ({differences[0]:+.2f} / {differences[1]:+.2f})"


def _seconds(cell: dict[str, float] | None) -> str:
    if cell is None or "rank_cpu_seconds" not in cell:
        return "–"
    return f"{cell['build_cpu_seconds'] + cell['rank_cpu_seconds']:.0f}"


def write_page(results: dict[str, Any]) -> None:
    """Replace the tables of the page."""
    text = PAGE.read_text()
    before, after = text.split(_START)[0], text.split(_END)[1]
    PAGE.write_text(f"{before}{_START}\n\n{tables(results)}\n{_END}{after}")


def main() -> None:
    """Measure the cells that are missing, then write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.sets:
        cells = results.setdefault(name, {})
        missing = [label for label in args.rows if args.again or label not in cells]
        sessions = read_set(args.data / name) if missing else None
        for label in missing:
            cells[label] = measure(sessions, label)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(name, label, _cell(results, name, label), flush=True)
    if args.again or "events" not in results:
        (log,) = (args.data / "retailrocket-events").glob("*.csv.gz")
        results["events"] = repeats_by_event(log)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_page(results)


if __name__ == "__main__":
    main()
