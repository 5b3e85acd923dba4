"""Compact tables for the README and the result pages, with a column per model."""

from collections.abc import Mapping
from typing import Any

from recoach.report.table_cells import find_comparison
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, format_metric, format_percent
from recoach.reproduction.labels import NAMES, variant_label

Record = Mapping[str, Any]


def summary(record: Record) -> ResultTable:
    """Return NDCG@10 of base and tuned model and the change of the control, a row per log.

    Args:
        record: the aggregated suite `gains`.
    """
    rows = []
    for log, data in record["data"].items():
        cells = [data["cells"].get(model) for model in NAMES]
        rows.append((log, *(MISSING if cell is None else _summary_cell(cell) for cell in cells)))
    return ResultTable("NDCG@10, base → fine-tuned", ("Log", *NAMES.values()), rows)


def change_by_model(record: Record, heading: str) -> list[ResultTable]:
    """Return the change of NDCG@10 against the base, a row per change of the recipe.

    Args:
        record: an aggregated suite whose cells are named MODEL or MODEL-CHANGE.
        heading: begins the heading of each log's table.
    """
    tables = []
    for log, data in record["data"].items():
        by_change: dict[str, dict[str, str]] = {}
        for name, cell in data["cells"].items():
            model, _, change = name.partition("-")
            by_change.setdefault(variant_label(name), {})[model] = _change_cell(cell, change)
        rows = [
            (label, *(row.get(model, MISSING) for model in NAMES))
            for label, row in by_change.items()
        ]
        head = ("Changed", *NAMES.values())
        tables.append(ResultTable(f"{heading}, {log}: change of NDCG@10", head, rows))
    return tables


def _summary_cell(cell: Record) -> str:
    means = {stage: cell["models"][stage]["test"]["ndcg@10"] for stage in ("base", "tuned")}
    base, tuned = means["base"]["mean"], means["tuned"]["mean"]
    deviation = f" ± {format_metric(means['tuned']['sd'])}" if len(cell["seeds"]) > 1 else ""
    control = cell["models"]["control"]["test"]["ndcg@10"]["mean"]
    return (
        f"{format_metric(base)} → {format_metric(tuned)}{deviation}: "
        f"{format_percent(tuned / base - 1)} (control {format_percent(control / base - 1)}), "
        f"{_verdict(cell)}"
    )


def _verdict(cell: Record) -> str:
    """Return "better" only if the tuned model is better than both the base and the control."""
    found = [find_comparison(cell, "tuned", other, "ndcg@10") for other in ("base", "control")]
    verdicts = {comparison["verdict"] for comparison in found if comparison is not None}
    if len(verdicts) == 1:
        return str(verdicts.pop())
    return "worse" if "worse" in verdicts else "no difference"


def _change_cell(cell: Record, change: str) -> str:
    test = {stage: cell["models"][stage]["test"]["ndcg@10"]["mean"] for stage in ("base", "tuned")}
    if change == "from-scratch":  # there the base is an untrained model
        return f"{format_metric(test['tuned'])}"
    comparison = find_comparison(cell, "tuned", "base", "ndcg@10")
    verdict = MISSING if comparison is None else comparison["verdict"]
    return f"{format_percent(test['tuned'] / test['base'] - 1)}, {verdict}"
