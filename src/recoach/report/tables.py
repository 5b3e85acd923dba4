"""The results of a run as words and tables: a verdict, a console table, rows for a README.

Everything here reads the dictionary of results.json; the only arithmetic is turning a difference
into per cent of the value it is compared to.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from rich.table import Table

Results = Mapping[str, Any]

MODELS: Final = {
    "popularity": "Popularity",
    "base": "Base",
    "control": "Base + supervised steps",
    "tuned": "Base + GRPO",
}
METRICS: Final = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR"}
MARKS: Final = {"better": "▲", "worse": "▼", "no difference": "="}
STYLES: Final = {"better": "green", "worse": "red", "no difference": "dim"}
MISSING: Final = "–"


class Cell(NamedTuple):
    """One value of a table with its distance to the base ("" where there is none)."""

    value: str
    change: str
    verdict: str


class Row(NamedTuple):
    """One model of a table; `cells` follow the columns."""

    key: str
    label: str
    cells: tuple[Cell, ...]


def comparison_table(results: Results) -> Table:
    """Return the test figures as a console table: a row per metric@k, a column per model.

    Beside each value stands its distance to the base in per cent and a mark: ▲ better, ▼ worse,
    = no difference that the paired test can tell from chance.
    """
    table = Table(
        title=f"{results['name']}: test",
        caption="change to the base; ▲ better  ▼ worse  = no difference",
    )
    table.add_column("Metric")
    names = columns(results)
    models = rows(results, names)
    for model in models:
        table.add_column(model.label, justify="right")
    for place, name in enumerate(names):
        table.add_row(title(name), *(_styled(model.cells[place]) for model in models))
    return table


def verdict(results: Results) -> str:
    """Return a few sentences: GRPO against the base, then against the control, then what worries.

    A difference counts only where its record says better or worse. A run without GRPO is
    described by its base alone.
    """
    if "tuned" not in results["models"]:
        return _base_alone(results)
    clauses = [_clause(results, metric) for metric in ("ndcg@10", "recall@10")]
    first = f"GRPO {clauses[0]} and {clauses[1]}."
    if results["models"]["tuned"].get("best_step") == 0:
        first = "GRPO made no difference: no step beat the base on validation, the base was kept."
    worries = results.get("diagnostics", {}).get("concerns", ())
    return " ".join(filter(None, [first, _control(results), *worries]))


def columns(results: Results) -> list[str]:
    """Return the metric@k names of the tables: recall and NDCG at every k of the protocol."""
    ks = results["protocol"]["ks"]
    return [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in ks]


def rows(results: Results, names: Iterable[str]) -> list[Row]:
    """Return the test figures of every model that was run, popularity first."""
    names = list(names)
    return [
        Row(key, label, tuple(_cell(results, key, name) for name in names))
        for key, label in MODELS.items()
        if key in results["models"]
    ]


def comparison(results: Results, a: str, b: str, metric: str) -> Mapping[str, Any] | None:
    """Return the recorded test comparison of model a to model b, or None."""
    wanted = (a, b, "test", metric)
    for found in results.get("comparisons", ()):
        if (found["a"], found["b"], found["split"], found["metric"]) == wanted:
            entry: Mapping[str, Any] = found
            return entry
    return None


def value(results: Results, model: str, metric: str, split: str = "test") -> float | None:
    """Return a recorded metric, or None where the model or the metric was not run."""
    found: float | None = results["models"].get(model, {}).get(split, {}).get(metric)
    return found


def title(metric: str) -> str:
    """Return a metric's name for people: "ndcg@10" becomes "NDCG@10"."""
    name, at, k = metric.partition("@")
    return METRICS.get(name, name) + at + k


def number(figure: float | None) -> str:
    """Return a metric with four decimals, a dash where it is unknown."""
    return MISSING if figure is None or not math.isfinite(figure) else f"{figure:.4f}"


def percent(share: float | None) -> str:
    """Return a share as signed per cent with one decimal: 0.046 becomes "+4.6 %"."""
    text = _signed(share)
    return text if text == MISSING else f"{text} %"


def interval(results: Results, found: Mapping[str, Any]) -> str:
    """Return a comparison's interval in per cent of its reference: "+2.9 to +6.2 %"."""
    reference = value(results, found["b"], found["metric"], found["split"])
    if not reference:
        return MISSING
    return f"{_signed(found['low'] / reference)} to {percent(found['high'] / reference)}"


def _signed(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return MISSING
    text = f"{100 * share:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def _cell(results: Results, model: str, metric: str) -> Cell:
    found = comparison(results, model, "base", metric)
    own = number(value(results, model, metric))
    return (
        Cell(own, "", "")
        if found is None
        else Cell(own, percent(found["relative"]), found["verdict"])
    )


def _styled(cell: Cell) -> str:
    if not cell.change:
        return cell.value
    style = STYLES.get(cell.verdict, "default")
    return f"{cell.value} [{style}]{cell.change} {MARKS.get(cell.verdict, '')}[/{style}]"


def _clause(results: Results, metric: str) -> str:
    before, after = (number(value(results, key, metric)) for key in ("base", "tuned"))
    found = comparison(results, "tuned", "base", metric)
    if found is None:
        return f"takes {title(metric)} from {before} to {after} (not compared)"
    gain = f"{percent(found['relative'])}, 95 % interval {interval(results, found)}"
    if found["verdict"] == "no difference":
        return f"makes no measurable difference to {title(metric)} ({before} to {after}: {gain})"
    verb = "lifts" if found["verdict"] == "better" else "lowers"
    return f"{verb} {title(metric)} from {before} to {after} ({gain})"


def _control(results: Results) -> str:
    """Say what the same number of supervised steps does, and whether GRPO is ahead of that."""
    gain = comparison(results, "control", "base", "ndcg@10")
    if gain is None:
        return ""
    note = "" if gain["verdict"] != "no difference" else ", no measurable difference"
    said = f"The same number of supervised steps gives {percent(gain['relative'])} NDCG@10{note}"
    lead = comparison(results, "tuned", "control", "ndcg@10")
    if lead is None:
        return f"{said}."
    ends = {"better": "GRPO is ahead of that by", "worse": "GRPO falls short of that by"}
    end = ends.get(lead["verdict"], "GRPO cannot be told apart from that:")
    return f"{said}; {end} {percent(lead['relative'])} (95 % {interval(results, lead)})."


def _base_alone(results: Results) -> str:
    base, popular = (number(value(results, key, "ndcg@10")) for key in ("base", "popularity"))
    beside = "" if popular == MISSING else f", popularity {popular}"
    return f"The base reaches NDCG@10 {base} on the test items{beside}; it has not been tuned yet."
