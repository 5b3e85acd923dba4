"""Algorithms on logs with events beside their supervised counterparts, by event type."""

from collections.abc import Mapping
from typing import Any, Final

from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING
from recoach.reproduction.event_cells import EVENT_REWARDS
from recoach.reproduction.labels import cell_label

Record = Mapping[str, Any]

_PROTOCOLS: Final = {"time": "split by time", "users": "random users (SQN)"}
_METRIC: Final = "ndcg@10"
_STRATA: Final = (
    *(("event_type", name) for name in EVENT_REWARDS),
    ("repeats", "new"),
    ("repeats", "repeat"),
)
_COLUMNS: Final = (
    "Row",
    "seeds",
    "NDCG@10",
    *EVENT_REWARDS,
    "new",
    "repeated",
    "value@10",
    "change against its counterpart",
)
_BASELINES: Final = {"popularity": "popularity", "repeat_last": "repeat last"}


def events(record: Record) -> list[ResultTable]:
    """Return a table per log and protocol, whose rows are models and algorithms."""
    return [
        _table(log, protocol, cells)
        for log, results in record["data"].items()
        for protocol in _PROTOCOLS
        if (cells := _cells_of(results["cells"], protocol))
    ]


def _cells_of(cells: Mapping[str, Record], protocol: str) -> dict[str, Record]:
    """Return the cells of a protocol by their names without it."""
    end = f"-{protocol}"
    return {name.removesuffix(end): cell for name, cell in cells.items() if name.endswith(end)}


def _table(log: str, protocol: str, cells: Mapping[str, Record]) -> ResultTable:
    first = next(iter(cells.values()))
    rows = [_row(label, first, stage) for stage, label in _BASELINES.items()]
    for name, cell in cells.items():
        is_tuned = "tuned" in cell["models"]
        rows.append(_row(cell_label(name), cell, "tuned" if is_tuned else "base"))
        if _counterpart(cell) == "control":
            rows.append(_row(f"{cell_label(name)}: continued training", cell, "control"))
    title = f"Events: {log}, {_PROTOCOLS[protocol]}"
    return ResultTable(title, _COLUMNS, rows, _note(cells))


def _row(label: str, cell: Record, stage: str) -> tuple[str, ...]:
    model = cell["models"][stage]
    strata = model.get("strata", {})
    values = [
        f"{strata[kind][name][_METRIC]:.4f}" if name in strata.get(kind, {}) else MISSING
        for kind, name in _STRATA
    ]
    return (
        label,
        str(len(cell["seeds"])),
        f"{model['test'][_METRIC]['mean']:.4f}",
        *values,
        _value(strata.get("event_type", {})),
        _change(cell, stage),
    )


def _value(strata: Mapping[str, Record]) -> str:
    """Return the mean over targets of the reward of the event type for a hit within ten."""
    if not strata:
        return MISSING
    total = sum(
        EVENT_REWARDS.get(name, 0.0) * stratum["targets"] * stratum["hit@10"]
        for name, stratum in strata.items()
    )
    return f"{total / sum(stratum['targets'] for stratum in strata.values()):.4f}"


def _change(cell: Record, stage: str) -> str:
    """Return the relative change of a tuned model against its counterpart, with its verdict."""
    twin = _counterpart(cell)
    for row in cell["comparisons"]:
        if stage == "tuned" and (row["a"], row["b"], row["metric"]) == (stage, twin, _METRIC):
            reference = cell["models"][twin]["test"][_METRIC]["mean"]
            if not reference:
                return f"{MISSING} {row['verdict']}"
            low, high = (100 * row[end] / reference for end in ("low", "high"))
            relative = 100 * row["difference"] / reference
            return f"{relative:+.1f} % [{low:+.1f}, {high:+.1f}] {row['verdict']}"
    return MISSING


def _counterpart(cell: Record) -> str:
    """Return the control for a fine-tuned base, and the base for a model trained from scratch."""
    from_scratch = cell["config"]["finetune"].get("start") == "scratch"
    return "base" if from_scratch or "control" not in cell["models"] else "control"


def _note(cells: Mapping[str, Record]) -> str:
    protocol = next(iter(cells.values()))["protocol"]
    rewards = ", ".join(f"{name} {reward:g}" for name, reward in EVENT_REWARDS.items())
    return (
        f"{protocol['n_targets']:,} targets of {protocol['n_users']:,} users, "
        f"{protocol['n_items']:,} items; {protocol['repeated_targets']:,} targets are in their "
        f"history, {protocol['cold_targets']:,} do not occur in train and count as misses. NDCG@10 "
        "of all targets, by event type, of new and of repeated items. value@10: the mean over "
        f"targets of the reward of a hit within ten ({rewards}). Counterpart: cross-entropy "
        "trained from scratch for auxiliary heads, the same with weights by event type for "
        "algorithms that weight it by Q, continued training of the base for fine-tuning. Intervals "
        "over users, 95 %, of the mean over seeds."
    )
