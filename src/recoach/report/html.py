"""One self-contained page about a run: verdict, protocol, table, curves, lists, configuration.

The page holds its own style and figures and asks nothing of the network; whatever comes from the
data (ids, titles, names) is escaped.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recoach.errors import RunError
from recoach.experiments.run_folder import RunFolder
from recoach.report.figures import (
    Panel,
    audience_panels,
    grpo_panels,
    learning_panels,
    result_panels,
)
from recoach.report.tables import (
    MARKS,
    MODELS,
    Results,
    columns,
    find_comparison,
    format_interval,
    format_metric,
    format_percent,
    metric_label,
    rows,
    summary,
)

FORMAT: Final = 1
NEEDED: Final = {
    "name": str,
    "dataset": dict,
    "model": str,
    "protocol": dict,
    "models": dict,
}
COMPARED: Final = frozenset(
    ("a", "b", "split", "metric", "relative", "low", "high", "p_value", "verdict")
)
WORDS: Final = {
    ("split", "leave_last_out"): "Each user's last interaction is the test item, the one before it "
    "the validation item; everything earlier is for training.",
    ("split", "as given"): "Training, validation and test items are as the data came.",
    ("ranking", "full"): "The target is ranked among the whole catalogue, not a sample of it.",
    ("mask_seen", "all"): "Items the user has already taken are left out of the ranking.",
    ("mask_seen", "recbole"): "As in RecBole, items already taken are left out for general models "
    "and kept in for sequential ones.",
    ("mask_seen", "none"): "Items the user has already taken stay in the ranking.",
    ("ties", "against the model"): "Equal scores count against the model.",
}
STATISTICS: Final = {
    "users": "Users",
    "items": "Items",
    "interactions": "Interactions",
    "average_length": "Interactions a user",
    "density": "Density",
    "fingerprint": "Fingerprint",
}


def write_report(run_directory: Path) -> Path:
    """Write report.html into a run folder from the records that lie there; return its path.

    The file appears whole or not at all. A run that has only been pretrained gets a page without
    the GRPO parts; lists.json may be absent.

    Raises:
        RunError: a record is missing, is no valid JSON or has not the shape of a run's record.
    """
    page = _render(Path(run_directory))
    RunFolder(Path(run_directory)).write_text("report.html", page)
    return Path(run_directory) / "report.html"


def _render(run: Path) -> str:
    """Read the records and fill the template."""
    results = _results(run / "results.json")
    metrics = _metrics(run / "metrics.jsonl")
    lists = _lists(run / "lists.json") if (run / "lists.json").exists() else []
    config = _text(run / "config.toml")
    environment = _object(run / "env.json")
    try:
        context = _context(results, metrics, lists)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run}: the records do not fit each other ({type(error).__name__}: {error}). "
            "Were they written by another version? Run the experiment again."
        ) from error
    source = files("recoach.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return page.from_string(source).render(**context, config=config, environment=environment)


def _context(
    results: Results, metrics: list[dict[str, Any]], lists: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the template shows, as text, rows and safe figures."""
    names = columns(results)
    return {
        "name": results["name"],
        "model": results["model"],
        "seed": results.get("seed", "–"),
        "verdict": summary(results),
        "dataset": results["dataset"].get("name", "–"),
        "statistics": _statistics(results["dataset"]),
        "protocol": _protocol(results["protocol"]),
        "columns": [metric_label(name) for name in names],
        "rows": rows(results, names),
        "marks": MARKS,
        "comparisons": _comparisons(results, names),
        "stages": _stages(results),
        "groups": _figures(results, metrics, names),
        "lists": lists,
        "tuned": "tuned" in results["models"],
    }


def _figures(
    results: Results, metrics: list[dict[str, Any]], names: list[str]
) -> list[tuple[str, list[Panel]]]:
    """Return the panels under their headings, SVG marked as safe; empty groups are left out."""
    groups = {
        "Results": result_panels(results, names),
        "Who gains": audience_panels(results),
        "GRPO, step by step": grpo_panels(metrics, results),
        "Training of the base": learning_panels(metrics, results),
    }
    return [
        (heading, [Panel(panel.title, Markup(panel.svg)) for panel in panels])
        for heading, panels in groups.items()
        if panels
    ]


def _statistics(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [(label, dataset[key]) for key, label in STATISTICS.items() if key in dataset]
    return [(label, _plain(figure)) for label, figure in shown]


def _plain(figure: object) -> str:
    """Return a number the way people write it: thousands apart, few digits."""
    if isinstance(figure, int) and not isinstance(figure, bool):
        return f"{figure:,}"
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


def _protocol(protocol: Mapping[str, Any]) -> list[str]:
    """Return the protocol as sentences; what has no sentence is shown as it is."""
    said = [
        WORDS.get((key, str(protocol[key])), f"{key}: {protocol[key]}.")
        for key in ("split", "ranking", "mask_seen", "ties")
        if key in protocol
    ]
    if "n_users" in protocol:
        said.append(f"Averages run over {_plain(protocol['n_users'])} test users.")
    if "selection" in protocol:
        said.append(f"Checkpoints are selected by {protocol['selection']}.")
    return said


def _comparisons(results: Results, names: list[str]) -> list[dict[str, str]]:
    """Return the recorded paired comparisons on the test items as rows of text."""
    pairs = (("tuned", "base"), ("control", "base"), ("tuned", "control"))
    found = [find_comparison(results, a, b, name) for name in names for a, b in pairs]
    return [
        {
            "metric": metric_label(entry["metric"]),
            "pair": f"{MODELS[entry['a']]} to {MODELS[entry['b']]}",
            "change": format_percent(entry["relative"]),
            "interval": format_interval(results, entry),
            "p_value": format_metric(entry["p_value"]),
            "verdict": entry["verdict"],
        }
        for entry in found
        if entry is not None
    ]


def _stages(results: Results) -> list[tuple[str, str]]:
    """Say how long each stage took and which step was kept."""
    told = []
    for key in ("base", "control", "tuned"):
        record = results["models"].get(key, {})
        parts = [f"{_plain(record['steps'])} steps"] if "steps" in record else []
        parts += [f"{record['seconds']:,.0f} s"] if "seconds" in record else []
        parts += [f"step {_plain(record['best_step'])} kept"] if "best_step" in record else []
        if record.get("share", 1) < 1:
            parts += [f"{100 * record['share']:.0f} % of the way from the base to it"]
        if parts:
            told.append((MODELS[key], ", ".join(parts)))
    return told


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: not there. Either this is no run folder or the run has not finished."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error


def _parsed(path: Path, text: str, where: str = "") -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}"
        raise RunError(f"{path}, {place}: not valid JSON ({error.msg}). Run again.") from error


def _object(path: Path) -> dict[str, Any]:
    record = _parsed(path, _text(path))
    if not isinstance(record, dict):
        raise RunError(f"{path}: a JSON object was expected, found {type(record).__name__}.")
    return record


def _results(path: Path) -> dict[str, Any]:
    """Read results.json and check the parts that every page needs."""
    record = _object(path)
    if record.get("format") != FORMAT:
        raise RunError(
            f"{path}: format {record.get('format')!r} is not {FORMAT}; it was written by another "
            "version of recoach."
        )
    for key, kind in NEEDED.items():
        if not isinstance(record.get(key), kind):
            raise RunError(f"{path}: {key!r} is missing or no {kind.__name__}.")
    if "base" not in record["models"]:
        raise RunError(f"{path}: 'models' has no 'base'; pretrain the run first.")
    for place, entry in enumerate(record.get("comparisons", [])):
        if missing := sorted(COMPARED - set(entry)):
            raise RunError(f"{path}: comparison {place} lacks {', '.join(missing)}.")
    return record


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; blank lines are skipped."""
    lines = _text(path).splitlines()
    rows = []
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parsed(path, line, f"line {line_number}")
        if not isinstance(row, dict) or "stage" not in row or "step" not in row:
            raise RunError(f"{path}, line {line_number}: a row needs a 'stage' and a 'step'.")
        rows.append(row)
    return rows


def _lists(path: Path) -> list[dict[str, Any]]:
    """Read lists.json; a user without a tuned list is shown with the base's alone."""
    entries = _parsed(path, _text(path))
    if not isinstance(entries, list):
        raise RunError(f"{path}: a JSON list was expected, found {type(entries).__name__}.")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"user", "history", "target", "base"} <= set(entry):
            raise RunError(f"{path}: entry {place} needs user, history, target and base.")
    return [
        {
            "user": entry["user"],
            "history": entry["history"],
            "target": entry["target"],
            "sides": [
                (MODELS[key], entry[key], entry.get(f"{key}_rank"))
                for key in ("base", "tuned")
                if entry.get(key) is not None
            ],
        }
        for entry in entries
    ]
