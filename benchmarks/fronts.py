"""Write the tables of docs/results/fronts.md from finished fronts and constrained fine-tunings.

`python benchmarks/fronts.py [--fronts LOG=FOLDER …] [--runs LOG=FOLDER …]`

A front is a folder of `recoach front`, a run one of `recoach finetune` with constraints. What is
read is kept in `benchmarks/fronts.json`, and later calls add to it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from recoach.evaluation.pooling import pooled_effect

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "results" / "fronts.md"
RESULTS: Final = ROOT / "benchmarks" / "fronts.json"
_START, _END = "<!-- rows: written by benchmarks/fronts.py -->", "<!-- end of rows -->"
RL, IMITATION = "fine-tuning", "imitation"
OTHERS: Final = ("best re-ranker", "all re-rankers", IMITATION)
_Z: Final = 1.959964

Record = dict[str, Any]


def main() -> None:
    """Read the folders of the command line and write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fronts", nargs="+", default=[], metavar="LOG=FOLDER")
    parser.add_argument("--runs", nargs="+", default=[], metavar="LOG=FOLDER")
    arguments = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"fronts": {}, "runs": {}}
    for entry in arguments.fronts:
        log, _, folder = entry.partition("=")
        record = json.loads(Path(folder, "front.json").read_text())
        kept["fronts"][f"{log}, {record['objective']}"] = record | {"run": Path(folder).name}
    for entry in arguments.runs:
        log, _, folder = entry.partition("=")
        record = json.loads(Path(folder, "results.json").read_text())
        kept["runs"][log] = constraint_rows(record)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(_START)
    _, _, tail = rest.partition(_END)
    tables = [*front_tables(kept["fronts"]), constraint_table(kept["runs"])]
    PAGE.write_text(f"{head}{_START}\n\n" + "\n\n".join(tables) + f"\n\n{_END}{tail}")


def front_tables(fronts: Record) -> list[str]:
    """Return a table for each objective."""
    objectives = dict.fromkeys(record["objective"] for record in fronts.values())
    return [front_table(name, fronts) for name in objectives]


def front_table(objective: str, fronts: Record) -> str:
    """Return the hypervolumes and their differences on every log, and pooled over logs."""
    found = {
        key.rpartition(", ")[0]: record
        for key, record in fronts.items()
        if record["objective"] == objective
    }
    columns = ["log", "users", "best re-ranker", IMITATION, RL]
    columns += [f"{RL} minus {other}" for other in OTHERS] + ["ms for a list"]
    lines = [f"### {objective.capitalize()}", ""]
    lines += [f"| {' | '.join(columns)} |", f"|---|{'---:|' * 8}"]
    for log, record in found.items():
        best, times = record["best_reranker"], record["milliseconds"]
        values = [record["methods"][name]["hypervolume"] for name in (best, IMITATION, RL)]
        differences = [interval(record["differences"][RL][other]) for other in OTHERS]
        cells = [f"{best}: {values[0]:.3f}", *(f"{value:.3f}" for value in values[1:])]
        seconds = f"{times[RL]:.1f}, {best} {times[best]:.1f}"
        row = [log, f"{record['users']:,}", *cells, *differences, seconds]
        lines.append(f"| {' | '.join(row)} |")
    if len(found) > 1:
        pooled = [
            pooled_text([one["differences"][RL][other] for one in found.values()])
            for other in OTHERS
        ]
        lines.append(f"| pooled | | | | | {' | '.join(pooled)} | |")
    return "\n".join(lines)


def interval(found: Record) -> str:
    """Return a difference with its interval."""
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def pooled_text(found: Sequence[Record]) -> str:
    """Return the mean difference over logs with its interval, and the range on a new log."""
    errors = [(one["high"] - one["low"]) / (2 * _Z) for one in found]
    effect = pooled_effect([one["difference"] for one in found], errors)
    low, high = effect.prediction
    new = f"; new log {low:+.3f} to {high:+.3f}" if len(found) > 2 else ""
    mean = effect.mean
    return f"{mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]{new}"


def constraint_rows(record: Record) -> list[Record]:
    """Return what the table of constraints shows of a run's results."""
    stages = record["stages"]
    metrics = {
        stage: {name: stages[stage]["test"][name] for name in ("ndcg@10", "novelty@10")}
        for stage in ("base", "tuned")
    }
    return [
        {"name": row["name"], "tuned": row["models"]["tuned"], "metrics": metrics}
        for row in record["constraints"]
    ]


def constraint_table(runs: Record) -> str:
    """Return the table of constraints on test."""
    columns = ["log", "constraint", "on test", "", "novelty@10, base", "fine-tuned"]
    lines = ["### Constraints", "", f"| {' | '.join(columns)} |", "|---|---|---:|---|---:|---:|"]
    for log, rows in runs.items():
        for row in rows:
            tuned, metrics = row["tuned"], row["metrics"]
            value = " to ".join(f"{tuned[end]:+.1%}" for end in ("low", "high"))
            novelty = [f"{metrics[stage]['novelty@10']:.2f}" for stage in ("base", "tuned")]
            cells = [log, row["name"], f"{tuned['value']:+.1%} [{value}]", tuned["status"]]
            lines.append(f"| {' | '.join([*cells, *novelty])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
