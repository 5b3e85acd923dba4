"""One cell of a joined suite in words and figures."""

from collections.abc import Mapping
from typing import Any

from recoach.report.tables import MISSING, number, percent

Record = Mapping[str, Any]


def measured(cell: Record, stage: str, metric: str, *, change: bool = True) -> str:
    """Return a test figure, with the deviation over seeds and the change against the base."""
    there = cell["models"].get(stage)
    if there is None:
        return MISSING
    found = there["test"][metric]
    text = number(found["mean"])
    if len(cell["seeds"]) > 1:
        text += f" ± {number(found['sd'])}"
    if stage == "base" or not change:
        return text
    before = cell["models"]["base"]["test"][metric]["mean"]
    return f"{text} ({percent(found['mean'] / before - 1)})" if before else text


def comparison(cell: Record, stage: str, other: str, metric: str) -> Record | None:
    """Return the paired comparison of two models over users, if it was made."""
    for found in cell["comparisons"]:
        if (found["a"], found["b"], found["metric"]) == (stage, other, metric):
            record: Record = found
            return record
    return None


def verdict(cell: Record, stage: str, other: str, metric: str = "ndcg@10") -> str:
    """Return the paired comparison in words, with its interval in per cent."""
    found = comparison(cell, stage, other, metric)
    if found is None:
        return MISSING
    base = cell["models"][other]["test"][metric]["mean"]
    if not base:
        return str(found["verdict"])
    low, high = (percent(found[end] / base) for end in ("low", "high"))
    over_seeds = ""
    if "seeds" in found:
        over_seeds = "; seeds {} to {}".format(*(percent(end / base) for end in found["seeds"]))
    return f"{found['verdict']} ({low} to {high}{over_seeds})"


def intervals(cells: Mapping[str, Record]) -> str:
    """Say what the intervals of several seeds' cells are."""
    if all(len(cell["seeds"]) == 1 for cell in cells.values()):
        return "paired bootstrap over users"
    if all(cell["users_averaged"] for cell in cells.values()):
        return "paired bootstrap over users of each user's mean over the seeds"
    return "paired bootstrap over users, the ends of each seed's interval averaged"
