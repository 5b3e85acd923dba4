"""The results of a hyperparameter search: a console table, a summary and an HTML page."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from recoach.experiments.run_folder import RunFolder
from recoach.report.figures import COLOURS, STYLE
from recoach.report.table_formats import ResultTable, html_page
from recoach.report.tables import MISSING, OBJECTIVE, format_change, format_metric, metric_label

Record = Mapping[str, Any]

_MAX_ROWS: Final = 10


def search_table(record: Record) -> Table:
    """Return the base and the ten best trials with their settings as a console table."""
    metric = metric_label(record["metric"])
    trials = len(record["trials"])
    pruned = trials - len(completed_trials(record))
    table = Table(
        title=f"Search: {metric} on validation",
        caption=f"pruned: {pruned} of {trials} trials" if pruned else None,
    )
    for name in _columns(record)[:-1]:
        table.add_column(name, justify="right")
    table.add_column(_columns(record)[-1])
    for row in _rows(record)[: _MAX_ROWS + 1]:
        table.add_row(*row, style="bold" if row[0] == str(record["best"]) else None)
    return table


def _columns(record: Record) -> tuple[str, ...]:
    return ("Trial", metric_label(record["metric"]), "against the base", "Settings of finetune")


def _rows(record: Record) -> list[tuple[str, ...]]:
    """Return a row for the base and for each completed trial, best first."""
    base = record["base"]
    return [
        ("base", format_metric(base), "", ""),
        *(
            (
                str(trial["trial"]),
                format_metric(trial["value"]),
                change_against_base(trial["value"], base),
                settings_text(trial),
            )
            for trial in completed_trials(record)
        ),
    ]


def search_summary(record: Record) -> str:
    """Return if a trial beats the base, by how much, and the importance of the settings."""
    trials, base = completed_trials(record), record["base"]
    count = len(record["trials"])
    if not trials:
        reason = record["trials"][-1]["pruned"].rstrip(".")
        return f"None of {count} trials was completed. The last one was pruned: {reason}."
    best = f"{metric_label(record['metric'])} on validation {format_metric(trials[0]['value'])}"
    if record["best"] is None:
        return (
            f"No trial beats the base: the best of {count} has {best}, the base "
            f"{format_metric(base)}. No best.toml is written. Keep the base, or vary other "
            "settings."
        )
    by_importance = sorted(record["importance"].items(), key=lambda pair: -pair[1])
    importance = ", ".join(f"{name} {100 * share:.0f} %" for name, share in by_importance)
    return (
        f"Trial {record['best']} is the best of {count}: {best}, "
        f"{change_against_base(trials[0]['value'], base)} against the base. It was selected on "
        "validation, so this value is optimistic; the test items were not used."
        + (f" Importance of the settings: {importance}." if importance else "")
    )


def write_search(record: Record, folder: Path) -> Path:
    """Write search.html with summary, figure and all trials; return its path."""
    rows = _rows(record) + [
        (str(trial["trial"]), MISSING, "", f"{settings_text(trial)}: {trial['pruned']}")
        for trial in record["trials"]
        if trial["value"] is None
    ]
    table = ResultTable("Trials, best first", _columns(record), rows)
    lead = f"{search_summary(record)} {OBJECTIVE}"
    text = html_page("Search", [table], lead=lead, picture=_figure_png(record))
    RunFolder(folder).write_text("search.html", text)
    return folder / "search.html"


def _figure_png(record: Record) -> bytes:
    """Return a PNG of the values by trial and of the importance of the settings."""
    by_importance = sorted(record["importance"].items(), key=lambda pair: pair[1])
    image = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2 if by_importance else 5.2, 3.8), layout="constrained")
        _history(figure.add_subplot(1, 2 if by_importance else 1, 1), record)
        if by_importance:
            axes = figure.add_subplot(1, 2, 2)
            names, values = zip(*by_importance, strict=True)
            axes.barh(names, [100 * value for value in values], color=COLOURS["tuned"])
            axes.set_xlabel("importance, %")
            axes.grid(axis="y", visible=False)
        FigureCanvasAgg(figure).print_png(image)  # type: ignore[no-untyped-call]
    return image.getvalue()


def completed_trials(record: Record) -> list[Mapping[str, Any]]:
    """Return the trials that were not pruned, best first; ties in the order of the trials."""
    complete = [trial for trial in record["trials"] if trial["value"] is not None]
    return sorted(complete, key=lambda trial: -float(trial["value"]))


def change_against_base(value: float, base: float) -> str:
    """Return the change of a trial against the base in per cent."""
    return format_change(value, base)


def settings_text(trial: Mapping[str, Any]) -> str:
    """Return the settings of a trial on one line, floats with three significant digits."""
    return "  ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial["settings"].items()
    )


def _history(axes: Axes, record: Record) -> None:
    complete = [trial for trial in record["trials"] if trial["value"] is not None]
    steps = [trial["trial"] for trial in complete]
    values = [trial["value"] for trial in complete]
    best = [max(values[: index + 1]) for index in range(len(values))]
    axes.axhline(record["base"], color=COLOURS["base"], linestyle=":", label="base")
    axes.plot(steps, values, "o", color=COLOURS["tuned"], label="trial")
    axes.plot(steps, best, drawstyle="steps-post", color=COLOURS["control"], label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{metric_label(record['metric'])} on validation")
    axes.legend(loc="best")
