"""The ladder of controls: the recipe against every rung, by log and protocol, and pooled."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from recoach.evaluation.pooling import PooledEffect, pooled_effect
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, format_change, format_metric, format_percent
from recoach.reproduction.labels import CONTROL, NAMES
from recoach.reproduction.ladder_cells import rungs_of

Record = Mapping[str, Any]

_PROTOCOLS: Final = {"last": "leave-last-out", "time": "split by time"}
_COLUMNS: Final = (
    "Rung",
    "rate of n",
    "seeds",
    "cost",
    "validation",
    "NDCG@10",
    "recipe against it",
    "p (Holm)",
    "reading",
)
_POOLED: Final = (
    "Rung",
    "logs",
    "recipe better on",
    "recipe against it, pooled",
    "on a new log",
)
_COSTS: Final = (
    "Model and log",
    "Training",
    "10¹² multiply-adds",
    "of the base's",
    "seconds",
    "gain",
)
_LEVEL: Final = 0.05
_ORDINARY: Final = ("recipe", "plain")
"""Rungs whose bases and controls are trained by the model's own loss."""


def ladder(record: Record) -> list[ResultTable]:
    """Return the effects by protocol and pooled, then a table per log, protocol and model."""
    tables = [_protocols_table(record), *_pooled_tables(record)]
    return [*tables, *(_table(*group) for group in _groups(record))]


def costs(record: Record) -> ResultTable:
    """Return what the rungs with a known budget cost, and what they gain over the base."""
    rows_of_table: list[tuple[str, ...]] = []
    for log, model, protocol, rows in _groups(record):
        base = next((row for row in rows if row["stage"] == "base"), None)
        if base is None or base.get("multiply_adds") is None:
            continue
        for row in rows:
            if row.get("multiply_adds") is not None:
                gain = MISSING if row is base else format_change(row["test"], base["test"])
                rows_of_table.append(
                    (
                        f"{NAMES.get(model, model)}, {log}, {_PROTOCOLS[protocol]}",
                        _label(model, row),
                        f"{row['multiply_adds'] / 1e12:.2f}",
                        f"{row['multiply_adds'] / base['multiply_adds']:.2f}",
                        f"{row['seconds']:.0f}",
                        gain,
                    )
                )
    return ResultTable("Cost of the trainings", _COSTS, rows_of_table, _COSTS_NOTE)


def run_table(model: str, rows: Sequence[Record]) -> ResultTable:
    """Return the table of the rungs that were trained for one run.

    Args:
        model: name of the run's model.
        rows: as `ladder_contrasts.contrasts` returns them.
    """
    heading = f"Ladder of controls: {NAMES.get(model, model)}"
    return ResultTable(heading, _COLUMNS, _rows(model, rows), _NOTE)


def _groups(record: Record) -> Iterator[tuple[str, str, str, Sequence[Record]]]:
    """Yield log, model, protocol and rows."""
    for log, data in record["data"].items():
        for name, rows in data.get("contrasts", {}).items():
            model, _, protocol = name.rpartition("-")
            yield log, model, protocol, rows


def _table(log: str, model: str, protocol: str, rows: Sequence[Record]) -> ResultTable:
    heading = f"Ladder: {NAMES.get(model, model)}, {log}, {_PROTOCOLS.get(protocol, protocol)}"
    return ResultTable(heading, _COLUMNS, _rows(model, rows), _NOTE)


def _rows(model: str, rows: Sequence[Record]) -> list[tuple[str, ...]]:
    bases = [row.get("multiply_adds") for row in rows if row["stage"] == "base"]
    return [_row(model, row, bases[0] if bases else None) for row in rows]


def _row(model: str, row: Record, base: float | None) -> tuple[str, ...]:
    """Return the cells of a rung; `base` is the multiply-adds of the base's training."""
    against = row.get("recipe_against")
    is_base = row["stage"] == "base"
    cells = (
        _label(model, row),
        MISSING if is_base else f"{row['rate']:g} of {row['trials']}",
        str(len(row["seeds"])),
        f"{row['multiply_adds'] / base:.2f}" if base and row.get("multiply_adds") else MISSING,
        format_metric(row["valid"]),
        format_metric(row["test"]),
    )
    if against is None:
        return (*cells, MISSING, MISSING, MISSING)
    ends = f"[{format_percent(against['low'])}, {format_percent(against['high'])}]"
    change = f"{format_percent(against['value'])} {ends}"
    return (*cells, change, f"{against['holm']:.3f}", reading(against))


def reading(against: Record) -> str:
    """Return what a comparison of the recipe with a rung says.

    A difference counts after Holm's adjustment; without one, the two are equivalent by TOST, or the
    effect that the comparison would have found is given.
    """
    if against["holm"] <= _LEVEL:
        return "recipe better" if against["value"] > 0 else "recipe worse"
    if against["equivalence_p_value"] < _LEVEL:
        return "equivalent within 1 %"
    return f"no difference (detectable: {format_percent(against['detectable'])})"


def _label(model: str, row: Record) -> str:
    rung = rungs_of(model)[row["rung"]]
    if row["stage"] == "tuned":
        return rung.label
    name = "base" if row["stage"] == "base" else CONTROL
    if rung.pretrain:
        return f"{name} of future items" if name == "base" else f"{name} of that base"
    plain = " without averaging and interpolation"
    return f"{name}{plain}" if row["rung"] == "plain" else name


def _protocols_table(record: Record) -> ResultTable:
    """Return the recipe against the best control, by model and log, under each protocol."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for log, model, protocol, rows in _groups(record):
        if (control := best_control(rows)) is not None:
            found.setdefault((model, log), {})[protocol] = control["recipe_against"]
    rows_of_table = [
        (
            NAMES.get(model, model),
            log,
            *(_protocol_cell(by_protocol.get(name)) for name in _PROTOCOLS),
            _survival(by_protocol),
        )
        for (model, log), by_protocol in found.items()
    ]
    columns = ("Model", "log", *_PROTOCOLS.values(), "change of protocol")
    heading = "Recipe against the best control"
    return ResultTable(heading, columns, rows_of_table, _PROTOCOLS_NOTE)


def best_control(rows: Sequence[Record]) -> Record | None:
    """Return the best row on validation of base and continued training; None without one."""
    controls = [
        row
        for row in rows
        if row["stage"] in ("base", "control")
        and row["rung"] in _ORDINARY
        and "recipe_against" in row
    ]
    return max(controls, key=lambda row: float(row["valid"]), default=None)


def _protocol_cell(against: Record | None) -> str:
    if against is None:
        return MISSING
    ends = f"[{format_percent(against['low'])}, {format_percent(against['high'])}]"
    return f"{format_percent(against['value'])} {ends}: {reading(against)}"


def _survival(by_protocol: Mapping[str, Record]) -> str:
    """Return whether the reading of one protocol is that of the other."""
    if len(by_protocol) < len(_PROTOCOLS):
        return MISSING
    better = {name: reading(row) == "recipe better" for name, row in by_protocol.items()}
    if not better["last"]:
        return "the gain is there by time only" if better["time"] else "no gain to lose"
    return "the verdict survives" if better["time"] else "the verdict does not survive"


def _pooled_tables(record: Record) -> list[ResultTable]:
    """Return, for each model and protocol with two logs or more, the effects pooled over logs."""
    effects: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for _, model, protocol, rows in _groups(record):
        of_model = effects.setdefault((model, protocol), {})
        for row in rows:
            if against := row.get("recipe_against"):
                pair = against["log_ratio"], against["standard_error"]
                of_model.setdefault(_label(model, row), []).append(pair)
    tables = []
    for (model, protocol), rungs in effects.items():
        pooled = {
            label: pooled_effect(*zip(*_with_errors(pairs), strict=True))
            for label, pairs in rungs.items()
            if len(pairs) > 1 and any(error > 0 for _, error in pairs)
        }
        if pooled:
            heading = f"Ladder, pooled: {NAMES.get(model, model)}, {_PROTOCOLS[protocol]}"
            rows_of_table = [_pooled_row(label, effect) for label, effect in pooled.items()]
            tables.append(ResultTable(heading, _POOLED, rows_of_table, _POOLED_NOTE))
    return tables


def _with_errors(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the effects with standard errors above 0.

    Where validation returned the rung's own weights the difference is 0 for every user, which does
    not make it known more exactly than that of another log: it gets the median error of the others.
    """
    median = float(np.median([error for _, error in pairs if error > 0]))
    return [(effect, error or median) for effect, error in pairs]


def _pooled_row(label: str, effect: PooledEffect) -> tuple[str, ...]:
    mean = effect.mean
    return (
        label,
        str(effect.n_logs),
        f"{effect.n_positive} of {effect.n_logs}",
        f"{_change(mean.value)} [{_change(mean.low)}, {_change(mean.high)}]",
        MISSING
        if effect.n_logs < 3
        else f"{_change(effect.prediction[0])} to {_change(effect.prediction[1])}",
    )


def _change(log_ratio: float) -> str:
    return format_percent(math.expm1(log_ratio))


_NOTE: Final = (
    "Every rung changes one thing and keeps the rest of the recipe; each was trained with n "
    "learning rates, of which validation selected the one shown. Cost: multiply-adds of its "
    "training over those of the base's, which come before a fine-tuning. NDCG@10 is the mean over "
    "users and seeds. Change of the recipe relative to the rung: 95 % interval with users and "
    "seeds as crossed random effects (with one seed: users only); p adjusted by Holm within the "
    "table. Equivalent: two one-sided tests within ± 1 %. Detectable: the difference that is found "
    "with a probability of 80 %. With a split by time, of models trained again on train and "
    "validation."
)
_COSTS_NOTE: Final = (
    "Multiply-adds of dense products in the training steps, without evaluations; seconds with "
    "them, on one core shared with other work. Gain: NDCG@10 over the base, on test. Trainings by "
    "earlier versions, which did not count, are missing."
)
_PROTOCOLS_NOTE: Final = (
    "Best control: the best on validation of the base and of continued training with and without "
    "averaging and interpolation. Change of the recipe relative to "
    "it, intervals and readings as in the tables of the ladder."
)
_POOLED_NOTE: Final = (
    "Log ratios pooled over logs: variance between logs by Paule and Mandel, interval by Hartung "
    "and Knapp; on a new log: 95 % prediction interval. Where validation returned the same weights "
    "for both, the difference is 0 with the median standard error of the other logs."
)
