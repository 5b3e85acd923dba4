"""The report of a run, one HTML page: summary, metrics, figures, example lists, configuration.

The page contains its style, figures and script and loads nothing from the network. All text from
the data (ids, titles, names) is escaped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from recoach.errors import RunError
from recoach.experiments.run_folder import RunFolder
from recoach.report.budget import budget_table
from recoach.report.curves import Panel
from recoach.report.figures import (
    bucket_name,
    grpo_panels,
    pretraining_panels,
    result_panels,
    user_group_panels,
)
from recoach.report.protocol import protocol_sentences, record_warning
from recoach.report.run_files import (
    parse_json,
    read_lists,
    read_metrics,
    read_results,
    read_text,
)
from recoach.report.table_formats import page_parts, render
from recoach.report.tables import (
    CONTROL,
    MARKS,
    MODELS,
    OBJECTIVE,
    STRATA,
    Results,
    columns,
    detectable_note,
    find_comparison,
    format_interval,
    format_metric,
    format_percent,
    format_range,
    headline,
    main_metrics,
    metric_label,
    rows,
    strata_rows,
    summary,
)
from recoach.report.verdict import control_warning, primary_metric, verdict_sentence

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
    results = read_results(run / "results.json")
    metrics = read_metrics(run / "metrics.jsonl")
    lists = read_lists(run / "lists.json") if (run / "lists.json").exists() else []
    config = read_text(run / "config.toml")
    environment: dict[str, Any] = parse_json(run / "env.json", read_text(run / "env.json"), dict)
    try:
        context = _context(results, metrics, lists)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run}: the files of the run do not match ({type(error).__name__}: {error}). Another "
            "version of recoach may have written them. Run the experiment again."
        ) from error
    parts = page_parts()
    return render("report.html.j2", **context, **parts, config=config, environment=environment)


def _context(
    results: Results, metrics: list[dict[str, Any]], lists: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the variables of the template."""
    primary = primary_metric(results)
    names = [primary, *(name for name in columns(results) if name != primary)]
    record, results = results, headline(results)
    return {
        "name": results["name"],
        "model": results["model"],
        "seed": results.get("seed", "–"),
        "date": results.get("date", ""),
        "verdict": verdict_sentence(results),
        "summary": summary(record),
        "primary": metric_label(primary),
        "resolved": sorted(results.get("resolved", {}).items()),
        "is_adjusted": any("adjusted" in entry for entry in results.get("comparisons", ())),
        "buckets": _buckets(results),
        "list_rows": _list_rows(results),
        "method": _method(results),
        "dataset": results["dataset"].get("name", "–"),
        "statistics": _statistics(results["dataset"]),
        "protocol": protocol_sentences(results["protocol"]),
        "warnings": [
            text for text in (control_warning(results), record_warning(results["protocol"])) if text
        ],
        "columns": [metric_label(name) for name in names],
        "rows": rows(results, names),
        "marks": MARKS,
        "interval": results["protocol"].get("interval", "95 %, paired bootstrap over users"),
        "selected_rows": rows(record, names) if results is not record else [],
        "comparisons": _comparisons(results, names),
        "strata_columns": [metric_label(name) for name in main_metrics(results)],
        "strata": [(heading, strata_rows(results, key)) for key, heading in STRATA.items()],
        "stages": _stages(record),
        "budget": budget_table(record),
        "sections": _figure_sections(record, results, metrics, names),
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
    record: Results, results: Results, metrics: list[dict[str, Any]], names: list[str]
) -> list[tuple[str, list[Panel]]]:
    """Return (heading, panels) of each section that has panels; the SVG is marked as safe.

    Args:
        record: the results with the selected models, whose training is shown.
        results: those of the first table, see `headline`.
        metrics: the logged evaluations.
        names: the metrics whose change is drawn.
    """
    sections = {
        "Results": result_panels(results, names),
        "Results by user and item group": user_group_panels(results),
        "Fine-tuning": grpo_panels(metrics, record),
        "Training of the base": pretraining_panels(metrics, record),
    }
    return [
        (heading, [panel._replace(svg=Markup(panel.svg)) for panel in panels])
        for heading, panels in sections.items()
        if panels
    ]


def _buckets(results: Results) -> list[tuple[str, str, str, list[tuple[str, str]]]]:
    """Return (group, items, targets, [(recall@10, interval) of each trained model])."""
    by_model = {
        key: results["models"][key].get("popularity_buckets", [])
        for key in ("base", "control", "tuned")
        if key in results["models"]
    }
    first = by_model["base"]
    return [
        (
            bucket_name(bucket),
            _format(bucket["items"]),
            _format(bucket.get("targets", "–")),
            [
                (
                    format_metric(groups[place]["recall@10"]),
                    format_range(groups[place].get("interval")),
                )
                for groups in by_model.values()
                if place < len(groups)
            ],
        )
        for place, bucket in enumerate(first)
    ]


def _list_rows(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (list metric, [(value, interval) of each model that is in the tables])."""
    models = [results["models"][key] for key in MODELS if key in results["models"]]
    names = models[-1].get("lists", {})
    return [
        (
            name,
            [
                (
                    _format(model.get("lists", {}).get(name, "–")),
                    " – ".join(map(_format, model.get("list_intervals", {}).get(name, ()))),
                )
                for model in models
            ],
        )
        for name in names
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
            "detectable": detectable_note(results, entry),
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
