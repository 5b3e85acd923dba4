"""Cells of the tables of a suite, whose runs are aggregated over seeds."""

from collections.abc import Mapping
from typing import Any

from recoach.report.tables import MISSING, format_metric, format_percent

Record = Mapping[str, Any]


def metric_cell(cell: Record, stage: str, metric: str, *, change: bool = True) -> str:
    """Return a test metric: mean ± standard deviation over seeds (change against the base).

    The deviation is left out for a single seed, the change for the base or with `change=False`.
    """
    model = cell["models"].get(stage)
    if model is None:
        return MISSING
    measured = model["test"][metric]
    text = format_metric(measured["mean"])
    if len(cell["seeds"]) > 1:
        text += f" ± {format_metric(measured['sd'])}"
    if stage == "base" or not change:
        return text
    base = cell["models"]["base"]["test"][metric]["mean"]
    return f"{text} ({format_percent(measured['mean'] / base - 1)})" if base else text


def find_comparison(cell: Record, stage: str, other: str, metric: str) -> Record | None:
    """Return the paired comparison of two models over users, or None if it was not recorded."""
    for entry in cell["comparisons"]:
        if (entry["a"], entry["b"], entry["metric"]) == (stage, other, metric):
            result: Record = entry
            return result
    return None


def comparison_cell(cell: Record, stage: str, other: str, metric: str = "ndcg@10") -> str:
    """Return the result of the paired comparison and its 95 % interval in per cent."""
    entry = find_comparison(cell, stage, other, metric)
    if entry is None:
        return MISSING
    base = cell["models"][other]["test"][metric]["mean"]
    return verdict_cell(entry, base) if base else str(entry["verdict"])


def verdict_cell(entry: Record, base: float) -> str:
    """Return a verdict and its 95 % intervals over users and, if there is one, over seeds."""
    low, high = (format_percent(entry[end] / base) for end in ("low", "high"))
    text = f"{low} to {high}"
    if "seeds" in entry:
        low, high = (format_percent(end / base) for end in entry["seeds"])
        text += f"; seeds {low} to {high}"
    return f"{entry['verdict']} ({text})"


def interval_note(cells: Mapping[str, Record]) -> str:
    """Return how the intervals of the cells were computed, for the note of a table."""
    if all(len(cell["seeds"]) == 1 for cell in cells.values()):
        return "paired bootstrap over users"
    if all(cell["users_averaged"] for cell in cells.values()):
        return "paired bootstrap over users of each user's mean over the seeds"
    return "paired bootstrap over users, the ends of each seed's interval averaged"
