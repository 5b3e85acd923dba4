"""One cell of a joined suite in words and figures."""

from collections.abc import Mapping
from typing import Any

from recoach.report.tables import MISSING, format_metric, format_percent

Record = Mapping[str, Any]


def metric_cell(cell: Record, stage: str, metric: str, *, change: bool = True) -> str:
    """Return a test figure, with the deviation over seeds and the change against the base."""
    there = cell["models"].get(stage)
    if there is None:
        return MISSING
    found = there["test"][metric]
    text = format_metric(found["mean"])
    if len(cell["seeds"]) > 1:
        text += f" ± {format_metric(found['sd'])}"
    if stage == "base" or not change:
        return text
    before = cell["models"]["base"]["test"][metric]["mean"]
    return f"{text} ({format_percent(found['mean'] / before - 1)})" if before else text


def find_comparison(cell: Record, stage: str, other: str, metric: str) -> Record | None:
    """Return the paired comparison of two models over users, if it was made."""
    for found in cell["comparisons"]:
        if (found["a"], found["b"], found["metric"]) == (stage, other, metric):
            record: Record = found
            return record
    return None


def comparison_cell(cell: Record, stage: str, other: str, metric: str = "ndcg@10") -> str:
    """Return the paired comparison in words, with its interval in per cent."""
    found = find_comparison(cell, stage, other, metric)
    if found is None:
        return MISSING
    base = cell["models"][other]["test"][metric]["mean"]
    if not base:
        return str(found["verdict"])
    low, high = (format_percent(found[end] / base) for end in ("low", "high"))
    over_seeds = ""
    if "seeds" in found:
        over_seeds = "; seeds {} to {}".format(
            *(format_percent(end / base) for end in found["seeds"])
        )
    return f"{found['verdict']} ({low} to {high}{over_seeds})"


def interval_note(cells: Mapping[str, Record]) -> str:
    """Say what the intervals of several seeds' cells are."""
    if all(len(cell["seeds"]) == 1 for cell in cells.values()):
        return "paired bootstrap over users"
    if all(cell["users_averaged"] for cell in cells.values()):
        return "paired bootstrap over users of each user's mean over the seeds"
    return "paired bootstrap over users, the ends of each seed's interval averaged"
