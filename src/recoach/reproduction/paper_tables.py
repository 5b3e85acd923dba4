"""The tables of the paper with our results beside them, from aggregated suites."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from recoach.experiments.run_folder import RunFolder
from recoach.report.table_cells import comparison_cell, interval_note, metric_cell
from recoach.report.table_formats import ResultTable, html_page, latex, markdown
from recoach.report.tables import (
    MISSING,
    describe_masking,
    format_metric,
    format_percent,
    metric_label,
)
from recoach.reproduction.beyond_accuracy_tables import beyond_accuracy, cutoffs
from recoach.reproduction.datasets import Sizes, category_of
from recoach.reproduction.event_tables import events
from recoach.reproduction.figures import draw_factors, draw_figure1, draw_gains
from recoach.reproduction.gains_tables import ablation, algorithms, future, gains, tail
from recoach.reproduction.labels import CONTROL, NAMES, STAGES
from recoach.reproduction.ladder_tables import ladder
from recoach.reproduction.paper_results import CATEGORIES, METRICS, TABLE1, TABLE3, TABLE4
from recoach.reproduction.published_tables import verification
from recoach.reproduction.session_tables import sessions
from recoach.reproduction.simulator_tables import draw_front, simulated

Record = Mapping[str, Any]

_COLUMNS: Final = (
    "Method",
    *(f"{metric_label(m)} {who}" for m in METRICS for who in ("paper", "ours")),
)


def table1(sizes: Mapping[str, Sizes], k_core: int) -> list[ResultTable]:
    """Return table 1: the sizes of each log after the core, beside the paper's 5-cores."""
    rows = []
    for name, ours in sizes.items():
        category = category_of(name)
        paper = TABLE1.get(category or "")
        for place, quantity in enumerate(("users", "items", "interactions", "average length")):
            printed = None if paper is None else paper[place]
            same_log = name in TABLE1 and printed is not None
            difference = f"{ours[place] - (printed or 0):+,.2f}".removesuffix(".00")
            values = [
                MISSING if value is None else f"{value:,.2f}".removesuffix(".00")
                for value in (printed, ours[place])
            ]
            label = f"{name}, {quantity}"
            rows.append((label, *values, difference if same_log else MISSING))
    note = (
        f"Iterated {k_core}-core of users and items, repeated interactions kept, no rating "
        "threshold; prepared and split folders as they are. A difference is given where the log "
        "is the paper's own category."
    )
    head = ("Data set", "paper", "ours", "difference")
    return [ResultTable("Table 1: sizes of the data", head, rows, note)]


def write_table1(sizes: Mapping[str, Sizes], k_core: int, folder: Path) -> list[Path]:
    """Write table 1 and return its files, Markdown first."""
    return _write(table1(sizes, k_core), "table1", folder)


def suite_tables(record: Record, name: str) -> list[ResultTable]:
    """Return the tables of an aggregated suite.

    Args:
        record: as `aggregate` or `simulate` return it.
        name: a suite of `GROUPS`, `figure1` (the base models of table3) or `simulator`.
    """
    return _TABLES[name](record)


def save_figure(record: Record, name: str, folder: Path) -> list[Path]:
    """Write the figure of a suite as SVG and PNG and return both files, none without a figure."""
    return _FIGURES[name](record, folder) if name in _FIGURES else []


def write_suite(record: Record, name: str, folder: Path) -> list[Path]:
    """Write a suite's tables, its figure and its record; return the files, Markdown first."""
    figures = save_figure(record, name, folder)
    picture = next((path.read_bytes() for path in figures if path.suffix == ".png"), b"")
    paths = _write(suite_tables(record, name), name, folder, picture) + figures
    record_name = f"{record['suite']}.json"
    RunFolder(folder).write_json(record_name, record)
    return [*paths, folder / record_name]


def _write(tables: list[ResultTable], name: str, folder: Path, picture: bytes = b"") -> list[Path]:
    texts = {
        f"{name}.md": markdown(tables),
        f"{name}.tex": latex(tables),
        f"{name}.html": html_page(tables[0].heading.partition(":")[0], tables, picture=picture),
    }
    for file, text in texts.items():
        RunFolder(folder).write_text(file, text)
    return [folder / file for file in texts]


def _table3(record: Record) -> list[ResultTable]:
    head = (*_COLUMNS, "NDCG@10 vs. base", f"NDCG@10 vs. {CONTROL}")
    tables = []
    for log, results in record["data"].items():
        rows = _popularity_row(results)
        for model, cell in results["cells"].items():
            for stage, suffix in STAGES.items():
                printed, printed_base = (
                    TABLE3.get((model, which), {}).get(category_of(log) or "")
                    for which in (stage, "base")
                )
                values = _paper_and_ours(printed, printed_base, cell, stage)
                compared = [comparison_cell(cell, stage, other) for other in ("base", "control")]
                rows.append((f"{NAMES[model]}{suffix}", *values, *compared))
        note = _note_with_control(record, results)
        tables.append(ResultTable(f"Table 3: {log}", head, rows, note))
        tables += [cutoffs(log, results), beyond_accuracy(log, results)]
    return tables


def _popularity_row(results: Record) -> list[tuple[str, ...]]:
    """Return the row of the popularity baseline, none where no cell is finished."""
    for cell in results["cells"].values():
        test = cell["models"]["popularity"]["test"]
        values = [text for m in METRICS for text in (MISSING, format_metric(test[m]["mean"]))]
        return [("Popularity", *values, MISSING, MISSING)]
    return []


def _table4(record: Record) -> list[ResultTable]:
    head = ("Fine-tuned tables", *_COLUMNS[1:], "NDCG@10 vs. base")
    tables = []
    for log, results in record["data"].items():
        category = category_of(log) or ""
        printed_base = TABLE4["base"].get(category)
        rows: list[tuple[str, ...]] = []
        for name, cell in results["cells"].items():
            trained = name.removeprefix("gsau-").removesuffix("-no-dropout")
            trained = "item+user" if trained == "gsau" else trained
            no_dropout = name.endswith("-no-dropout")
            printed = None if no_dropout else TABLE4.get(trained, {}).get(category)
            label = f"{trained}, dropout {'off' if no_dropout else 'on'}"
            values = _paper_and_ours(printed, printed_base, cell, "tuned")
            rows.append((label, *values, comparison_cell(cell, "tuned", "base")))
            if "control" in cell["models"]:
                control = (CONTROL, *_paper_and_ours(None, None, cell, "control"))
                rows.insert(0, (*control, comparison_cell(cell, "control", "base")))
        note = _note_with_control(record, results)
        tables.append(ResultTable(f"Table 4: {log}", head, rows, note))
    return tables


_FACTOR_COLUMNS: Final = (
    "Changed from the paper",
    "NDCG@10 base",
    "NDCG@10 after",
    "Recall@50 after",
    "NDCG@10 vs. base",
    "|log ratio|",
    "clipped",
    "groups without signal",
    "best step",
)


def _factors(record: Record) -> list[ResultTable]:
    tables = []
    for log, results in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for name, cell in results["cells"].items():
            model, _, factor = name.partition("-")
            if "control" in cell["models"]:
                label = f"{NAMES[model]}: {CONTROL} instead"
                rows.append(
                    (label, *_after(cell, "control"), *[MISSING] * 3, _best_steps(cell, "control"))
                )
            first = cell["diagnostics"].get("first", {})
            clip_ratios = [first.get(f"clip_ratio/{end}_mean") for end in ("low", "high")]
            clipped = None if None in clip_ratios else sum(clip_ratios)
            logged = (first.get("log_ratio/abs_mean"), clipped, first.get("frac_reward_zero_std"))
            label = f"{NAMES[model]}: {factor.replace('-', ' ') or 'nothing'}"
            values = [format_metric(value) for value in logged]
            rows.append((label, *_after(cell, "tuned"), *values, _best_steps(cell, "tuned")))
        note = (
            f"{_note_with_control(record, results)} The log ratio is measured before the first "
            "update on each batch, up to the first evaluation. Groups without signal: all rewards "
            "of a group are equal."
        )
        tables.append(ResultTable(f"Factors: {log}", _FACTOR_COLUMNS, rows, note))
    return tables


def _after(cell: Record, stage: str) -> tuple[str, ...]:
    base = metric_cell(cell, "base", "ndcg@10")
    after = [metric_cell(cell, stage, metric) for metric in ("ndcg@10", "recall@50")]
    return (base, *after, comparison_cell(cell, stage, "base"))


def _best_steps(cell: Record, stage: str) -> str:
    return ", ".join(str(step) for step in cell["models"][stage]["best_step"])


def _figure1(record: Record) -> list[ResultTable]:
    tables = []
    for log, results in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for model, cell in results["cells"].items():
            printed = TABLE3[(model, "base")].get(category_of(log) or "")
            rows.append((NAMES[model], *_paper_and_ours(printed, None, cell, "base")))
        note = _note(record, results)
        tables.append(ResultTable(f"Figure 1: {log}", _COLUMNS, rows, note))
    return tables


def _paper_and_ours(
    printed: tuple[float, ...] | None,
    printed_base: tuple[float, ...] | None,
    cell: Record,
    stage: str,
) -> list[str]:
    """Return the paper's value and ours, for each of `METRICS`."""
    texts = []
    for place, metric in enumerate(METRICS):
        paper = MISSING if printed is None else format_metric(printed[place])
        if printed is not None and printed_base is not None and stage != "base":
            paper += f" ({format_percent(printed[place] / printed_base[place] - 1)})"
        texts += [paper, metric_cell(cell, stage, metric)]
    return texts


def _note(record: Record, results: Record) -> str:
    if not results["cells"]:
        return "No results yet."
    data, cell = results["dataset"], next(iter(results["cells"].values()))
    category = CATEGORIES.get(category_of(data["name"]) or "", "none")
    protocol, seeds = cell["protocol"], ", ".join(str(seed) for seed in cell["seeds"])
    return (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions; "
        f"paper's column: {category}. Split: {protocol['split'].replace('_', ' ')}; full ranking; "
        f"{describe_masking(protocol)}. Profile {record['profile']}, seeds {seeds}; "
        f"intervals: 95 %, {interval_note(results['cells'])}. Changes in brackets are relative to "
        "the base."
    )


def _note_with_control(record: Record, results: Record) -> str:
    """Return the note of a table, with an explanation of the control where the table has one."""
    note = _note(record, results)
    if not any("control" in cell["models"] for cell in results["cells"].values()):
        return note
    return (
        f"{note} {CONTROL.capitalize()}: the base's own loss for as many steps as GRPO, with the "
        "same batch size and learning rate."
    )


_TABLES: Final[dict[str, Callable[[Record], list[ResultTable]]]] = {
    "table3": _table3,
    "table4": _table4,
    "factors": _factors,
    "figure1": _figure1,
    "gains": gains,
    "future": future,
    "ablation": ablation,
    "algorithms": algorithms,
    "tail": tail,
    "verification": verification,
    "sessions": sessions,
    "events": events,
    "ladder": ladder,
    "simulator": simulated,
}

_FIGURES: Final[dict[str, Callable[[Record, Path], list[Path]]]] = {
    "figure1": draw_figure1,
    "factors": draw_factors,
    "gains": draw_gains,
    "simulator": draw_front,
}
