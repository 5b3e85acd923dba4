"""Figures of the reproduction: base models, changes against the base, and validation curves."""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from recoach.experiments.run_folder import RunFolder
from recoach.report.figures import COLOURS as STAGE_COLOURS
from recoach.report.figures import MARKERS, STYLE
from recoach.report.table_cells import find_comparison
from recoach.report.tables import metric_label
from recoach.reproduction.labels import CONTROL, NAMES
from recoach.reproduction.paper_results import METRICS

_MODEL_COLOURS: Final = {"sasrec": "#0072b2", "lightgcn": "#d55e00", "gsau": "#4d4d4d"}
_METRIC: Final = "ndcg@10"
_LEGEND: Final = {"control": CONTROL, "tuned": "GRPO, 95 % interval over users"}
_BAR_WIDTH = 0.26


def draw_figure1(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the metrics of the base models, a panel per log, as SVG and PNG; return both files."""
    panels = {log: data["cells"] for log, data in record["data"].items() if data["cells"]}
    return _draw_panels(panels, _bars, folder / "figure1")


def draw_factors(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw validation NDCG@10 over the steps of GRPO, a panel per log and model."""
    panels: dict[str, dict[str, Any]] = {}
    for log, data in record["data"].items():
        for name, cell in data["cells"].items():
            if cell["diagnostics"]:
                model, _, factor = name.partition("-")
                panel = panels.setdefault(f"{log}, {NAMES[model]}", {})
                panel[factor.replace("-", " ") or "paper"] = cell
    if not panels:
        return []
    return _draw_panels(panels, _curves, folder / "factors")


def draw_gains(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the change of NDCG@10 relative to the base on each log, a panel per model."""
    panels = {
        NAMES[model]: {
            log: data["cells"][model]
            for log, data in record["data"].items()
            if model in data["cells"]
        }
        for model in NAMES
    }
    panels = {name: cells for name, cells in panels.items() if cells}
    return _draw_panels(panels, _forest, folder / "gains")


def _draw_panels(
    panels: Mapping[str, Any], draw: Callable[[Axes, Mapping[str, Any]], None], path: Path
) -> list[Path]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * max(1, len(panels)), 3.8), layout="constrained")
        for place, (name, cells) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), place + 1)
            draw(axes, cells)
            axes.set_title(name)
    return save(figure, path)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as SVG and PNG, byte-identical for equal figures, and return both files."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "recoach"}):
        images = {"svg": io.BytesIO(), "png": io.BytesIO()}
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            images["svg"], metadata={"Date": None}
        )
        FigureCanvasAgg(figure).print_png(images["png"])  # type: ignore[no-untyped-call]
    for ending, image in images.items():
        RunFolder(path.parent).write_bytes(f"{path.name}.{ending}", image.getvalue())
    return [path.with_name(f"{path.name}.{ending}") for ending in images]


def _bars(axes: Axes, cells: Mapping[str, Any]) -> None:
    for place, (model, cell) in enumerate(cells.items()):
        heights = [cell["models"]["base"]["test"][metric]["mean"] for metric in METRICS]
        left = [
            index + (place - (len(cells) - 1) / 2) * _BAR_WIDTH for index in range(len(METRICS))
        ]
        axes.bar(left, heights, _BAR_WIDTH, label=NAMES[model], color=_MODEL_COLOURS[model])
    axes.set_xticks(range(len(METRICS)), [metric_label(metric) for metric in METRICS])
    axes.grid(axis="x", visible=False)
    axes.legend()


def _curves(axes: Axes, cells: Mapping[str, Any]) -> None:
    for place, (factor, cell) in enumerate(cells.items()):
        steps, values = zip(*cell["diagnostics"]["curve"], strict=True)
        colour, line = f"C{place % 10}", ("-", "--", ":")[place % 3]
        axes.plot(steps, values, label=factor, marker="o", markersize=3, color=colour, ls=line)
    axes.set_xlabel("step of GRPO")
    axes.set_ylabel("NDCG@10 on validation")
    axes.legend(fontsize=8)


def _forest(axes: Axes, cells: Mapping[str, Any]) -> None:
    """Draw a row per log: the fine-tuned model with its interval, and the control."""
    for place, cell in enumerate(cells.values()):
        values = {s: m["test"][_METRIC]["mean"] for s, m in cell["models"].items()}
        base = values["base"] or math.nan
        row = find_comparison(cell, "tuned", "base", _METRIC)
        ends = [] if row is None else [100 * row[end] / base for end in ("low", "high")]
        axes.plot(ends, [place] * len(ends), color=STAGE_COLOURS["tuned"])
        for stage, label in _LEGEND.items():
            change = 100 * (values.get(stage, math.nan) / base - 1)
            once = "_" if place else label  # matplotlib leaves "_" out of the legend
            axes.plot(change, place, MARKERS[stage], color=STAGE_COLOURS[stage], label=once)
    axes.axvline(0, color="#8a8a8a", linewidth=1)
    axes.set_yticks(range(len(cells)), list(cells))
    axes.set_ylim(len(cells) + 0.4, -0.6)  # the first log on top, and space for the legend
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"change of {metric_label(_METRIC)}, %")
    axes.legend(fontsize=8, loc="lower right")
