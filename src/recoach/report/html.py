"""The report of a run, one HTML page: summary, metrics, figures, example lists, configuration.

The page contains its style and figures and loads nothing from the network. All text from the data
(ids, titles, names) is escaped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from markupsafe import Markup

from recoach.errors import RunError
from recoach.experiments.run_folder import RunFolder
from recoach.report.figures import (
    Panel,
    grpo_panels,
    pretraining_panels,
    result_panels,
    user_group_panels,
)
from recoach.report.protocol import protocol_sentences, record_warning
from recoach.report.table_formats import render
from recoach.report.tables import (
    CONTROL,
    MARKS,
    MODELS,
    OBJECTIVE,
    STRATA,
    Results,
    columns,
    find_comparison,
    format_interval,
    format_metric,
    format_percent,
    headline,
    main_metrics,
    metric_label,
    rows,
    strata_rows,
    summary,
)

Json = TypeVar("Json", dict[str, Any], list[Any])

FORMAT: Final = 1
REQUIRED: Final = {
    "name": str,
    "dataset": dict,
    "model": str,
    "protocol": dict,
    "models": dict,
}
COMPARISON_KEYS: Final = frozenset(
    ("a", "b", "split", "metric", "relative", "low", "high", "p_value", "verdict")
)
STATISTICS: Final = {
    "users": "Users",
    "items": "Items",
    "interactions": "Interactions",
    "average_length": "Interactions per user",
    "density": "Density",
    "fingerprint": "Fingerprint",
}


def write_report(run_directory: Path) -> Path:
    """Write report.html from the files of a run folder and return its path.

    The file is replaced atomically. Without a fine-tuned model the page has no sections
    on fine-tuning; lists.json is optional.

    Raises:
        RunError: a file is missing, is not valid JSON or lacks a required key.
    """
    page = _render(Path(run_directory))
    RunFolder(Path(run_directory)).write_text("report.html", page)
    return Path(run_directory) / "report.html"


def _render(run: Path) -> str:
    """Read the files of the run and fill the template."""
    results = _read_results(run / "results.json")
    metrics = _read_metrics(run / "metrics.jsonl")
    lists = _read_lists(run / "lists.json") if (run / "lists.json").exists() else []
    config = _read_text(run / "config.toml")
    environment: dict[str, Any] = _parse_json(run / "env.json", _read_text(run / "env.json"), dict)
    try:
        context = _context(results, metrics, lists)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run}: the files of the run do not match ({type(error).__name__}: {error}). Another "
            "version of recoach may have written them. Run the experiment again."
        ) from error
    return render("report.html.j2", **context, config=config, environment=environment)


def _context(
    results: Results, metrics: list[dict[str, Any]], lists: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the variables of the template."""
    names = columns(results)
    record, results = results, headline(results)
    return {
        "name": results["name"],
        "model": results["model"],
        "seed": results.get("seed", "–"),
        "summary": summary(results),
        "method": _method(results),
        "dataset": results["dataset"].get("name", "–"),
        "statistics": _statistics(results["dataset"]),
        "protocol": protocol_sentences(results["protocol"]),
        "warning": record_warning(results["protocol"]),
        "columns": [metric_label(name) for name in names],
        "rows": rows(results, names),
        "marks": MARKS,
        "interval": results["protocol"].get("interval", "95 %, paired bootstrap over users"),
        "selected_rows": rows(record, names) if results is not record else [],
        "comparisons": _comparisons(results, names),
        "strata_columns": [metric_label(name) for name in main_metrics(results)],
        "strata": [(heading, strata_rows(results, key)) for key, heading in STRATA.items()],
        "stages": _stages(record),
        "sections": _figure_sections(record, results, metrics),
        "lists": lists,
        "tuned": "tuned" in results["models"],
    }


def _method(results: Results) -> list[str]:
    """Return what is optimised and what the control is, one sentence each."""
    if "tuned" not in results["models"]:
        return []
    config = results.get("config", {})
    settings = config.get("grpo") or config.get("finetune", {})  # [finetune] in earlier versions
    used = [f"{key} = {settings[key]}" for key in ("algorithm", "loss_type") if key in settings]
    sentences = [OBJECTIVE]
    if used:
        sentences.append(f"This run uses {', '.join(used)}.")
    if "control" in results["models"]:
        sentences.append(CONTROL)
    return sentences


def _figure_sections(
    record: Results, results: Results, metrics: list[dict[str, Any]]
) -> list[tuple[str, list[Panel]]]:
    """Return (heading, panels) of each section that has panels; the SVG is marked as safe.

    Args:
        record: the results with the selected models, whose training is shown.
        results: those of the first table, see `headline`.
        metrics: the logged evaluations.
    """
    sections = {
        "Results": result_panels(results, columns(results)),
        "Results by user and item group": user_group_panels(results),
        "Fine-tuning": grpo_panels(metrics, record),
        "Training of the base": pretraining_panels(metrics, record),
    }
    return [
        (heading, [Panel(panel.title, Markup(panel.svg)) for panel in panels])
        for heading, panels in sections.items()
        if panels
    ]


def _statistics(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(label, _format(dataset[key])) for key, label in STATISTICS.items() if key in dataset]


def _format(value: object) -> str:
    """Return an integer with thousands separators, a float with four digits, else the text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _comparisons(results: Results, names: list[str]) -> list[dict[str, str]]:
    """Return the recorded comparisons on the test items as text."""
    pairs = (("tuned", "base"), ("control", "base"), ("tuned", "control"))
    entries = [find_comparison(results, a, b, name) for name in names for a, b in pairs]
    return [
        {
            "metric": metric_label(entry["metric"]),
            "pair": f"{MODELS[entry['a']]} against {MODELS[entry['b']]}",
            "change": format_percent(entry["relative"]),
            "interval": format_interval(results, entry),
            "p_value": format_metric(entry["p_value"]),
            "verdict": entry["verdict"],
        }
        for entry in entries
        if entry is not None
    ]


def _stages(results: Results) -> list[tuple[str, str]]:
    """Return (label, text) of each stage: its steps, its duration and the selected step."""
    stages = []
    for key in ("base", "control", "tuned"):
        record = results["models"].get(key, {})
        parts = [f"{_format(record['steps'])} steps"] if "steps" in record else []
        parts += [f"{record['seconds']:,.0f} s"] if "seconds" in record else []
        parts += _selected_step(key, record)
        if record.get("share", 1) < 1:
            parts += [
                f"interpolation towards the base: {100 * record['share']:.0f} % of the change kept"
            ]
        if parts:
            stages.append((MODELS[key], ", ".join(parts)))
    return stages


def _selected_step(stage: str, record: Mapping[str, Any]) -> list[str]:
    if "best_step" not in record:
        return []
    if stage != "base" and record["best_step"] == 0:
        return ["no improvement: base kept"]
    return [f"step {_format(record['best_step'])} kept"]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: the file is missing. Name the folder of a finished run."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot read the file ({error}).") from error


def _parse_json(path: Path, text: str, kind: type[Json], line: int | None = None) -> Json:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path}:{line or error.lineno}: not valid JSON ({error.msg}). Run the experiment "
            "again."
        ) from error
    if not isinstance(value, kind):
        name = "object" if kind is dict else "list"
        raise RunError(f"{path}: expected a JSON {name}, found {type(value).__name__}.")
    return value


def _read_results(path: Path) -> dict[str, Any]:
    """Read results.json and check the keys that every report needs."""
    record: dict[str, Any] = _parse_json(path, _read_text(path), dict)
    if record.get("format") != FORMAT:
        raise RunError(
            f"{path}: format {record.get('format')!r} is not supported, only {FORMAT}. "
            "Another version of recoach wrote the file. Run the experiment again."
        )
    for key, kind in REQUIRED.items():
        if not isinstance(record.get(key), kind):
            raise RunError(f"{path}: {key!r} is missing or not a {kind.__name__}.")
    if "base" not in record["models"]:
        raise RunError(f"{path}: 'models' has no 'base'. Pretrain the run first.")
    for index, entry in enumerate(record.get("comparisons", [])):
        if missing := sorted(COMPARISON_KEYS - set(entry)):
            raise RunError(f"{path}: comparisons[{index}] lacks {', '.join(missing)}.")
    return record


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without its blank lines."""
    rows = {
        number: _parse_json(path, line, dict, number)
        for number, line in enumerate(_read_text(path).splitlines(), start=1)
        if line.strip()
    }
    for number, row in rows.items():
        if not {"stage", "step"} <= row.keys():
            raise RunError(f"{path}:{number}: a row needs the keys 'stage' and 'step'.")
    return list(rows.values())


def _read_lists(path: Path) -> list[dict[str, Any]]:
    """Read lists.json; users without a list of the fine-tuned model have only the base's."""
    entries: list[Any] = _parse_json(path, _read_text(path), list)
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"user", "history", "target", "base"} <= set(entry):
            raise RunError(f"{path}: entry {index} needs the keys user, history, target and base.")
    return [
        {
            "user": entry["user"],
            "history": entry["history"],
            "target": entry["target"],
            "lists": [
                (MODELS[key], entry[key], entry.get(f"{key}_rank"))
                for key in ("base", "tuned")
                if entry.get(key) is not None
            ],
        }
        for entry in entries
    ]
