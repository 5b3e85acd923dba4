"""Figure 1 of the paper: the backbones side by side."""

import io
from collections.abc import Mapping
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
    data = {name: found for name, found in record["data"].items() if found["cells"]}
    with mpl.rc_context({**STYLE, "svg.hashsalt": "recoach"}):
        figure = Figure(figsize=(4.6 * max(1, len(data)), 3.4), layout="constrained")
        for place, (name, found) in enumerate(data.items()):
            axes = figure.add_subplot(1, len(data), place + 1)
            _bars(axes, found["cells"])
            axes.set_title(name)
        images = {"svg": io.BytesIO(), "png": io.BytesIO()}
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            images["svg"], metadata={"Date": None}
        )
        FigureCanvasAgg(figure).print_png(images["png"])  # type: ignore[no-untyped-call]
    for ending, image in images.items():
        RunFolder(folder).write_bytes(f"figure1.{ending}", image.getvalue())
    return [folder / f"figure1.{ending}" for ending in images]


def _bars(axes: Axes, cells: Mapping[str, Any]) -> None:
    for place, (model, cell) in enumerate(cells.items()):
        heights = [cell["models"]["base"]["test"][metric]["mean"] for metric in METRICS]
        left = [index + (place - (len(cells) - 1) / 2) * _WIDTH for index in range(len(METRICS))]
        axes.bar(left, heights, _WIDTH, label=NAMES[model], color=COLOURS[model])
    axes.set_xticks(range(len(METRICS)), [title(metric) for metric in METRICS])
    axes.grid(axis="x", visible=False)
    axes.legend()
