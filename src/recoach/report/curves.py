"""Curves by training step as SVG text; a script of the page adds values and a choice of curves.

The SVG is complete without the script. Colours are the page's CSS variables.
"""

import html
import json
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_WIDTH: Final = 460
_LEFT: Final = 62
_RIGHT: Final = 14
_PLOT: Final = 230
_BOTTOM: Final = 44
_LEGEND_LINE: Final = 18
_N_TICKS: Final = 5


class Panel(NamedTuple):
    """A figure: its heading and its <svg> element."""

    title: str
    svg: str
    is_curve: bool = False
    """Whether the script adds values at a step and a choice of curves."""


class Curve(NamedTuple):
    """One curve of a panel."""

    name: str
    colour: str
    """A CSS colour, such as `var(--tuned)`."""
    dash: str
    """`stroke-dasharray`; "" for a solid line."""
    steps: list[float]
    values: list[float]
    selected: int | None = None
    """The step whose weights are kept, which gets a marker."""


def curve_panel(heading: str, curves: Sequence[Curve]) -> Panel:
    """Return the curves in one plot with axes and, for more than one, a legend above it."""
    legend = _LEGEND_LINE * len(curves) if len(curves) > 1 else 0
    top = 14 + legend
    height = top + _PLOT + _BOTTOM
    steps = [step for curve in curves for step in curve.steps]
    values = [value for curve in curves for value in curve.values]
    x_ticks, y_ticks = nice_ticks(min(steps), max(steps)), nice_ticks(min(values), max(values))
    x_low, x_high = min(*steps, x_ticks[0]), max(*steps, x_ticks[-1])
    y_low, y_high = min(*values, y_ticks[0]), max(*values, y_ticks[-1])

    def x(step: float) -> float:
        share = (step - x_low) / ((x_high - x_low) or 1)
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * share, 1)

    def y(value: float) -> float:
        return round(top + _PLOT * (1 - (value - y_low) / ((y_high - y_low) or 1)), 1)

    parts = [_axes([(y(t), t) for t in y_ticks], [(x(t), t) for t in x_ticks], top)]
    for index, curve in enumerate(curves):
        points = [(s, v, x(s), y(v)) for s, v in zip(curve.steps, curve.values, strict=True)]
        parts.append(_curve(curve, points, 20 + _LEGEND_LINE * index if legend else None))
    parts.append(f'<line class="cursor" y1="{top}" y2="{top + _PLOT}" visibility="hidden"/>')
    label = html.escape(heading)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" '
        f'viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'
    )
    return Panel(heading, svg.replace("<svg xmlns", "<svg xmlns", 1), is_curve=True)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that cover a range; one of width 0 is widened."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / (_N_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    size = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [round(place * size, 10) for place in range(first, last + 1)]


def _axes(rows: list[tuple[float, float]], columns: list[tuple[float, float]], top: int) -> str:
    right, bottom = _WIDTH - _RIGHT, top + _PLOT
    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{number_text(value)}</text>'
        for y, value in rows
    ]
    lines += [
        f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{number_text(value)}</text>'
        for x, value in columns
    ]
    middle = (_LEFT + right) / 2
    lines.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    lines.append(f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">step</text>')
    return "".join(lines)


def _curve(
    curve: Curve, points: list[tuple[float, float, float, float]], legend_y: int | None
) -> str:
    style = f"stroke:{curve.colour};stroke-dasharray:{curve.dash or 'none'}"
    path = " ".join(f"{px},{py}" for _, _, px, py in points)
    shapes = [f'<polyline points="{path}" style="{style}"/>']
    dots = points if len(points) == 1 else [p for p in points if p[0] == curve.selected]
    shapes += [f'<circle cx="{p[2]}" cy="{p[3]}" r="4" style="fill:{curve.colour}"/>' for p in dots]
    name = html.escape(curve.name)
    if legend_y is not None:
        shapes.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 26}" y1="{legend_y - 4}" y2="{legend_y - 4}" '
            f'style="{style}"/><text x="{_LEFT + 34}" y="{legend_y}">{name}</text>'
        )
    data = html.escape(json.dumps(points))
    return f'<g class="series" data-name="{name}" data-points="{data}">{"".join(shapes)}</g>'


def number_text(value: float) -> str:
    """Return a number of an axis with at most four significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"
