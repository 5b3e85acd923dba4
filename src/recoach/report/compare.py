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
    headline,
    metric_label,
)
from recoach.report.verdict import primary_metric

Results = Mapping[str, Any]

_PROTOCOL_KEYS: Final = ("split", "ranking", "ties", "n_users", "n_items")
_NEW_KEYS: Final = ("split_settings", "n_states", "n_targets")
"""Keys that records of earlier versions lack."""
_INTERVAL: Final = "95 %, paired bootstrap over users"
_REFERENCES: Final = ("popularity", "repeat_last")


def compare_runs(runs: Mapping[str, Results], metrics: Sequence[str]) -> ResultTable:
    """Return the test metrics of all models of several runs; popularity appears once.

    The models are those that were trained again on train and validation, if all runs have them,
    and otherwise those that validation selected.

    Args:
        runs: the content of results.json by the name of the run.
        metrics: names like "ndcg@10".

    Raises:
        RunError: the runs differ in data or protocol, or a metric is missing.
    """
    are_retrained = all("retrained" in results for results in runs.values())
    if are_retrained:
        runs = {name: headline(results) for name, results in runs.items()}
    check_comparable(runs)
    first = next(iter(runs.values()))
    rows: list[tuple[str, ...]] = []
    for name, results in runs.items():
        is_first = not rows
        for key, label in MODELS.items():
            if key in results["models"] and (is_first or key not in _REFERENCES):
                cells = [_cell(results, key, metric, name) for metric in metrics]
                row_label = label if key in _REFERENCES else f"{name}: {label}"
                rows.append((row_label, *cells))
    trained_on = "train and validation" if are_retrained else "train"
    protocol, data = first["protocol"], first["dataset"]
    note = (
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items. Split: "
        f"{protocol['split'].replace('_', ' ')}; {protocol['ranking']} ranking; "
        f"{describe_masking(protocol)}; trained on {trained_on}. In brackets: change against the "
        "base of the same run; * marks a significant difference "
        f"({protocol.get('interval', _INTERVAL)}{_adjustment(first)})."
    )
    columns = ("Model", *(metric_label(metric) for metric in metrics))
    return ResultTable("Comparison of runs", columns, rows, note)


def _adjustment(results: Results) -> str:
    is_adjusted = any("adjusted" in entry for entry in results.get("comparisons", ()))
    primary = metric_label(primary_metric(results))
    return f"; all but {primary} adjusted by Holm's procedure" if is_adjusted else ""


def check_comparable(runs: Mapping[str, Results]) -> None:
    """Raise a RunError if the runs differ in data or evaluation protocol."""
    first_name, first = next(iter(runs.items()))
    for name, results in runs.items():
        _check_comparable(first_name, first, name, results)


def default_metrics(runs: Mapping[str, Results]) -> list[str]:
    """Return recall and NDCG at the cutoffs nearest to 10 and 50 that all runs have."""
    cutoffs = [set(results["protocol"]["ks"]) for results in runs.values()]
    shared = sorted(set.intersection(*cutoffs) or cutoffs[0])
    ks = dict.fromkeys(min(shared, key=lambda k: abs(k - wanted)) for wanted in (10, 50))
    return [f"{metric}@{k}" for k in ks for metric in ("recall", "ndcg")]


def _check_comparable(first_name: str, first: Results, name: str, results: Results) -> None:
    fingerprints = [record["dataset"]["fingerprint"] for record in (first, results)]
    if fingerprints[0] != fingerprints[1]:
        raise RunError(
            f"{first_name} and {name} have different data (fingerprints {fingerprints[0]} and "
            f"{fingerprints[1]}). Compare runs of the same prepared data."
        )
    protocols = [record["protocol"] for record in (first, results)]
    settings = [_comparable(*pair) for pair in (protocols, protocols[::-1])]
    for key in settings[0]:
        values = [setting[key] for setting in settings]
        if values[0] != values[1]:
            raise RunError(
                f"{first_name} and {name} have different evaluation protocols ({key}: "
                f"{values[0]!r} and {values[1]!r}). Compare runs with the same split and the same "
                "[evaluation] settings."
            )


def _comparable(protocol: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal in two protocols; of earlier versions only what they record."""
    settings = {key: protocol.get(key) for key in _PROTOCOL_KEYS}
    if settings["split"] == "as given":
        settings["split"] = "given"
    if "repeats" in protocol and "repeats" in other:
        settings["repeats"] = protocol["repeats"]
    else:
        settings["mask_seen"] = _mask_seen(protocol)
    return settings | {k: protocol[k] for k in _NEW_KEYS if k in protocol and k in other}


def _mask_seen(protocol: Mapping[str, Any]) -> object:
    """Return `mask_seen` of earlier versions, which kept masked items as targets."""
    if "repeats" not in protocol:
        return protocol.get("mask_seen")
    has_dropped = "repeated items" in protocol.get("excluded", {})
    masked = "all, repeated items no targets" if has_dropped else "all"
    return {"all": "none", "new": masked}.get(protocol["repeats"], protocol["repeats"])


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
