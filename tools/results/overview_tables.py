"""Tables of the README and the result pages over several logs and suites."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from recoach.report.table_cells import find_comparison
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, format_metric, format_percent, metric_label
from recoach.reproduction.gains_tables import COLUMNS, compared_values
from recoach.reproduction.labels import NAMES, cell_label, variant_label
from recoach.reproduction.paper_cells import BACKBONES
from recoach.reproduction.published_tables import ratio_cells

Record = Mapping[str, Any]

_BACKBONE_NAMES: Final = [NAMES[model] for model in BACKBONES]

_BEST_PUBLISHED: Final = {
    "beauty-2014": (
        "BSARec (Shin et al. 2024)",
        {"recall@5": 0.0736, "recall@10": 0.1008, "ndcg@5": 0.0523, "ndcg@10": 0.0611},
    ),
    "toys-2014": ("BSARec (Shin et al. 2024)", {"recall@5": 0.0805}),
}
"""The best published test metrics we know of for the same files and split, seen items masked."""


def overview(record: Record, earlier: Record) -> ResultTable:
    """Return one table with the NDCG@10 of all logs.

    Args:
        record: the suite `gains`.
        earlier: the suite `future`, for models of logs that `gains` has no runs of.
    """
    rows: list[tuple[str, ...]] = []
    nothing: Record = {"cells": {}}
    for log in earlier["data"] | record["data"]:
        cells = record["data"].get(log, nothing)["cells"]
        fallback = {
            name: cell
            for name, cell in earlier["data"].get(log, nothing)["cells"].items()
            if name.split("-")[0] not in cells
        }
        for name, cell in (cells | fallback).items():
            values, comparisons = compared_values(cell, "ndcg@10")
            rows.append((log, cell_label(name), *values, *comparisons))
    return ResultTable("NDCG@10 on the test items", ("Log", "Model", *COLUMNS[2:]), rows)


def best_published(records: Iterable[Record]) -> list[ResultTable]:
    """Return the best fine-tuned model of each log beside the best published result.

    Args:
        records: aggregated records; a cell of a later one replaces one of the same name.
    """
    suites = [record["data"] for record in records]
    rows: list[tuple[str, ...]] = []
    for log, (source, published) in _BEST_PUBLISHED.items():
        cells = {n: c for data in suites if log in data for n, c in data[log]["cells"].items()}
        for metric, reference in published.items():
            tuned = {n: c["models"]["tuned"]["test"][metric]["mean"] for n, c in cells.items()}
            best = max(tuned, key=tuned.__getitem__, default=None)
            figures = ratio_cells(reference, None if best is None else tuned[best])
            model = MISSING if best is None else cell_label(best)
            rows.append((f"{log}: {source}, {metric_label(metric)}", *figures, model))
    head = ("Published result", "published", "ours, best", "ours / published", "our best model")
    return [ResultTable("Fine-tuned models compared with published results", head, rows)]


def summary(record: Record) -> ResultTable:
    """Return NDCG@10 of base and tuned model and the change of the control, a row per log.

    Args:
        record: the aggregated suite `gains`.
    """
    rows = []
    for log, data in record["data"].items():
        cells = [data["cells"].get(model) for model in BACKBONES]
        rows.append((log, *(MISSING if cell is None else _summary_cell(cell) for cell in cells)))
    return ResultTable("NDCG@10, base → fine-tuned", ("Log", *_BACKBONE_NAMES), rows)


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
            (label, *(row.get(model, MISSING) for model in BACKBONES))
            for label, row in by_change.items()
        ]
        head = ("Changed", *_BACKBONE_NAMES)
        note = _bases_note(data["cells"])
        tables.append(ResultTable(f"{heading}, {log}: change of NDCG@10", head, rows, note))
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
    seeds = f" ({len(cell['seeds'])} seeds)" if len(cell["seeds"]) > 1 else ""
    return f"{format_percent(test['tuned'] / test['base'] - 1)}, {verdict}{seeds}"


def _bases_note(cells: Mapping[str, Record]) -> str:
    """Return which base each change is measured against, where they differ between rows."""
    by_model: dict[str, dict[str, list[str]]] = {}
    for name, cell in cells.items():
        if not name.endswith("-from-scratch"):  # there the base is an untrained model
            base = format_metric(cell["models"]["base"]["test"]["ndcg@10"]["mean"])
            rows = by_model.setdefault(name.partition("-")[0], {}).setdefault(base, [])
            rows.append(variant_label(name))
    texts = []
    for model, by_base in by_model.items():
        most = max(by_base, key=lambda base: len(by_base[base]))
        bases = [
            base if len(by_base) == 1 else f"{base} ({'the others' if base == most else labels})"
            for base, labels in ((base, "; ".join(rows)) for base, rows in by_base.items())
        ]
        texts.append(f"{NAMES[model]} {', '.join(bases)}")
    return (
        "A cell without a number of seeds has one, 2020. A change is relative to the base of the "
        f"same seeds, whose NDCG@10 is: {'. '.join(texts)}."
    )
