"""Tables of the default recipe, of its ablations and of other algorithms."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from recoach.evaluation.significance import verdict
from recoach.report.table_cells import comparison_cell, find_comparison, interval_note, metric_cell
from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, describe_masking, metric_label
from recoach.reproduction.labels import CONTROL, NAMES, cell_label, variant_label

Record = Mapping[str, Any]

METRICS: Final = ("recall@10", "ndcg@10", "recall@50")

_VERDICTS: Final = ("better", "no difference", "worse")

COLUMNS: Final = (
    "Model",
    "Metric",
    "Base",
    f"+ {CONTROL}",
    "+ GRPO",
    "GRPO vs. base",
    f"GRPO vs. {CONTROL}",
)


def gains(record: Record, suffix: str = "") -> list[ResultTable]:
    """Return a table per log, after one that counts significant differences.

    Args:
        record: the aggregated suite.
        suffix: appended to each heading.
    """
    return [_counts(record, f"Significant differences{suffix}"), *_by_log(record, "{}" + suffix)]


def future(record: Record) -> list[ResultTable]:
    """Return the same tables for the earlier recipe, which rewards future items only."""
    return gains(record, ", future reward only")


def tail(record: Record) -> list[ResultTable]:
    """Return a table per log with the next five and ten interactions as test items."""
    return _by_log(record, "Next 5 and 10 items: {}")


def ablation(record: Record) -> list[ResultTable]:
    """Return a table per log with every change to the default recipe."""
    note = (
        "A row changes one setting of the default recipe, or those that it names. Two rows change "
        "more: future reward only also has batches of 512 and a learning rate of 1e-3, and no "
        "supervised loss; without a trained base, the temperature is 1, the limit is 200 epochs "
        "instead of 100, and nothing is interpolated."
    )
    return _variants(record, "Ablation", note)


def algorithms(record: Record) -> list[ResultTable]:
    """Return a table per log with the other algorithms."""
    note = (
        "All algorithms have the states and rewards of the recipe with future reward only. The "
        "rows with GRPO have its own transform instead of `log`; PPO makes two updates per batch."
    )
    return _variants(record, "Other algorithms", note)


def _by_log(record: Record, heading: str) -> list[ResultTable]:
    tables = []
    for log, results in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for name, cell in results["cells"].items():
            for metric in METRICS:
                values, comparisons = compared_values(cell, metric)
                rows.append((cell_label(name), metric_label(metric), *values, *comparisons))
        tables.append(ResultTable(heading.format(log), COLUMNS, rows, _note(results)))
    return tables


def compared_values(cell: Record, metric: str) -> tuple[list[str], list[str]]:
    """Return the metric of base, control and GRPO, and GRPO compared with the other two."""
    values = [metric_cell(cell, stage, metric) for stage in ("base", "control", "tuned")]
    return values, [comparison_cell(cell, "tuned", other, metric) for other in ("base", "control")]


def _variants(record: Record, heading: str, note: str) -> list[ResultTable]:
    tables = []
    for log, results in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for name, cell in results["cells"].items():
            has_base = not name.endswith("-from-scratch")  # a base of one step is no reference
            values = [metric_cell(cell, "tuned", metric, change=has_base) for metric in METRICS]
            label = f"{NAMES[name.partition('-')[0]]}: {variant_label(name)}"
            rows.append(
                (label, *values, comparison_cell(cell, "tuned", "base") if has_base else MISSING)
            )
        head = ("Variant", *(metric_label(metric) for metric in METRICS), "NDCG@10 vs. base")
        tables.append(ResultTable(f"{heading}: {log}", head, rows, f"{note} {_note(results)}"))
    return tables


def _counts(record: Record, heading: str) -> ResultTable:
    """Count the logs on which each model is better, not different, and worse at 95 %."""
    names = {name for results in record["data"].values() for name in results["cells"]}
    rows = []
    for name in sorted(names, key=lambda name: list(NAMES).index(name.split("-")[0])):
        cells = [r["cells"][name] for r in record["data"].values() if name in r["cells"]]
        for metric in METRICS:
            counts = []
            for other in ("base", "control"):
                comparisons = [
                    comparison
                    for cell in cells
                    if (comparison := find_comparison(cell, "tuned", other, metric)) is not None
                ]
                users = Counter(row["verdict"] for row in comparisons)
                seeds = Counter(verdict(*row["seeds"]) for row in comparisons if "seeds" in row)
                counts += [f"{users[word]} ({seeds[word]})" for word in _VERDICTS]
            rows.append((cell_label(name), metric_label(metric), *counts))
    head = (
        "Model",
        "Metric",
        *(f"vs. {other}: {word}" for other in ("base", CONTROL) for word in _VERDICTS),
    )
    note = (
        "Number of logs on which GRPO is better, not significantly different, or worse at 95 %, by "
        "paired bootstrap over users; in brackets by Student's t interval over seeds, for logs "
        "with at least three."
    )
    return ResultTable(heading, head, rows, note)


def _note(results: Record) -> str:
    if not results["cells"]:
        return "No results yet."
    data, cell = results["dataset"], next(iter(results["cells"].values()))
    seeds = {", ".join(str(seed) for seed in one["seeds"]) for one in results["cells"].values()}
    protocol = cell["protocol"]
    return (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions. "
        f"Split: {protocol['split'].replace('_', ' ')}; full ranking; "
        f"{describe_masking(protocol)}. Seeds {' / '.join(sorted(seeds))}; intervals: 95 %, "
        f'{interval_note(results["cells"])}; after "seeds", Student\'s t interval over the '
        "differences of the seeds, from three seeds on. Changes in brackets are relative to the "
        "base."
    )
