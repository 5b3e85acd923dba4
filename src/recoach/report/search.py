"""A search to look at: its best trials as a table, a sentence, a figure."""

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
from recoach.report.table_formats import ResultTable, page
from recoach.report.tables import MISSING, format_metric, format_percent, metric_label

Record = Mapping[str, Any]

_LONGEST: Final = 10


def search_table(record: Record) -> Table:
    """Return the base and the best trials as a console table, with their settings."""
    trials, base = ranked(record), record["base"]
    pruned = len(record["trials"]) - len(trials)
    table = Table(
        title=f"Search: {metric_label(record['metric'])} on validation",
        caption=f"pruned: {pruned} of {len(record['trials'])} trials" if pruned else None,
    )
    for name in ("Trial", metric_label(record["metric"]), "to the base"):
        table.add_column(name, justify="right")
    table.add_column("Settings of grpo")
    table.add_row("base", format_metric(base), "", "")
    for trial in trials[:_LONGEST]:
        table.add_row(
            str(trial["trial"]),
            format_metric(trial["value"]),
            change(trial["value"], base),
            drawn(trial),
            style="bold" if trial["trial"] == record["best"] else None,
        )
    return table


def search_verdict(record: Record) -> str:
    """Return whether a trial beats the base, by how much, and which settings mattered."""
    trials, base = ranked(record), record["base"]
    count = len(record["trials"])
    if not trials:
        return f"None of {count} trials came to its end; the last: {record['trials'][-1]['pruned']}"
    told = f"{metric_label(record['metric'])} on validation {format_metric(trials[0]['value'])}"
    if record["best"] is None:
        return (
            f"No trial beats the base: the best of {count} has {told}, the base "
            f"{format_metric(base)}. "
            "There is no best.toml; keep the base, or vary other settings."
        )
    shares = sorted(record["importance"].items(), key=lambda pair: -pair[1])
    mattered = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
    return (
        f"Trial {record['best']} is the best of {count}: {told}, "
        f"{change(trials[0]['value'], base)} to the base. It was chosen by validation, which "
        "flatters it; the test items have not been looked at."
        + (f" What mattered: {mattered}." if mattered else "")
    )


def write_search(record: Record, folder: Path) -> Path:
    """Write search.html, verdict, figure and all trials on one page; return it."""
    trials, base = ranked(record), record["base"]
    metric = metric_label(record["metric"])
    rows: list[tuple[str, ...]] = [("base", format_metric(base), "", "")]
    rows += [
        (str(one["trial"]), format_metric(one["value"]), change(one["value"], base), drawn(one))
        for one in trials
    ]
    rows += [
        (str(one["trial"]), MISSING, "", f"{drawn(one)}: {one['pruned']}")
        for one in record["trials"]
        if one["value"] is None
    ]
    grid = ResultTable(
        "Trials, best first", ("Trial", metric, "to the base", "Settings of grpo"), rows
    )
    lead, picture = search_verdict(record), _drawn(record)
    RunFolder(folder).write_text("search.html", page("Search", [grid], lead=lead, picture=picture))
    return folder / "search.html"


def _drawn(record: Record) -> bytes:
    """Draw the values of the trials in their order and the importance of the settings, as PNG."""
    shares = sorted(record["importance"].items(), key=lambda pair: pair[1])
    image = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2 if shares else 5.2, 3.8), layout="constrained")
        _history(figure.add_subplot(1, 2 if shares else 1, 1), record)
        if shares:
            axes = figure.add_subplot(1, 2, 2)
            names, values = zip(*shares, strict=True)
            axes.barh(names, [100 * value for value in values], color=COLOURS["tuned"])
            axes.set_xlabel("importance, %")
            axes.grid(axis="y", visible=False)
        FigureCanvasAgg(figure).print_png(image)  # type: ignore[no-untyped-call]
    return image.getvalue()


def ranked(record: Record) -> list[Mapping[str, Any]]:
    """Return the trials that came to their end, best first, earlier before later."""
    complete = [trial for trial in record["trials"] if trial["value"] is not None]
    return sorted(complete, key=lambda trial: -float(trial["value"]))


def change(value: float, base: float) -> str:
    """Return the distance of a trial to the base in per cent."""
    return format_percent(value / base - 1 if base else None)


def drawn(trial: Mapping[str, Any]) -> str:
    """Return the settings of a trial on one line, numbers with three digits."""
    return "  ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial["settings"].items()
    )


def _history(axes: Axes, record: Record) -> None:
    complete = [trial for trial in record["trials"] if trial["value"] is not None]
    steps = [trial["trial"] for trial in complete]
    values = [trial["value"] for trial in complete]
    best = [max(values[: place + 1]) for place in range(len(values))]
    axes.axhline(record["base"], color=COLOURS["base"], linestyle=":", label="base")
    axes.plot(steps, values, "o", color=COLOURS["tuned"], label="trial")
    axes.plot(steps, best, drawstyle="steps-post", color=COLOURS["control"], label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{metric_label(record['metric'])} on validation")
    axes.legend(loc="best")
