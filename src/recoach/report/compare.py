"""A table that compares the models of several runs on the same data and protocol."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from recoach.errors import RunError
from recoach.report.table_formats import ResultTable
from recoach.report.tables import (
    MODELS,
    describe_masking,
    find_comparison,
    format_metric,
    format_percent,
    metric_label,
)

Results = Mapping[str, Any]

_PROTOCOL_KEYS: Final = ("split", "ranking", "repeats", "ties", "n_users", "n_items")


def compare_runs(runs: Mapping[str, Results], metrics: Sequence[str]) -> ResultTable:
    """Return the test metrics of all models of several runs; popularity appears once.

    Args:
        runs: the content of results.json by the name of the run.
        metrics: names like "ndcg@10".

    Raises:
        RunError: the runs differ in data or protocol, or a metric is missing.
    """
    first_name, first = next(iter(runs.items()))
    rows: list[tuple[str, ...]] = []
    for name, results in runs.items():
        _check_comparable(first_name, first, name, results)
        for key, label in MODELS.items():
            if key in results["models"] and not (key == "popularity" and rows):
                cells = [_cell(results, key, metric, name) for metric in metrics]
                row_label = label if key == "popularity" else f"{name}: {label}"
                rows.append((row_label, *cells))
    protocol, data = first["protocol"], first["dataset"]
    note = (
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items. Split: "
        f"{protocol['split'].replace('_', ' ')}; {protocol['ranking']} ranking; "
        f"{describe_masking(protocol)}. In brackets: change against the base of the same run; "
        "* marks a significant difference (95 %, paired bootstrap over users)."
    )
    columns = ("Model", *(metric_label(metric) for metric in metrics))
    return ResultTable("Comparison of runs", columns, rows, note)


def _check_comparable(first_name: str, first: Results, name: str, results: Results) -> None:
    fingerprints = [record["dataset"]["fingerprint"] for record in (first, results)]
    if fingerprints[0] != fingerprints[1]:
        raise RunError(
            f"{first_name} and {name} have different data (fingerprints {fingerprints[0]} and "
            f"{fingerprints[1]}). Compare runs of the same prepared data."
        )
    for key in _PROTOCOL_KEYS:
        values = [record["protocol"].get(key) for record in (first, results)]
        if values[0] != values[1]:
            raise RunError(
                f"{first_name} and {name} have different evaluation protocols ({key}: "
                f"{values[0]!r} and {values[1]!r}). Compare runs with the same [evaluation] "
                "settings."
            )


def _cell(results: Results, model: str, metric: str, name: str) -> str:
    """Return the metric of a model, with its change against the base if they were compared."""
    test = results["models"][model]["test"]
    if metric not in test:
        raise RunError(f"{name} has no metric {metric!r}. Choose from: {', '.join(test)}.")
    text = format_metric(test[metric])
    base = results["models"].get("base", {}).get("test", {}).get(metric)
    entry = find_comparison(results, model, "base", metric)
    if entry is None or not base:
        return text
    star = "" if entry["verdict"] == "no difference" else "*"
    return f"{text} ({format_percent(test[metric] / base - 1)}{star})"
