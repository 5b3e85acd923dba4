"""What the default recipe gains over base and control, and what each ingredient is worth."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from recoach.evaluation.significance import verdict as over_seeds
from recoach.report.table_cells import comparison_cell, find_comparison, interval_note, metric_cell
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, metric_label
from recoach.reproduction.figures import NAMES

Record = Mapping[str, Any]

METRICS: Final = ("recall@10", "ndcg@10", "recall@50")

_VERDICTS: Final = ("better", "no difference", "worse")

_COLUMNS: Final = (
    "Model",
    "Metric",
    "Base",
    "+ supervised steps",
    "+ GRPO",
    "against the base",
    "against supervised",
)


def gains(record: Record, recipe: str = "") -> list[ResultTable]:
    """Return a table for each data set, after one that counts what was won."""
    grids = [_counts(record, f"Data sets won{recipe}")]
    for name, found in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for cell_name, cell in found["cells"].items():
            rows += [(label(cell_name), *row) for row in _figures(cell)]
        grids.append(ResultTable(f"{name}{recipe}", _COLUMNS, rows, _note(found)))
    return grids


def future(record: Record) -> list[ResultTable]:
    """Return the same of the recipe that rewards the coming items alone."""
    return gains(record, ", the coming items alone")


def tail(record: Record) -> list[ResultTable]:
    """Return for each data set what the recipe gains over the next several interactions."""
    grids = []
    for name, found in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for cell_name, cell in found["cells"].items():
            rows += [(label(cell_name), *row) for row in _figures(cell)]
        grids.append(ResultTable(f"The longer run: {name}", _COLUMNS, rows, _note(found)))
    return grids


def overview(record: Record, earlier: Record) -> ResultTable:
    """Return one table of all data sets, in NDCG@10.

    Args:
        record: what the default recipe gains.
        earlier: what `future` gains, for the logs that the default recipe has not been run on.
    """
    rows: list[tuple[str, ...]] = []
    nothing: Record = {"cells": {}}
    for name in earlier["data"] | record["data"]:
        cells = record["data"].get(name, nothing)["cells"]
        before = earlier["data"].get(name, nothing)["cells"]
        missing = {n: c for n, c in before.items() if n.split("-")[0] not in cells}
        for cell_name, cell in (cells | missing).items():
            figures = [
                metric_cell(cell, stage, "ndcg@10") for stage in ("base", "control", "tuned")
            ]
            told = [comparison_cell(cell, "tuned", other) for other in ("base", "control")]
            rows.append((name, label(cell_name), *figures, *told))
    return ResultTable("NDCG@10 on the test items", ("Log", "Model", *_COLUMNS[2:]), rows)


def ablation(record: Record) -> list[ResultTable]:
    """Return for each data set what every change to the recipe makes of its gain."""
    return _changes(record, "Ablation", "Each row changes one thing in the recipe.")


def rivals(record: Record) -> list[ResultTable]:
    """Return for each data set what other algorithms gain in the recipe's place."""
    return _changes(record, "Rivals", "All have the states and rewards of future alone.")


def _changes(record: Record, heading: str, told: str) -> list[ResultTable]:
    grids = []
    for name, found in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for cell_name, cell in found["cells"].items():
            model, _, change = cell_name.partition("-")
            started = change != "from-scratch"  # else there is no base worth the name
            figures = [metric_cell(cell, "tuned", metric, change=started) for metric in METRICS]
            changed = f"{NAMES[model]}: {change.replace('-', ' ') or 'the recipe'}"
            base = comparison_cell(cell, "tuned", "base") if started else MISSING
            rows.append((changed, *figures, base))
        head = (
            "Changed",
            *(metric_label(metric) for metric in METRICS),
            "NDCG@10 against the base",
        )
        grids.append(ResultTable(f"{heading}: {name}", head, rows, f"{told} {_note(found)}"))
    return grids


def _figures(cell: Record) -> list[tuple[str, ...]]:
    """Return a row a metric: base, control, tuned, and what the last is to the others."""
    rows = []
    for metric in METRICS:
        figures = [metric_cell(cell, stage, metric) for stage in ("base", "control", "tuned")]
        told = [comparison_cell(cell, "tuned", other, metric) for other in ("base", "control")]
        rows.append((metric_label(metric), *figures, *told))
    return rows


def label(cell_name: str) -> str:
    """Return what a table calls a cell: its backbone, and what is particular about it."""
    model, _, particular = cell_name.partition("-")
    words = particular.replace("-future-alone", ", future alone").replace("-", " ")
    return f"{NAMES[model]}, {words}" if words else NAMES[model]


def _counts(record: Record, heading: str) -> ResultTable:
    """Count the data sets on which each model is better, no different and worse at 95 %."""
    known = {name for found in record["data"].values() for name in found["cells"]}
    rows = []
    for cell_name in sorted(known, key=lambda name: list(NAMES).index(name.split("-")[0])):
        cells = [f["cells"][cell_name] for f in record["data"].values() if cell_name in f["cells"]]
        for metric in METRICS:
            told = []
            for other in ("base", "control"):
                made = [find_comparison(cell, "tuned", other, metric) for cell in cells]
                found = [one for one in made if one is not None]
                users = Counter(one["verdict"] for one in found)
                seeds = Counter(over_seeds(*one["seeds"]) for one in found if "seeds" in one)
                told += [f"{users[word]} ({seeds[word]})" for word in _VERDICTS]
            rows.append((label(cell_name), metric_label(metric), *told))
    ends = ("better", "no different", "worse")
    head = (
        "Model",
        "Metric",
        *(f"{end} than {who}" for who in ("base", "control") for end in ends),
    )
    note = (
        "At 95 %, paired bootstrap over users; in brackets by Student's interval over seeds, of "
        "the logs with three and more."
    )
    return ResultTable(heading, head, rows, note)


def _note(found: Record) -> str:
    if not found["cells"]:
        return "Nothing is run yet."
    data, cell = found["dataset"], next(iter(found["cells"].values()))
    seeds = {", ".join(str(seed) for seed in one["seeds"]) for one in found["cells"].values()}
    protocol = cell["protocol"]
    return (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions. "
        f"Split: {protocol['split'].replace('_', ' ')}; full ranking; seen items masked: "
        f"{protocol['mask_seen']}. Seeds {' / '.join(sorted(seeds))}; intervals: 95 %, "
        f'{interval_note(found["cells"])}; behind "seeds", Student\'s interval over what each seed '
        "gained, from three seeds on. Changes in brackets are against the base."
    )
