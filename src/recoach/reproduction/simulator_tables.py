"""The simulated customers as tables, and the front of accuracy and novelty as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recoach.report.figures import STYLE
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, format_metric, format_percent, metric_label
from recoach.reproduction.figures import save

Record = Mapping[str, Any]

_FRONT: Final = ("ndcg@10", "recall@10", "novelty@10", "diversity@10", "coverage@10")


def simulated(record: Record) -> list[ResultTable]:
    """Return what each policy came to, and the front of accuracy and diversity."""
    rows: list[tuple[str, ...]] = []
    for name, found in record["policies"].items():
        rows.append(
            (
                name,
                f"{found['reward']['mean']:.2f}",
                _verdict(found["reward"], record) if name != "base" else MISSING,
                f"{found['turns']['mean']:.2f}",
                f"{found['sessions']['mean']:.2f}",
                f"{100 * found['return_rate']:.1f} %",
                f"{100 * found['coverage']:.1f} %",
            )
        )
    head = ("Policy", "Clicks", "against the base", "Lists", "Visits", "Came back", "Shown")
    settings = record["settings"]
    note = (
        f"{settings['customers']:,} customers and up to {settings['items']:,} items in each of "
        f"{len(record['seeds'])} shops; means for each customer until he stays away, or "
        f"{settings['moods']['turns']} lists. Intervals: 95 %, paired over customers of all shops "
        'on the same luck; behind "seeds", Student\'s interval over shops. Shown: share of the '
        "catalogue that anybody saw."
    )
    return [ResultTable("Simulated customers", head, rows, note), _front(record)]


def draw_front(record: Record, folder: Path) -> list[Path]:
    """Draw accuracy against novelty, and clicks against coverage, as SVG and PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.2), layout="constrained")
        served = {name: p for name, p in record["policies"].items() if p["log"]}
        _points(
            figure.add_subplot(1, 2, 1),
            {name: (p["log"]["novelty@10"], p["log"]["ndcg@10"]) for name, p in served.items()},
            ("novelty of the lists (bits)", "NDCG@10 on the log's test items"),
        )
        _points(
            figure.add_subplot(1, 2, 2),
            {
                name: (100 * p["coverage"], p["reward"]["mean"])
                for name, p in record["policies"].items()
            },
            ("share of the catalogue shown, %", "clicks of a customer"),
        )
    return save(figure, folder / "simulator")


def _front(record: Record) -> ResultTable:
    rows = [
        (
            name,
            *(format_metric(found["log"][metric]) for metric in _FRONT),
            f"{found['reward']['mean']:.2f}",
        )
        for name, found in record["policies"].items()
        if found["log"]
    ]
    head = ("Model", *(metric_label(metric) for metric in _FRONT), "Clicks")
    note = "Accuracy and lists on the log's test items; clicks are those of the table above."
    return ResultTable("Accuracy against diversity", head, rows, note)


def _verdict(found: Record, record: Record) -> str:
    against = found["against_base"]
    base = record["policies"]["base"]["reward"]["mean"]
    low, high = (format_percent(against[end] / base) for end in ("low", "high"))
    seeds = ""
    if "seeds" in against:
        seeds = "; seeds {} to {}".format(*(format_percent(end / base) for end in against["seeds"]))
    return (
        f"{format_percent(found['mean'] / base - 1)}: {against['verdict']} ({low} to {high}{seeds})"
    )


def _points(axes: Axes, points: Mapping[str, tuple[float, float]], labels: tuple[str, str]) -> None:
    for place, (name, (x, y)) in enumerate(points.items()):
        axes.plot([x], [y], "o", color=f"C{place % 10}")
        axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.margins(0.15)
