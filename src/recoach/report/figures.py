"""The figures of a report as SVG text, in small panels that stack on a narrow screen.

Equal records give equal bytes. The colours are from the palette of Okabe and Ito; line styles and
markers differ as well, so that the figures can be read without colour. In the SVG they are CSS
variables of the page, which has a dark mode.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from recoach.report.curves import Curve, Panel, curve_panel
from recoach.report.tables import (
    MODELS,
    Results,
    find_comparison,
    main_metric,
    main_metrics,
    metric_label,
    metric_value,
)

COLOURS: Final = {
    "popularity": "#9a9a9a",
    "repeat_last": "#bdbdbd",
    "base": "#4d4d4d",
    "control": "#d55e00",
    "tuned": "#0072b2",
}
DASHES: Final = {"base": "-", "control": "--", "tuned": "-"}
SVG_DASHES: Final = {"base": "", "control": "6 4", "tuned": ""}
_VARIABLES: Final = {
    "#1a1a1a": "var(--text)",
    "#8a8a8a": "var(--axis)",
    "#e6e6e6": "var(--grid)",
    **{COLOURS[stage]: f"var(--{stage})" for stage in ("base", "control", "tuned")},
}
MARKERS: Final = {"base": "D", "control": "s", "tuned": "o"}
VALIDATION: Final = "valid/ndcg@10"
GRPO_CURVES: Final = {
    "reward": "Mean reward",
    "policy/p_mean": "Mean probability of the rewarded items",
    "kl": "KL divergence from the base",
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


def pretraining_panels(metrics: Metrics, results: Results) -> list[Panel]:
    """Return loss and validation NDCG@10 of the base by step, without what was not logged."""
    loss = _curve_panel(metrics, "Training loss of the base", "loss", ("base",))
    best = {"base": results["models"]["base"].get("best_step")}
    ndcg = _curve_panel(metrics, "Validation NDCG@10 of the base", VALIDATION, ("base",), best=best)
    return [panel for panel in (loss, ndcg) if panel is not None]


def grpo_panels(metrics: Metrics, results: Results) -> list[Panel]:
    """Return validation NDCG@10 of base, control and GRPO by step, then what GRPO logged."""
    stages = ("control", "tuned")
    if not any(row["stage"] == "tuned" for row in metrics):
        return []
    best = {stage: results["models"].get(stage, {}).get("best_step") for stage in stages}
    level = metric_value(results, "base", "ndcg@10", "valid")
    panels = [
        _curve_panel(metrics, "Validation NDCG@10", VALIDATION, stages, best=best, level=level)
    ]
    panels += [
        _curve_panel(metrics, heading, key, ("tuned",)) for key, heading in GRPO_CURVES.items()
    ]
    panels.append(_drift_panel(metrics))
    return [panel for panel in panels if panel is not None]


@mpl.rc_context(STYLE)
def user_group_panels(results: Results) -> list[Panel]:
    """Return recall@10 by user activity and by target popularity, then NDCG by coverage.

    Coverage is the share of the catalogue that is in at least one list. Panels without data, as
    for results of older versions, are left out.
    """
    panels = [
        _group_panel(
            "Recall@10 by length of the user's history",
            _groups(results, "activity_groups"),
            _length_range,
            "interactions before the test item",
        ),
        _group_panel(
            "Recall@10 by popularity of the target",
            _groups(results, "popularity_buckets"),
            bucket_name,
            "popularity: items by share of all training interactions",
        ),
        _coverage_panel(results),
    ]
    return [panel for panel in panels if panel is not None]


@mpl.rc_context(STYLE)
def result_panels(results: Results, names: Sequence[str]) -> list[Panel]:
    """Return bars of NDCG and recall and, for tuned models, the change of all metrics.

    Error bars are 95 % intervals: of the value in bars, of the difference from the base else.

    Args:
        results: the content of results.json.
        names: the metrics whose change is drawn, like "ndcg@10".
    """
    bars = [_bar_panel(results, metric) for metric in main_metrics(results)]
    changes = _change_panel(results, names)
    return bars if changes is None else [changes, *bars]


def logged_values(metrics: Metrics, stage: str, key: str) -> tuple[list[float], list[float]]:
    """Return the steps and finite values of one logged quantity of a stage, in file order."""
    points = [
        (float(row["step"]), float(row[key]))
        for row in metrics
        if row["stage"] == stage and row.get(key) is not None and math.isfinite(row[key])
    ]
    return [step for step, _ in points], [value for _, value in points]


def _curve_panel(
    metrics: Metrics,
    heading: str,
    key: str,
    stages: Iterable[str],
    *,
    best: Mapping[str, int | None] | None = None,
    level: float | None = None,
) -> Panel | None:
    """Draw a quantity by step with a marker at the selected step; None if nothing was logged."""
    curves = {stage: logged_values(metrics, stage, key) for stage in stages}
    curves = {stage: curve for stage, curve in curves.items() if curve[0]}
    if not curves:
        return None
    drawn = [
        Curve(
            MODELS[stage],
            f"var(--{stage})",
            SVG_DASHES[stage],
            *curve,
            selected=(best or {}).get(stage),
        )
        for stage, curve in curves.items()
    ]
    if level is not None:
        steps = [step for steps, _ in curves.values() for step in steps]
        ends = [min(steps), max(steps)]
        drawn.insert(0, Curve(MODELS["base"], "var(--base)", "2 4", ends, [level, level]))
    return curve_panel(heading, drawn)


def _drift_panel(metrics: Metrics) -> Panel | None:
    """Draw the relative change of each parameter group against the base, by step."""
    names = sorted({key for row in metrics for key in row if key.startswith("drift/")})
    curves = {name: logged_values(metrics, "tuned", name) for name in names}
    curves = {name: curve for name, curve in curves.items() if any(curve[1])}
    if not curves:
        return None
    styles = [("var(--tuned)", ""), ("var(--control)", "6 4"), ("var(--base)", "2 4")]
    drawn = [
        Curve(name.split("/")[1], *styles[index % len(styles)], *curve)
        for index, (name, curve) in enumerate(curves.items())
    ]
    return curve_panel("Relative change of the parameters", drawn)


def _groups(results: Results, part: str) -> dict[str, Metrics]:
    """Return the groups of each trained model for which there are at least two."""
    groups = {key: results["models"].get(key, {}).get(part, []) for key in DASHES}
    return {key: rows for key, rows in groups.items() if len(rows) > 1}


def _length_range(group: Mapping[str, int]) -> str:
    lengths = sorted({group["shortest"], group["longest"]})
    return "–".join(str(length) for length in lengths)


def bucket_name(bucket: Mapping[str, Any]) -> str:
    """Return the name of a popularity group: "top 20 %", "20–40 %"; of old records its size."""
    if "interactions" not in bucket:
        return f"{bucket['items']:,}"
    low, high = (round(100 * end) for end in bucket["interactions"])
    return f"{low}–{high} %" if low else f"top {high} %"


def _group_panel(
    heading: str,
    models: Mapping[str, Metrics],
    name_of: Callable[[Mapping[str, Any]], str],
    label: str,
) -> Panel | None:
    """Draw recall@10 as a line over the groups for each model; None without groups."""
    if not models:
        return None
    axes = _axes()
    for shift, (key, groups) in enumerate(models.items(), start=-1):
        values = [group["recall@10"] for group in groups]
        places = [place + 0.06 * shift for place in range(len(groups))]
        for place, group in zip(places, groups, strict=True):
            if "interval" in group:
                axes.plot([place] * 2, group["interval"], color=COLOURS[key], linewidth=1.2)
        axes.plot(places, values, MARKERS[key], **_style(key), linestyle=DASHES[key])
    names = [name_of(group) for group in next(iter(models.values()))]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(bottom=0)
    return _panel(axes, heading, label)


def _coverage_panel(results: Results) -> Panel | None:
    """Draw NDCG over catalogue coverage, one point per model; None without data."""
    points = {}
    ndcg = main_metric(results, "ndcg")
    for key in MODELS:
        accuracy = metric_value(results, key, ndcg)
        coverage = metric_value(results, key, "coverage@10", "lists")
        if accuracy is not None and coverage is not None:
            points[key] = (100 * coverage, accuracy)
    if not points:
        return None
    axes = _axes()
    for key, (coverage, accuracy) in points.items():
        axes.plot([coverage], [accuracy], MARKERS.get(key, "^"), **_style(key))
    axes.margins(0.25)
    axes.set_ylabel(metric_label(ndcg))
    return _panel(axes, "Accuracy and catalogue coverage", "coverage@10, % of the catalogue")


def _bar_panel(results: Results, metric: str) -> Panel:
    """Draw a bar for each model with its value and its interval.

    Records of earlier versions have the interval of the difference from the base instead.
    """
    models = [key for key in MODELS if metric_value(results, key, metric) is not None]
    axes = _axes(height=0.9 + 0.46 * len(models))
    values = [metric_value(results, key, metric) or 0.0 for key in models]
    axes.barh(range(len(models)), values, height=0.62, color=[COLOURS[key] for key in models])
    base = metric_value(results, "base", metric) or 0.0
    for index, key in enumerate(models):
        entry = find_comparison(results, key, "base", metric)
        interval = results["models"][key].get("intervals", {}).get(metric)
        if interval is None and entry is not None and key != "popularity":
            interval = (base + entry["low"], base + entry["high"])
        right = values[index]
        if interval is not None:
            axes.plot(interval, [index, index], color="#1a1a1a", linewidth=1.5)
            right = max(right, interval[1])
        label = f"{values[index]:.4f}"
        axes.annotate(label, (right, index), (4, 0), textcoords="offset points", va="center")
    names = [MODELS[key].replace(" + ", "\n+ ") for key in models]
    axes.set_yticks(range(len(models)), names, fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.18)
    return _panel(axes, f"{metric_label(metric)} on the test items", legend=False)


def _change_panel(results: Results, names: Sequence[str]) -> Panel | None:
    """Draw the change against the base in per cent, a row per metric; None without comparisons."""
    stages = {"tuned": -0.16, "control": 0.16}
    comparisons = {
        stage: {
            index + shift: entry
            for index, name in enumerate(names)
            if (entry := find_comparison(results, stage, "base", name)) is not None
            and entry["relative"] is not None
        }
        for stage, shift in stages.items()
    }
    if not any(comparisons.values()):
        return None
    axes = _axes(height=1.2 + 0.42 * len(names))
    for stage, rows in comparisons.items():
        for y, entry in rows.items():
            base = metric_value(results, "base", entry["metric"])
            if base:
                interval = [100 * entry["low"] / base, 100 * entry["high"] / base]
                axes.plot(interval, [y] * 2, color=COLOURS[stage])
        if rows:
            changes = [100 * entry["relative"] for entry in rows.values()]
            axes.plot(changes, list(rows), MARKERS[stage], **_style(stage))
    axes.axvline(0, color=COLOURS["base"], linestyle=":")
    axes.set_yticks(range(len(names)), [metric_label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.figure.legend(loc="outside upper center", ncols=2)
    heading = "Change against the base, with 95 % intervals"
    return _panel(axes, heading, "change against the base, %", legend=False)


def _axes(height: float = 3.0) -> Axes:
    """Return the axes of an empty figure, 4.6 inches wide."""
    figure = Figure(figsize=(4.6, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure.add_subplot()


def _style(stage: str) -> dict[str, Any]:
    return {"color": COLOURS[stage], "label": MODELS[stage]}


def _panel(axes: Axes, heading: str, xlabel: str = "", *, legend: bool = True) -> Panel:
    """Return the panel of finished axes.

    The SVG is one <svg> element without date, metadata or random ids.
    """
    axes.set_xlabel(xlabel)
    axes.set_facecolor("none")
    if legend:
        axes.figure.legend(loc="outside upper center", ncols=2)
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": heading}):
        axes.figure.canvas.print_figure(buffer, format="svg", metadata=metadata, facecolor="none")
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*">', "<g>", text[text.index("<svg") :])
    text = re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    svg = text.replace("<svg ", f'<svg role="img" aria-label="{heading}" ', 1)
    return Panel(heading, svg)
