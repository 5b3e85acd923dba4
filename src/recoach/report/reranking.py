"""The results of a re-ranker as a table and sentences."""

from collections.abc import Mapping
from typing import Any

from recoach.report.table_formats import ResultTable
from recoach.report.tables import format_metric, format_percent, metric_label

Record = Mapping[str, Any]
_FIRST = ("ndcg", "recall")
_LAST = ("coverage", "novelty")


def rerank_table(record: Record) -> ResultTable:
    """Return the test metrics of the model's lists and of each knob; * marks the selected one."""
    names = shown_metrics(record)
    rows = [(record["stage"], *_cells(record["base"]["test"], names))]
    for entry in record["knobs"]:
        mark = " *" if entry["knob"] == record["chosen"] and len(record["knobs"]) > 1 else ""
        rows.append((f"knob {entry['knob']:g}{mark}", *_cells(entry["test"], names)))
    note = "* selected on validation." if len(record["knobs"]) > 1 else ""
    columns = ("lists", *(metric_label(name) for name in names))
    heading = f"{record['config']['by']} over the {record['config']['depth']} best items, test"
    return ResultTable(heading, columns, rows, note)


def shown_metrics(record: Record) -> list[str]:
    """Return the names of the metrics of the table: accuracy, the objective, and some of lists."""
    k = record["k"]
    names = [f"{name}@{k}" for name in _FIRST]
    names += [record["objective"], *(f"{name}@{k}" for name in _LAST)]
    return list(dict.fromkeys(name for name in names if name in record["base"]["test"]))


def rerank_lines(record: Record) -> list[str]:
    """Return sentences about the selected knob, the limits, the latency and the theory."""
    shown = shown_metrics(record)
    lines = [
        f"{metric_label(entry['metric'])}, knob {record['chosen']:g} against the model: "
        f"{entry['difference']:+.4f} ({entry['low']:+.4f} to {entry['high']:+.4f}), "
        f"{format_percent(entry['relative'])}."
        for entry in record["comparisons"]
        if entry["metric"] in shown
    ]
    violated = [entry for entry in record["knobs"] if not entry.get("feasible", True)]
    lines += [
        f"Knob {entry['knob']:g}: the limit cannot be met by the {record['config']['depth']} best "
        f"items (violated by {100 * entry['violation']:.0f} %)."
        for entry in violated
    ]
    base, reranked = record["milliseconds"]["base"], record["milliseconds"]["reranked"]
    lines.append(
        f"One list takes {reranked:.2f} ms, {base:.2f} ms without re-ranking (median, one state at "
        "a time)."
    )
    return lines + ([record["optimum"]] if record["optimum"] else [])


def _cells(values: Mapping[str, float], names: list[str]) -> tuple[str, ...]:
    return tuple(format_metric(values[name]) for name in names)
