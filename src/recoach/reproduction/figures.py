"""Figures of the reproduction: bases side by side, gains, and each factor over the steps."""

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
from recoach.report.figures import COLOURS as STAGES
from recoach.report.figures import MARKERS, STYLE
from recoach.report.table_cells import find_comparison
from recoach.report.tables import metric_label
from recoach.reproduction.paper_results import METRICS

COLOURS: Final = {"sasrec": "#0072b2", "lightgcn": "#d55e00", "gsau": "#4d4d4d"}
NAMES: Final = {"sasrec": "SASRec", "lightgcn": "LightGCN", "gsau": "GSAU"}
_GAINED: Final = "ndcg@10"
_LEGEND: Final = {"control": "as many supervised steps", "tuned": "GRPO, 95 % over users"}
_WIDTH = 0.26


def draw_figure1(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the bases' figures, a panel for each data set, as SVG and PNG."""
    panels = {name: found["cells"] for name, found in record["data"].items() if found["cells"]}
    return _drawn(panels, _bars, folder / "figure1")


def draw_factors(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw validation NDCG@10 against GRPO's steps, a panel for each data set and backbone."""
    panels: dict[str, dict[str, Any]] = {}
    for name, found in record["data"].items():
        for cell_name, cell in found["cells"].items():
            if cell["diagnostics"]:
                model, _, factor = cell_name.partition("-")
                panels.setdefault(f"{name}, {NAMES[model]}", {})[
                    factor.replace("-", " ") or "paper"
                ] = cell
    if not panels:
        return []
    return _drawn(panels, _curves, folder / "factors")


def draw_gains(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the change of NDCG@10 against the base on each data set, a panel for each backbone."""
    panels = {
        NAMES[model]: {
            name: found["cells"][model]
            for name, found in record["data"].items()
            if model in found["cells"]
        }
        for model in NAMES
    }
    return _drawn({n: cells for n, cells in panels.items() if cells}, _forest, folder / "gains")


def _drawn(
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
    """Write a figure as SVG and PNG, the same bytes for the same figure; return both paths."""
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
        left = [index + (place - (len(cells) - 1) / 2) * _WIDTH for index in range(len(METRICS))]
        axes.bar(left, heights, _WIDTH, label=NAMES[model], color=COLOURS[model])
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
    """Draw a line for each data set: the tuned model with its interval, and the control."""
    for place, cell in enumerate(cells.values()):
        figures = {s: m["test"][_GAINED]["mean"] for s, m in cell["models"].items()}
        base = figures["base"] or math.nan
        told = find_comparison(cell, "tuned", "base", _GAINED)
        ends = [] if told is None else [100 * told[end] / base for end in ("low", "high")]
        axes.plot(ends, [place] * len(ends), color=STAGES["tuned"])
        for stage, label in _LEGEND.items():
            change = 100 * (figures.get(stage, math.nan) / base - 1)
            said = "_" if place else label  # told once in the legend
            axes.plot(change, place, MARKERS[stage], color=STAGES[stage], label=said)
    axes.axvline(0, color="#8a8a8a", linewidth=1)
    axes.set_yticks(range(len(cells)), list(cells))
    axes.set_ylim(len(cells) + 0.4, -0.6)  # the first on top, and a place for the legend
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"change of {metric_label(_GAINED)}, %")
    axes.legend(fontsize=8, loc="lower right")
