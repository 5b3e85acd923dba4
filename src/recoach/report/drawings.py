"""Figures of the reproduction: the bases side by side, and what each factor does over the steps."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from recoach.experiments.folder import RunFolder
from recoach.experiments.published import METRICS
from recoach.report.figures import STYLE
from recoach.report.tables import title

COLOURS: Final = {"sasrec": "#0072b2", "lightgcn": "#d55e00", "gsau": "#4d4d4d"}
NAMES: Final = {"sasrec": "SASRec", "lightgcn": "LightGCN", "gsau": "GSAU"}
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


def _drawn(
    panels: Mapping[str, Any], draw: Callable[[Axes, Mapping[str, Any]], None], path: Path
) -> list[Path]:
    with mpl.rc_context({**STYLE, "svg.hashsalt": "recoach"}):
        figure = Figure(figsize=(5.2 * max(1, len(panels)), 3.8), layout="constrained")
        for place, (name, cells) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), place + 1)
            draw(axes, cells)
            axes.set_title(name)
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
    axes.set_xticks(range(len(METRICS)), [title(metric) for metric in METRICS])
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
