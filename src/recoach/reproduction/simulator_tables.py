"""Tables of the simulated shop, and the accuracy-novelty front as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recoach.report.figures import STYLE
from recoach.report.table_cells import verdict_cell
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, format_change, format_metric, metric_label
from recoach.reproduction.figures import save
from recoach.reproduction.labels import CONTROL

Record = Mapping[str, Any]

_FRONT: Final = ("ndcg@10", "recall@10", "novelty@10", "diversity@10", "coverage@10")


def simulated(record: Record) -> list[ResultTable]:
    """Return the clicks, lists and visits of each policy, and accuracy against diversity."""
    rows: list[tuple[str, ...]] = []
    for name, policy in record["policies"].items():
        rows.append(
            (
                _label(name),
                f"{policy['reward']['mean']:.2f}",
                _compared(policy["reward"], record) if name != "base" else MISSING,
                f"{policy['turns']['mean']:.2f}",
                f"{policy['sessions']['mean']:.2f}",
                f"{100 * policy['return_rate']:.1f} %",
                f"{100 * policy['coverage']:.1f} %",
            )
        )
    head = ("Policy", "Clicks", "Clicks vs. base", "Lists", "Visits", "Return rate", "Coverage")
    settings = record["settings"]
    note = (
        f"{settings['customers']:,} customers and up to {settings['items']:,} items in each of "
        f"{len(record['seeds'])} shops; means per customer, up to the last visit or "
        f"{settings['moods']['turns']} lists. Intervals: 95 %, paired over the customers of all "
        'shops with the same random draws; after "seeds", Student\'s t interval over shops. '
        "Coverage: share of the catalogue that was shown to at least one customer."
    )
    return [ResultTable("Simulated customers", head, rows, note), _front(record)]


def draw_front(record: Record, folder: Path) -> list[Path]:
    """Draw accuracy against novelty, and clicks against coverage; return the SVG and the PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.2), layout="constrained")
        models = {name: p for name, p in record["policies"].items() if p["log"]}
        _points(
            figure.add_subplot(1, 2, 1),
            {name: (p["log"]["novelty@10"], p["log"]["ndcg@10"]) for name, p in models.items()},
            ("novelty of the lists (bits)", "NDCG@10 on the log's test items"),
        )
        _points(
            figure.add_subplot(1, 2, 2),
            {
                name: (100 * p["coverage"], p["reward"]["mean"])
                for name, p in record["policies"].items()
            },
            ("coverage of the catalogue, %", "clicks per customer"),
        )
    return save(figure, folder / "simulator")


def _front(record: Record) -> ResultTable:
    rows = [
        (
            _label(name),
            *(format_metric(policy["log"][metric]) for metric in _FRONT),
            f"{policy['reward']['mean']:.2f}",
        )
        for name, policy in record["policies"].items()
        if policy["log"]
    ]
    head = ("Model", *(metric_label(metric) for metric in _FRONT), "Clicks")
    note = "Accuracy and lists on the test items of the log; clicks as in the table above."
    return ResultTable("Accuracy and diversity", head, rows, note)


def _label(policy: str) -> str:
    """Return the label of a policy; records keep the names of their first version."""
    return policy.replace("supervised steps", CONTROL)


def _compared(reward: Record, record: Record) -> str:
    base = record["policies"]["base"]["reward"]["mean"]
    if not base:
        return f"{MISSING}: {reward['against_base']['verdict']}"
    change = format_change(reward["mean"], base)
    return f"{change}: {verdict_cell(reward['against_base'], base)}"


def _points(axes: Axes, points: Mapping[str, tuple[float, float]], labels: tuple[str, str]) -> None:
    for place, (name, (x, y)) in enumerate(points.items()):
        axes.plot([x], [y], "o", color=f"C{place % 10}")
        axes.annotate(_label(name), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.margins(0.15)
