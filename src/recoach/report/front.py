"""A front as a picture, tables and sentences."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recoach.experiments.run_folder import RunFolder
from recoach.report.figures import STYLE
from recoach.report.table_formats import ResultTable, html_page, markdown
from recoach.report.tables import format_change, format_metric, metric_label

Record = Mapping[str, Any]
RL: Final = "fine-tuning"
_STYLES: Final = {
    "mmr": ("#d55e00", "s"),
    "dpp": ("#cc79a7", "^"),
    "xquad": ("#009e73", "v"),
    "calibration": ("#e69f00", "P"),
    "popularity": ("#56b4e9", "X"),
    "exposure_cap": ("#8c564b", "d"),
    "value": ("#999933", "<"),
    "value, continued training": ("#d55e00", ">"),
    "price": ("#cc79a7", "^"),
    "price, continued training": ("#e69f00", "v"),
    "popularity, continued training": ("#009e73", "P"),
    "continued training": ("#1a1a1a", "s"),
    RL: ("#0072b2", "o"),
    f"{RL}, same candidates": ("#7fb2d9", "o"),
    "imitation": ("#1a1a1a", "*"),
}
"""Colour and marker of each method; the colours are from the palette of Okabe and Ito."""
_LABELS: Final = {
    "mmr": "MMR",
    "dpp": "DPP",
    "xquad": "xQuAD",
    "calibration": "calibration",
    "popularity": "popularity offset",
    "exposure_cap": "exposure cap",
    "value": "value offset",
    "value, continued training": "value offset,\ncontinued training",
    "price": "price offset",
    "price, continued training": "price offset,\ncontinued training",
    "popularity, continued training": "popularity offset,\ncontinued training",
}
_AXES: Final = {
    "calibration": "divergence from the user's own mix\nof categories, nats (less is better)",
    "coverage": "part of the catalogue\nthat is in some list, %",
    "diversity": "difference between the items of a list, %",
    "novelty": "rarity of the items, bits",
    "value": "value of the hits in a list",
    "revenue": "true revenue of a list",
}
_PERCENT: Final = frozenset({"coverage", "diversity"})
_LOSS: Final = 1.0
"""Loss of accuracy in % up to which the picture is shaded."""


def front_tables(record: Record) -> list[ResultTable]:
    """Return the methods with their hypervolumes, the matched settings, and all settings."""
    return [_methods(record), _matched(record), _settings(record)]


def front_sentences(record: Record) -> list[str]:
    """Return what the front shows, in sentences."""
    found = record["differences"][RL]["best re-ranker"]
    reranker, metric = record["best_reranker"], record["metric"]
    better = "is better than" if found["low"] > 0 else "is worse than"
    verdict = better if found["low"] > 0 or found["high"] < 0 else "cannot be told apart from"
    sentences = [
        f"The front of fine-tuning {verdict} that of {reranker}, the best re-ranker on validation: "
        f"hypervolume {found['difference']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f}) of "
        f"accuracy and {metric.partition('@')[0]}."
    ]
    times = record["milliseconds"]
    sentences.append(
        f"One list takes {times[RL]:.2f} ms after fine-tuning, {times['base']:.2f} ms with the "
        f"base and {times[reranker]:.2f} ms with {reranker} (median, one state at a time)."
    )
    if record["optimum"]:
        sentences.append(record["optimum"])
    return sentences


def write_front(record: Record, folder: Path) -> list[Path]:
    """Write front.json, front.md, front.html and front.svg into a folder; return their paths."""
    run = RunFolder(folder)
    tables, sentences = front_tables(record), front_sentences(record)
    title = f"Accuracy and {record['objective']}"
    run.write_json("front.json", record)
    run.write_text("front.md", "\n\n".join([f"# {title}", *sentences, markdown(tables)]))
    page = html_page(title, tables, lead="\n".join(sentences), picture=front_picture(record, "png"))
    run.write_text("front.html", page)
    run.write_bytes("front.svg", front_picture(record, "svg"))
    return [folder / f"front.{ending}" for ending in ("json", "md", "html", "svg")]


def _methods(record: Record) -> ResultTable:
    rows: list[tuple[str, ...]] = []
    for name, method in sorted(
        record["methods"].items(), key=lambda pair: -float(pair[1]["hypervolume"])
    ):
        n_on_front = sum(entry["on_front"] for entry in method["settings"])
        times = record["milliseconds"]
        milliseconds = f"{times[name]:.2f}" if name in times else ""
        rows.append((name, f"{method['hypervolume']:.4f}", str(n_on_front), milliseconds))
    against = [
        f"{name} against {other}: {entry['difference']:+.4f} ({entry['low']:+.4f} to "
        f"{entry['high']:+.4f})"
        for name, entries in record["differences"].items()
        for other, entry in entries.items()
    ]
    note = (
        f"Hypervolume of the test points of the settings that validation does not dominate, scaled "
        f"to 0..1; the best re-ranker on validation is {record['best_reranker']}. Differences with "
        f"joint 95 % intervals over {record['users']:,} users: {'; '.join(against)}."
    )
    columns = ("method", "hypervolume", "settings on the front", "ms for a list")
    return ResultTable("Methods", columns, rows, note)


def _matched(record: Record) -> ResultTable:
    accuracy, metric = record["accuracy"], record["metric"]
    rows = []
    for entry in record["matched"]:
        cells = (
            f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
            for value, low, high in (entry[accuracy], entry[metric])
        )
        rows.append(
            (f"{entry['knob']:g}", entry["reranker"], f"{entry['reranker_knob']:.3g}", *cells)
        )
    columns = (
        "weight of fine-tuning",
        "re-ranker",
        "its knob",
        *map(metric_label, (accuracy, metric)),
    )
    note = (
        "Each setting of fine-tuning against the re-ranking that is within 1 % of its accuracy on "
        "validation and best in the objective there; differences on test with 95 % intervals."
    )
    return ResultTable("At equal accuracy", columns, rows, note)


def _settings(record: Record) -> ResultTable:
    names = list(record["base"]["test"])
    base = record["base"]["test"]
    rows = [("base", "", "", *(format_metric(base[name]) for name in names), "")]
    for method, found in record["methods"].items():
        for entry in found["settings"]:
            change = format_change(entry["test"][record["accuracy"]], base[record["accuracy"]])
            cells = (format_metric(entry["test"][name]) for name in names)
            mark = "yes" if entry["on_front"] else ""
            rows.append((method, f"{entry['knob']:.3g}", mark, *cells, change))
    columns = ("method", "knob", "on the front", *map(metric_label, names), "accuracy vs. base")
    return ResultTable("All settings, test", columns, rows)


def front_picture(record: Record, kind: str) -> bytes:
    """Return the picture: change of accuracy against the base, and the objective, on test.

    Args:
        record: the content of front.json; read are its `base`, its `methods` with their settings,
            the names of both metrics and of the objective.
        kind: "png" or "svg".
    """
    image = io.BytesIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": "front"}):
        figure = Figure(figsize=(8.6, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, record)
        figure.legend(loc="outside right center")
        figure.savefig(
            image, format=kind, dpi=110, metadata={} if kind == "png" else {"Date": None}
        )
    return image.getvalue()


def _draw(axes: Axes, record: Record) -> None:
    axes.axvspan(-_LOSS, _LOSS, color="#f0f0f0", zorder=0)
    base = _places([record["base"]], record)
    for name, method in record["methods"].items():
        colour, marker = _STYLES.get(name, ("#4d4d4d", "o"))
        places = _places(method["settings"], record)
        on_front = np.array([entry["on_front"] for entry in method["settings"]], dtype=np.bool_)
        axes.plot(*places.T, marker, color=colour, alpha=0.35, markersize=5)
        line = places[on_front]
        if method["base_on_front"]:
            line = np.concatenate([line, base])
        line = line[np.argsort(line[:, 0])]
        style = "--" if name.startswith(f"{RL},") else "-"
        width = 2.4 if name == RL else 1.4
        axes.plot(
            *line.T,
            style,
            marker=marker,
            color=colour,
            label=_LABELS.get(name, name),
            linewidth=width,
        )
    axes.plot(*base.T, "D", color="#1a1a1a", markersize=9, label="base")
    _limit(axes, record)
    axes.set_xlabel(
        f"accuracy against the base, % of {metric_label(record['accuracy'])} (shaded: at most "
        f"{_LOSS:g} % apart)"
    )
    axes.set_ylabel(_AXES[record["objective"]])
    if not record["larger_is_better"]:
        axes.invert_yaxis()
    axes.set_title("up and right is better; each point is one setting", fontsize=10, loc="right")


def _limit(axes: Axes, record: Record) -> None:
    """Leave out what loses more than half of the accuracy: nobody would choose it."""
    entries = [entry for method in record["methods"].values() for entry in method["settings"]]
    places = _places([record["base"], *entries], record)
    low, high = max(-50.0, float(places[:, 0].min())), float(places[:, 0].max())
    margin = 0.04 * (high - low) + 0.5
    axes.set_xlim(low - margin, high + margin)


def _places(entries: Sequence[Record], record: Record) -> np.ndarray:
    """Return float64[n, 2], the places of settings in the picture."""
    base = record["base"]["test"][record["accuracy"]]
    factor = 100 if record["objective"] in _PERCENT else 1
    return np.array(
        [
            (
                100 * (entry["test"][record["accuracy"]] / base - 1) if base else 0.0,
                factor * entry["test"][record["metric"]],
            )
            for entry in entries
        ]
    )
