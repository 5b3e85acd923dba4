"""The curves and bars of a report as SVG text, one small panel each so that a phone can stack them.

The same records give the same bytes. Colours are those of Okabe and Ito, told apart by line style
and marker as well.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from recoach.report.tables import MODELS, Results, find_comparison, metric_label, metric_value

COLOURS: Final = {
    "popularity": "#9a9a9a",
    "base": "#4d4d4d",
    "control": "#d55e00",
    "tuned": "#0072b2",
}
DASHES: Final = {"base": "-", "control": "--", "tuned": "-"}
MARKERS: Final = {"base": "D", "control": "s", "tuned": "o"}
VALID: Final = "valid/ndcg@10"
GRPO: Final = {
    "reward": "Reward",
    "policy/p_mean": "Probability of what is rewarded",
    "kl": "KL to the base",
    "entropy": "Entropy of the policy",
}
STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": "#1a1a1a",
    "axes.labelcolor": "#1a1a1a",
    "axes.edgecolor": "#8a8a8a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#1a1a1a",
    "ytick.color": "#1a1a1a",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
}

Metrics = Sequence[Mapping[str, Any]]


class Panel(NamedTuple):
    """One figure: its heading and its <svg> element."""

    title: str
    svg: str


@mpl.rc_context(STYLE)
def learning_panels(metrics: Metrics, results: Results) -> list[Panel]:
    """Return the base's loss and validation NDCG@10 by step; what was not logged is left out."""
    loss = _curve(metrics, "Training loss of the base", "loss", ("base",))
    best = {"base": results["models"]["base"].get("best_step")}
    ndcg = _curve(metrics, "Validation NDCG@10 of the base", VALID, ("base",), best=best)
    return [panel for panel in (loss, ndcg) if panel is not None]


@mpl.rc_context(STYLE)
def grpo_panels(metrics: Metrics, results: Results) -> list[Panel]:
    """Return validation NDCG@10 of GRPO and control over the base's line, then what GRPO logs."""
    stages = ("control", "tuned")
    if not any(row["stage"] == "tuned" for row in metrics):
        return []
    best = {stage: results["models"].get(stage, {}).get("best_step") for stage in stages}
    level = metric_value(results, "base", "ndcg@10", "valid")
    panels = [_curve(metrics, "Validation NDCG@10", VALID, stages, best=best, level=level)]
    panels += [_curve(metrics, heading, key, ("tuned",)) for key, heading in GRPO.items()]
    panels.append(_drift(metrics))
    return [panel for panel in panels if panel is not None]


@mpl.rc_context(STYLE)
def audience_panels(results: Results) -> list[Panel]:
    """Return recall@10 by activity of the user and by popularity of the target, and the trade.

    The trade is accuracy against diversity: how much of the catalogue any list shows, against
    NDCG@10. Records of older versions lack the groups; what is missing is left out.
    """
    models = results["models"]
    by_activity = {key: models[key].get("activity_groups", []) for key in MODELS if key in models}
    by_popularity = {
        key: models[key].get("popularity_buckets", []) for key in MODELS if key in models
    }
    panels = [
        _groups(
            "Recall@10 by length of the user's history",
            {
                key: [(_span(g), g["recall@10"]) for g in found]
                for key, found in by_activity.items()
            },
            "interactions before the test item",
        ),
        _groups(
            "Recall@10 by popularity of the target",
            {
                key: [(f"{b['items']:,}", b["recall@10"]) for b in found]
                for key, found in by_popularity.items()
            },
            "items in the group, the most popular ones first",
        ),
        _trade(results),
    ]
    return [panel for panel in panels if panel is not None]


@mpl.rc_context(STYLE)
def result_panels(results: Results, names: Sequence[str]) -> list[Panel]:
    """Return bars of the test figures at 10 and, for tuned models, the gains of all `names`.

    Whiskers are the 95 % interval of the difference to the base.
    """
    bars = [_bars(results, metric) for metric in ("ndcg@10", "recall@10")]
    gains = _gains(results, names)
    return bars if gains is None else [gains, *bars]


def series(metrics: Metrics, stage: str, key: str) -> tuple[list[float], list[float]]:
    """Return the steps and the finite values of one logged quantity, in file order."""
    points = [
        (float(row["step"]), float(row[key]))
        for row in metrics
        if row["stage"] == stage and row.get(key) is not None and math.isfinite(row[key])
    ]
    return [step for step, _ in points], [figure for _, figure in points]


def _curve(
    metrics: Metrics,
    heading: str,
    key: str,
    stages: Iterable[str],
    *,
    best: Mapping[str, int | None] | None = None,
    level: float | None = None,
) -> Panel | None:
    """Draw a quantity by step, a dot on each selected step; None where nothing was logged."""
    curves = {stage: series(metrics, stage, key) for stage in stages}
    curves = {stage: curve for stage, curve in curves.items() if curve[0]}
    if not curves:
        return None
    figure, axes = _canvas()
    if level is not None:
        axes.axhline(level, color=COLOURS["base"], linestyle=":", label=MODELS["base"])
    for stage, (steps, values) in curves.items():
        look: dict[str, Any] = {
            "color": COLOURS[stage],
            "linestyle": DASHES[stage],
            "label": MODELS[stage],
        }
        axes.plot(steps, values, **look, marker="" if len(steps) > 1 else ".")
        chosen = (best or {}).get(stage)
        if chosen in steps:
            at = values[steps.index(chosen)]
            axes.plot([chosen], [at], MARKERS[stage], color=COLOURS[stage], label="_selected")
    axes.set_xlabel("step")
    axes.margins(x=0.03)
    if len(curves) > 1 or level is not None:
        axes.legend(loc="best")
    return Panel(heading, _svg(figure, heading))


def _drift(metrics: Metrics) -> Panel | None:
    """Draw how far each table has moved, by step."""
    names = sorted({key for row in metrics for key in row if key.startswith("drift/")})
    curves = {name: series(metrics, "tuned", name) for name in names}
    curves = {name: curve for name, curve in curves.items() if any(curve[1])}
    if not curves:
        return None
    figure, axes = _canvas()
    for place, (name, (steps, moved)) in enumerate(curves.items()):
        axes.plot(steps, moved, ("-", "--", ":", "-.")[place % 4], label=name.split("/")[1])
    axes.set_xlabel("step")
    axes.legend(loc="best")
    heading = "Drift of the tables"
    return Panel(heading, _svg(figure, heading))


def _span(group: Mapping[str, int]) -> str:
    ends = sorted({group["shortest"], group["longest"]})
    return "–".join(str(end) for end in ends)


def _groups(
    heading: str, found: Mapping[str, Sequence[tuple[str, float]]], label: str
) -> Panel | None:
    """Draw a line for each model over groups; None where there are fewer than two."""
    shown = {key: groups for key, groups in found.items() if key in DASHES and len(groups) > 1}
    if not shown:
        return None
    figure, axes = _canvas()
    for key, groups in shown.items():
        look: dict[str, Any] = {"color": COLOURS[key], "linestyle": DASHES[key]}
        heights = [height for _, height in groups]
        axes.plot(range(len(groups)), heights, MARKERS[key], label=MODELS[key], **look)
    names = [name for name, _ in next(iter(shown.values()))]
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.legend(loc="best")
    return Panel(heading, _svg(figure, heading))


def _trade(results: Results) -> Panel | None:
    figure, axes = _canvas()
    drawn = False
    for key in MODELS:
        accuracy = metric_value(results, key, "ndcg@10")
        shown = results["models"].get(key, {}).get("lists", {}).get("coverage@10")
        if accuracy is None or shown is None:
            continue
        drawn = True
        axes.plot([100 * shown], [accuracy], MARKERS.get(key, "^"), color=COLOURS[key])
        axes.annotate(MODELS[key], (100 * shown, accuracy), (6, 4), textcoords="offset points")
    if not drawn:
        return None
    axes.margins(0.25)
    axes.set_xlabel("share of the catalogue in any list, %")
    axes.set_ylabel("NDCG@10")
    heading = "Accuracy against diversity"
    return Panel(heading, _svg(figure, heading))


def _bars(results: Results, metric: str) -> Panel:
    """Draw a bar per model, its value written above."""
    figure, axes = _canvas()
    shown = [key for key in MODELS if metric_value(results, key, metric) is not None]
    heights = [metric_value(results, key, metric) or 0.0 for key in shown]
    axes.bar(range(len(shown)), heights, width=0.62, color=[COLOURS[key] for key in shown])
    base = metric_value(results, "base", metric) or 0.0
    for place, key in enumerate(shown):
        found = find_comparison(results, key, "base", metric)
        top = heights[place]
        if found is not None and key != "popularity":
            ends = (base + found["low"], base + found["high"])
            axes.plot([place, place], ends, color="#1a1a1a", linewidth=1.5)
            top = max(top, ends[1])
        label = f"{heights[place]:.4f}"
        axes.annotate(label, (place, top), (0, 4), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(shown)), [MODELS[key].replace(" + ", "\n+ ") for key in shown])
    axes.tick_params(axis="x", length=0, labelsize=9)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.15)
    heading = f"{metric_label(metric)} on the test items"
    return Panel(heading, _svg(figure, heading))


def _gains(results: Results, names: Sequence[str]) -> Panel | None:
    """Draw the gain over the base in per cent, a row per metric; None without comparisons."""
    figure, axes = _canvas(height=1.2 + 0.42 * len(names))
    drawn = False
    for shift, stage in ((-0.16, "tuned"), (0.16, "control")):
        found = [
            (place, find_comparison(results, stage, "base", name))
            for place, name in enumerate(names)
        ]
        known = [(place, entry) for place, entry in found if entry is not None]
        for place, entry in known:
            base = metric_value(results, "base", entry["metric"])
            if base:
                ends = [100 * entry["low"] / base, 100 * entry["high"] / base]
                axes.plot(ends, [place + shift] * 2, color=COLOURS[stage])
        centres = [100 * entry["relative"] for _, entry in known]
        places = [place + shift for place, _ in known]
        look: dict[str, Any] = {"color": COLOURS[stage], "label": MODELS[stage]}
        if known:
            drawn = True
            axes.plot(centres, places, MARKERS[stage], **look)
    if not drawn:
        return None
    axes.axvline(0, color=COLOURS["base"], linestyle=":")
    axes.set_yticks(range(len(names)), [metric_label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("change to the base, %")
    figure.legend(loc="outside upper center", ncols=2)
    heading = "Gain over the base, with 95 % intervals"
    return Panel(heading, _svg(figure, heading))


def _canvas(height: float = 3.0) -> tuple[Figure, Axes]:
    """Return an empty panel in the house style, 4.6 inches wide."""
    figure = Figure(figsize=(4.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Figure, heading: str) -> str:
    """Return the figure as one <svg> element: no date, no metadata, ids that hash its content."""
    buffer = io.StringIO()
    unsigned = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": heading}):
        figure.savefig(buffer, format="svg", metadata=unsigned)
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*">', "<g>", text[text.index("<svg") :])
    text = re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{heading}" ', 1)
