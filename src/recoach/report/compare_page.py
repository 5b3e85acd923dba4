"""One HTML page for several runs: verdicts, a table with intervals, and their curves together."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from markupsafe import Markup

from recoach.experiments.run_folder import RunFolder
from recoach.report.compare import check_comparable
from recoach.report.curves import Curve, Panel, curve_panel
from recoach.report.figures import GRPO_CURVES, VALIDATION, logged_values
from recoach.report.run_files import read_results
from recoach.report.table_formats import page_parts, render
from recoach.report.tables import MARKS, MISSING, MODELS, Results, Row, headline, metric_label, rows
from recoach.report.verdict import control_warning, primary_metric, verdict_sentence

_COLOURS: Final = ("var(--tuned)", "var(--control)", "var(--base)", "var(--up)", "var(--down)")
_DASHES: Final = {"base": "2 4", "control": "6 4", "tuned": ""}


def comparison_page(paths: Sequence[Path], metrics: Sequence[str]) -> str:
    """Return the comparison of several runs as one HTML page that loads nothing from the network.

    Each run has a verdict and its models a row each with intervals; the curves of all runs are in
    one plot, in which runs and stages can be picked.

    Args:
        paths: run folders.
        metrics: names like "ndcg@10"; the primary metric of the first run is put before them.

    Raises:
        RunError: the runs differ in data or protocol, or a file is missing or damaged.
    """
    records = {str(path): read_results(path / "results.json") for path in paths}
    check_comparable(records)
    are_retrained = all("retrained" in record for record in records.values())
    shown = {n: headline(r) if are_retrained else r for n, r in records.items()}
    primary = primary_metric(next(iter(records.values())))
    names = list(dict.fromkeys([primary, *metrics]))
    return render(
        "compare.html.j2",
        **page_parts(),
        runs=[
            (name, verdict_sentence(record), control_warning(record))
            for name, record in shown.items()
        ],
        columns=[metric_label(name) for name in names],
        rows=_rows(shown, names),
        marks=MARKS,
        trained_on="train and validation" if are_retrained else "train",
        panels=_panels({str(path): RunFolder(path) for path in paths}),
    )


def _rows(records: Mapping[str, Results], names: Sequence[str]) -> list[tuple[str, Row]]:
    """Return (run, row) of every model; references such as popularity are those of the first."""
    found: list[tuple[str, Row]] = []
    for name, record in records.items():
        found += [
            ("" if row.key in ("popularity", "repeat_last") else name, row)
            for row in rows(record, names)
            if not found or row.key not in ("popularity", "repeat_last")
        ]
    best = [
        max((row.cells[place].value for _, row in found), key=_number)
        for place in range(len(names))
    ]
    return [(name, _with_best(row, best)) for name, row in found]


def _number(text: str) -> float:
    return -math.inf if text == MISSING else float(text)


def _with_best(row: Row, best: Sequence[str]) -> Row:
    cells = (
        cell._replace(is_best=cell.value == value)
        for cell, value in zip(row.cells, best, strict=True)
    )
    return row._replace(cells=tuple(cells))


def _panels(folders: Mapping[str, RunFolder]) -> list[Panel]:
    """Return validation NDCG@10 of the stages of all runs, then what fine-tuning logged."""
    logged = {name: folder.metrics() for name, folder in folders.items()}
    plots: list[tuple[str, str, tuple[str, ...]]] = [
        (VALIDATION, "Validation NDCG@10", ("control", "tuned"))
    ]
    plots += [(key, heading, ("tuned",)) for key, heading in GRPO_CURVES.items()]
    panels = []
    for key, heading, stages in plots:
        curves = [
            Curve(
                f"{name}: {MODELS[stage]}",
                _COLOURS[place % len(_COLOURS)],
                _DASHES[stage],
                *logged_values(metrics, stage, key),
            )
            for place, (name, metrics) in enumerate(logged.items())
            for stage in stages
        ]
        curves = [curve for curve in curves if curve.steps]
        if curves:
            panel = curve_panel(heading, curves)
            panels.append(panel._replace(svg=Markup(panel.svg)))
    return panels
