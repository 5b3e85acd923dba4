"""Several runs side by side, where they can be compared at all."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from recoach.errors import RunError
from recoach.report.table_formats import ResultTable
from recoach.report.tables import (
    MODELS,
    find_comparison,
    format_metric,
    format_percent,
    metric_label,
)

Results = Mapping[str, Any]

_PROTOCOL: Final = ("split", "ranking", "mask_seen", "ties", "n_users", "n_items")


def compared(runs: Mapping[str, Results], metrics: Sequence[str]) -> ResultTable:
    """Return a table of all models of several runs on the test items, popularity once.

    Args:
        runs: results by the runs' names.
        metrics: like "ndcg@10".

    Raises:
        RunError: the runs are of other data or another protocol, or a metric was not measured.
    """
    first_name, first = next(iter(runs.items()))
    rows: list[tuple[str, ...]] = []
    for name, results in runs.items():
        _check(first_name, first, name, results)
        for key, label in MODELS.items():
            if key in results["models"] and not (key == "popularity" and rows):
                figures = [_figure(results, key, metric, name) for metric in metrics]
                shown = label if key == "popularity" else f"{name}: {label}"
                rows.append((shown, *figures))
    protocol, data = first["protocol"], first["dataset"]
    note = (
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items. Split: "
        f"{protocol['split'].replace('_', ' ')}; {protocol['ranking']} ranking; seen items masked: "
        f"{protocol['mask_seen']}. Brackets: against the run's own base; * differs at 95 %, paired "
        "bootstrap over users."
    )
    head = ("Model", *(metric_label(metric) for metric in metrics))
    return ResultTable("Runs side by side", head, rows, note)


def _check(first_name: str, first: Results, name: str, results: Results) -> None:
    if first["dataset"]["fingerprint"] != results["dataset"]["fingerprint"]:
        raise RunError(
            f"{first_name} and {name} are of other data ({first['dataset']['fingerprint']} and "
            f"{results['dataset']['fingerprint']}): their figures cannot be compared."
        )
    for key in _PROTOCOL:
        ours, theirs = (one["protocol"].get(key) for one in (first, results))
        if ours != theirs:
            raise RunError(
                f"{first_name} and {name} were judged by other protocols ({key}: {ours!r} and "
                f"{theirs!r}): judge one again before they are compared."
            )


def _figure(results: Results, key: str, metric: str, name: str) -> str:
    test = results["models"][key]["test"]
    if metric not in test:
        raise RunError(f"{name} has no {metric}; it has {', '.join(test)}.")
    text, base = (
        format_metric(test[metric]),
        results["models"].get("base", {}).get("test", {}).get(metric),
    )
    found = find_comparison(results, key, "base", metric)
    if found is None or not base:
        return text
    star = "" if found["verdict"] == "no difference" else "*"
    return f"{text} ({format_percent(test[metric] / base - 1)}{star})"
