"""The results of a run as text: a summary, a console table and the cells of the report's table.

Every function reads the dictionary of results.json. The only arithmetic here divides a difference
by the value it refers to.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from rich.table import Table
from rich.text import Text

from recoach.report.constraint_sentences import constraint_sentences

Results = Mapping[str, Any]

MODELS: Final = {
    "popularity": "Popularity",
    "repeat_last": "Repeat last",
    "base": "Base",
    "control": "Base + continued training",
    "tuned": "Base + fine-tuning",
}
"""The label of each model of a run, in the order of the tables."""
OBJECTIVE: Final = (
    "The default objective is weighted maximum likelihood of the items users took next, in GRPO's "
    'frame; loss_type = "grpo" selects GRPO\'s own transform.'
)
CONTROL: Final = (
    "The control continues the base's own supervised training for as many steps as the "
    "fine-tuning, with the same learning rate and the same selection."
)
METRICS: Final = {
    "auc": "AUC",
    "hit": "Hit rate",
    "map": "MAP",
    "mrr": "MRR",
    "ndcg": "NDCG",
    "precision": "Precision",
    "recall": "Recall",
    "value": "Value",
}
STRATA: Final = {
    "repeats": "Results on new and on repeated items",
    "cold": "Results on items that occur in train (warm) and on others (cold)",
    "event_type": "Results by event type",
}
"""The heading of each kind of stratum in a record."""
MARKS: Final = {"better": "▲", "worse": "▼", "no difference": "="}
STYLES: Final = {"better": "green", "worse": "red", "no difference": "dim"}
MISSING: Final = "–"


class Cell(NamedTuple):
    """One value of a table and its change against the base ("" if they were not compared)."""

    value: str
    change: str
    verdict: str
    interval: str = ""
    """95 % interval of the value; "" in records of earlier versions."""
    change_interval: str = ""
    is_best: bool = False
    """Whether no other model of the run has a higher value."""


class StratumRow(NamedTuple):
    """One model on one stratum of the targets."""

    stratum: str
    targets: str
    model: str
    ndcg: str  # of `main_metric`
    recall: str
    ndcg_interval: str = ""
    recall_interval: str = ""


class Row(NamedTuple):
    """One model of a table; `cells` has one entry per column."""

    key: str
    label: str
    cells: tuple[Cell, ...]


def headline(results: Results) -> Results:
    """Return the results with the retrained models in the place of the selected ones, if any."""
    return {**results, **results["retrained"]} if "retrained" in results else results


def strata_rows(results: Results, kind: str) -> list[StratumRow]:
    """Return the test metrics of every model on every stratum of a kind."""
    by_model = {
        key: results["models"][key].get("strata", {}).get(kind, {})
        for key in MODELS
        if key in results["models"]
    }
    names = list(dict.fromkeys(name for strata in by_model.values() for name in strata))
    return [
        StratumRow(
            name,
            f"{strata[name]['targets']:,}",
            MODELS[key],
            format_metric(strata[name].get(main_metric(results, "ndcg"))),
            format_metric(strata[name].get(main_metric(results, "recall"))),
            *(
                format_range(strata[name].get("intervals", {}).get(main_metric(results, metric)))
                for metric in ("ndcg", "recall")
            ),
        )
        for name in names
        for key, strata in by_model.items()
        if name in strata
    ]


def comparison_table(results: Results) -> Table:
    """Return the test metrics as a console table: one row per metric@k, one column per model.

    Each value is followed by its change against the base in per cent and a mark: ▲ significantly
    better, ▼ significantly worse, = no significant difference in the paired test.
    """
    results, is_retrained = headline(results), "retrained" in results
    suffix = ", trained again on train and validation" if is_retrained else ""
    table = Table(title=f"{results['name']}: test metrics{suffix}")
    if len({"tuned", "control"} & results["models"].keys()):
        table.caption = "change against the base; ▲ better  ▼ worse  = no significant difference"
    table.add_column("Metric")
    names = columns(results)
    models = rows(results, names)
    for model in models:
        table.add_column(model.label, justify="right")
    for place, name in enumerate(names):
        table.add_row(metric_label(name), *(_with_style(model.cells[place]) for model in models))
    return table


def summary(results: Results) -> str:
    """Return a few sentences: the fine-tuned model against base and control, then warnings.

    A difference is called a gain or a loss only if the recorded comparison is significant. Where
    values are rewarded, the value of the lists is described as their NDCG is. A run without
    fine-tuning is described by the test metrics of its base.
    """
    record, results = results, headline(results)
    if "tuned" not in results["models"]:
        return _base_summary(results)
    clauses = [_gain_clause(results, metric) for metric in main_metrics(results)]
    algorithm = algorithm_label(results)
    first = f"{algorithm} {clauses[0]} and {clauses[1]}."
    if results["models"]["tuned"].get("best_step") == 0:
        first = f"No improvement: base kept. No step of {algorithm} had a higher validation score."
    warnings = results.get("diagnostics", {}).get("concerns", ())
    control = _control_sentence(results, main_metric(results, "ndcg"))
    sentences = [first, control, _value_sentence(results), _selected_sentence(record)]
    sentences += [_served_sentence(record), *constraint_sentences(results), *warnings]
    return " ".join(filter(None, sentences))


def columns(results: Results) -> list[str]:
    """Return the metrics of the tables: recall and NDCG at every cutoff k of the protocol.

    Of a log with a column `value` also the value.
    """
    ks = results["protocol"]["ks"]
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg", "value") for k in ks]
    return [n for n in names if n[:5] != "value" or metric_value(results, "base", n) is not None]


def main_metric(results: Results, metric: str) -> str:
    """Return a metric at k = 10, or at the cutoff of the protocol that is nearest to 10."""
    return f"{metric}@{min(results['protocol']['ks'], key=lambda k: abs(k - 10))}"


def main_metrics(results: Results) -> tuple[str, str]:
    """Return NDCG and recall as `main_metric` does."""
    return main_metric(results, "ndcg"), main_metric(results, "recall")


def rows(results: Results, names: Iterable[str]) -> list[Row]:
    """Return the test metrics of every model of the run, popularity first."""
    names = list(names)
    return [
        Row(key, label, tuple(_cell(results, key, name) for name in names))
        for key, label in MODELS.items()
        if key in results["models"]
    ]


def algorithm_label(results: Results) -> str:
    """Return the name of the fine-tuning algorithm: "s_dpo" becomes "S-DPO"; GRPO if unknown."""
    config = results.get("config", {})
    for table in (config.get("finetune"), config.get("grpo")):  # "grpo" in earlier records
        if isinstance(table, Mapping) and "algorithm" in table:
            return str(table["algorithm"]).replace("_", "-").upper()
    return "GRPO"


def describe_masking(protocol: Mapping[str, Any]) -> str:
    """Return the treatment of items of the history as text; `mask_seen` is of earlier versions."""
    if "repeats" in protocol:
        return f"repeated items: {protocol['repeats']}"
    return f"seen items masked: {protocol['mask_seen']}"


def find_comparison(results: Results, a: str, b: str, metric: str) -> Mapping[str, Any] | None:
    """Return the recorded comparison of model `a` with model `b` on the test items, or None.

    For a secondary metric p-value, interval and verdict are those adjusted by Holm's procedure; in
    records of earlier versions nothing is adjusted.
    """
    key = (a, b, "test", metric)
    for entry in results.get("comparisons", ()):
        if (entry["a"], entry["b"], entry["split"], entry["metric"]) == key:
            # Earlier versions recorded a relative change of 0 where the reference is 0.
            is_undefined = metric_value(results, b, metric) == 0
            relative = {"relative": None} if is_undefined else {}
            return {**entry, **entry.get("adjusted", {}), **relative}
    return None


def metric_value(results: Results, model: str, metric: str, split: str = "test") -> float | None:
    """Return a recorded metric, or None if the model or the metric is not in the record."""
    result: float | None = results["models"].get(model, {}).get(split, {}).get(metric)
    return result


def metric_label(metric: str) -> str:
    """Return the label of a metric: "ndcg@10" becomes "NDCG@10"."""
    name, at, k = metric.partition("@")
    return METRICS.get(name, name) + at + k


def format_metric(number: float | None) -> str:
    """Return a number with four decimals, or a dash if it is None or not finite."""
    return MISSING if number is None or not math.isfinite(number) else f"{number:.4f}"


def format_percent(fraction: float | None) -> str:
    """Return a fraction as signed per cent with one decimal: 0.046 becomes "+4.6 %"."""
    text = _signed_percent(fraction)
    return text if text == MISSING else f"{text} %"


def format_change(value: float, reference: float) -> str:
    """Return the change of a number relative to another, or a dash if that is 0."""
    return format_percent(value / reference - 1 if reference else None)


def format_interval(results: Results, entry: Mapping[str, Any]) -> str:
    """Return the interval of a comparison in per cent of the reference model: "+2.9 to +6.2 %"."""
    reference = metric_value(results, entry["b"], entry["metric"], entry["split"])
    if not reference:
        return MISSING
    low, high = entry["low"] / reference, entry["high"] / reference
    return f"{_signed_percent(low)} to {format_percent(high)}"


def _signed_percent(fraction: float | None) -> str:
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def detectable_note(results: Results, entry: Mapping[str, Any]) -> str:
    """Return which difference a comparison without a significant one would have found.

    "" for a significant difference, for records of earlier versions, and where there is no level.
    """
    reference = metric_value(results, entry["b"], entry["metric"], entry["split"])
    if entry["verdict"] != "no difference" or "detectable" not in entry or not reference:
        return ""
    return f"detectable: {100 * entry['detectable'] / reference:.1f} %"


def format_range(interval: Iterable[float] | None) -> str:
    """Return an interval as "0.0590–0.0650"; "" if there is none."""
    return "" if interval is None else "–".join(f"{end:.4f}" for end in interval)


def _cell(results: Results, model: str, metric: str) -> Cell:
    value = metric_value(results, model, metric)
    values = [metric_value(results, key, metric) for key in results["models"]]
    best = max((v for v in values if v is not None and math.isfinite(v)), default=None)
    cell = Cell(
        format_metric(value),
        *("", ""),
        interval=format_range(results["models"][model].get("intervals", {}).get(metric)),
        is_best=value is not None and value == best,
    )
    entry = find_comparison(results, model, "base", metric)
    if entry is None:
        return cell
    return cell._replace(
        change=format_percent(entry["relative"]),
        verdict=entry["verdict"],
        change_interval=format_interval(results, entry),
    )


def _with_style(cell: Cell) -> Text:
    value = Text(cell.value, style="bold" if cell.is_best else "")
    if not cell.change:
        return value
    style = STYLES.get(cell.verdict, "default")
    return Text.assemble(value, " ", (f"{cell.change} {MARKS.get(cell.verdict, '')}", style))


def _gain_clause(results: Results, metric: str) -> str:
    """Return the change of a metric from the base to the fine-tuned model as part of a sentence."""
    label = metric_label(metric)
    before, after = (format_metric(metric_value(results, key, metric)) for key in ("base", "tuned"))
    entry = find_comparison(results, "tuned", "base", metric)
    if entry is None:
        return f"changes {label} from {before} to {after} (not compared)"
    gain = f"{format_percent(entry['relative'])}, 95 % interval {format_interval(results, entry)}"
    if entry["verdict"] == "no difference":
        gain = "; ".join(filter(None, (gain, detectable_note(results, entry))))
        return f"makes no significant difference to {label} ({before} to {after}: {gain})"
    verb = "raises" if entry["verdict"] == "better" else "lowers"
    return f"{verb} {label} from {before} to {after} ({gain})"


def _control_sentence(results: Results, metric: str) -> str:
    """Return what the control gains over the base, and whether fine-tuning gains more."""
    gain = find_comparison(results, "control", "base", metric)
    if gain is None:
        return ""
    note = " (no significant difference)" if gain["verdict"] == "no difference" else ""
    text = (
        f"Continued supervised training for as many steps changes {metric_label(metric)} by "
        f"{format_percent(gain['relative'])}{note}"
    )
    lead = find_comparison(results, "tuned", "control", metric)
    if lead is None:
        return f"{text}."
    verbs = {"better": "is better than that", "worse": "is worse than that"}
    verb = verbs.get(lead["verdict"], "does not differ significantly from that")
    change = f"{format_percent(lead['relative'])}, 95 % interval {format_interval(results, lead)}"
    change = "; ".join(filter(None, (change, detectable_note(results, lead))))
    return f"{text}; {algorithm_label(results)} {verb} ({change})."


def _value_sentence(results: Results) -> str:
    """Return the change of the lists' value, and that of the control, where values are rewarded."""
    metric, settings = main_metric(results, "value"), results.get("config", {}).get("finetune")
    functions = settings.get("reward_funcs", ()) if isinstance(settings, Mapping) else ()
    if "value" not in functions or metric_value(results, "base", metric) is None:
        return ""
    gain = f"Value is rewarded: {algorithm_label(results)} {_gain_clause(results, metric)}."
    return " ".join(filter(None, (gain, _control_sentence(results, metric))))


def _selected_sentence(record: Results) -> str:
    """Return the gain of the selected models, where the first sentence is of the retrained ones."""
    ndcg = main_metric(record, "ndcg")
    gain = find_comparison(record, "tuned", "base", ndcg)
    if "retrained" not in record or gain is None:
        return ""
    return (
        "These models are trained on train and validation; of those trained on train only, "
        f"fine-tuning changes {metric_label(ndcg)} by {format_percent(gain['relative'])} "
        f"(95 % interval {format_interval(record, gain)})."
    )


def _served_sentence(record: Results) -> str:
    """Return which model is the default, where it is not the fine-tuned one."""
    stage, metric = record.get("served", "tuned"), record["protocol"].get("primary", "")
    if stage == "tuned":
        return ""
    value, tuned = (
        format_metric(metric_value(record, name, metric, "valid")) for name in (stage, "tuned")
    )
    return (
        f"On validation, {MODELS[stage].lower()} is better ({metric_label(metric)} {value} against "
        f"{tuned}), so that it is the model that is recommended from, exported and served."
    )


def _base_summary(results: Results) -> str:
    ndcg = main_metric(results, "ndcg")
    base, popularity = (
        format_metric(metric_value(results, key, ndcg)) for key in ("base", "popularity")
    )
    note = "" if popularity == MISSING else f" (popularity: {popularity})"
    label = metric_label(ndcg)
    return f"The base has {label} {base} on the test items{note}; it is not fine-tuned yet."
