"""The paper's tables with ours beside them, from the joined record of a suite."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from recoach.experiments.run_folder import RunFolder
from recoach.report.table_cells import comparison_cell, interval_note, metric_cell
from recoach.report.table_formats import ResultTable, html_page, latex, markdown
from recoach.report.tables import MISSING, format_metric, format_percent, metric_label
from recoach.reproduction.beyond_accuracy_tables import STAGES, beyond, cutoffs
from recoach.reproduction.datasets import Sizes, category_of
from recoach.reproduction.figures import NAMES, draw_factors, draw_figure1, draw_gains
from recoach.reproduction.gains_tables import ablation, future, gains, rivals, tail
from recoach.reproduction.paper_results import CATEGORIES, METRICS, TABLE1, TABLE3, TABLE4
from recoach.reproduction.published_tables import verification
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


def _write(grids: list[ResultTable], name: str, folder: Path, picture: bytes = b"") -> list[Path]:
    texts = {
        f"{name}.md": markdown(grids),
        f"{name}.tex": latex(grids),
        f"{name}.html": html_page(grids[0].heading.partition(":")[0], grids, picture=picture),
    }
    for file, text in texts.items():
        RunFolder(folder).write_text(file, text)
    return [folder / file for file in texts]


def _table3(record: Record) -> list[ResultTable]:
    ends = ("NDCG@10 against base", "against supervised")
    grids = []
    for name, found in record["data"].items():
        rows = _popularity(found)
        for model, cell in found["cells"].items():
            for stage, ending in STAGES.items():
                theirs = TABLE3.get((model, stage), {}).get(category_of(name) or "")
                before = TABLE3.get((model, "base"), {}).get(category_of(name) or "")
                told = [comparison_cell(cell, stage, other) for other in ("base", "control")]
                figures = _beside(theirs, before, cell, stage)
                rows.append((f"{NAMES[model]}{ending}", *figures, *told))
        grids.append(
            ResultTable(f"Table 3: {name}", (*_COLUMNS, *ends), rows, _with_control(record, found))
        )
        grids += [cutoffs(name, found), beyond(name, found)]
    return grids


def _popularity(found: Record) -> list[tuple[str, ...]]:
    """Return the row of the model that knows nobody, where anything was run."""
    for cell in found["cells"].values():
        test = cell["models"]["popularity"]["test"]
        figures = [text for m in METRICS for text in (MISSING, format_metric(test[m]["mean"]))]
        return [("Popularity", *figures, MISSING, MISSING)]
    return []


def _table4(record: Record) -> list[ResultTable]:
    grids = []
    for name, found in record["data"].items():
        category = category_of(name) or ""
        before = TABLE4["base"].get(category)
        rows: list[tuple[str, ...]] = []
        for cell_name, cell in found["cells"].items():
            moved = cell_name.removeprefix("gsau-").removesuffix("-no-dropout")
            moved = "item+user" if moved == "gsau" else moved
            still = cell_name.endswith("-no-dropout")
            theirs = None if still else TABLE4.get(moved, {}).get(category)
            label = f"{moved}, dropout {'off' if still else 'on'}"
            figures = _beside(theirs, before, cell, "tuned")
            rows.append((label, *figures, comparison_cell(cell, "tuned", "base")))
            if "control" in cell["models"]:
                first = ("supervised steps", *_beside(None, None, cell, "control"))
                rows.insert(0, (*first, comparison_cell(cell, "control", "base")))
        columns = ("Tables moved", *_COLUMNS[1:], "NDCG@10 against base")
        grids.append(ResultTable(f"Table 4: {name}", columns, rows, _with_control(record, found)))
    return grids


_FACTOR_COLUMNS: Final = (
    "Changed from the paper",
    "NDCG@10 base",
    "NDCG@10 after",
    "Recall@50 after",
    "NDCG@10 against base",
    "|log ratio|",
    "clipped",
    "dead groups",
    "best step",
)


def _factors(record: Record) -> list[ResultTable]:
    grids = []
    for name, found in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for cell_name, cell in found["cells"].items():
            model, _, factor = cell_name.partition("-")
            if "control" in cell["models"]:
                label = f"{NAMES[model]}: supervised steps instead"
                rows.append(
                    (label, *_after(cell, "control"), *[MISSING] * 3, _best(cell, "control"))
                )
            first = cell["diagnostics"].get("first", {})
            ends = [first.get(f"clip_ratio/{end}_mean") for end in ("low", "high")]
            clipped = None if None in ends else sum(ends)
            label = f"{NAMES[model]}: {factor.replace('-', ' ') or 'nothing'}"
            told = (first.get("log_ratio/abs_mean"), clipped, first.get("frac_reward_zero_std"))
            figures = [format_metric(figure) for figure in told]
            rows.append((label, *_after(cell, "tuned"), *figures, _best(cell, "tuned")))
        note = (
            f"{_with_control(record, found)} The ratio is measured before each batch's first "
            "update, over the steps to the first evaluation."
        )
        grids.append(ResultTable(f"Factors: {name}", _FACTOR_COLUMNS, rows, note))
    return grids


def _after(cell: Record, stage: str) -> tuple[str, ...]:
    before = metric_cell(cell, "base", "ndcg@10")
    after = [metric_cell(cell, stage, metric) for metric in ("ndcg@10", "recall@50")]
    return (before, *after, comparison_cell(cell, stage, "base"))


def _best(cell: Record, stage: str) -> str:
    return ", ".join(str(step) for step in cell["models"][stage]["best_step"])


def _figure1(record: Record) -> list[ResultTable]:
    grids = []
    for name, found in record["data"].items():
        rows: list[tuple[str, ...]] = []
        for model, cell in found["cells"].items():
            theirs = TABLE3[(model, "base")].get(category_of(name) or "")
            rows.append((NAMES[model], *_beside(theirs, None, cell, "base")))
        grids.append(ResultTable(f"Figure 1: {name}", _COLUMNS, rows, _note(record, found)))
    return grids


def _beside(
    theirs: tuple[float, ...] | None, before: tuple[float, ...] | None, cell: Record, stage: str
) -> list[str]:
    """Return the paper's figure and ours for every metric."""
    return [
        text
        for place, metric in enumerate(METRICS)
        for text in (_printed(theirs, before, place, stage), metric_cell(cell, stage, metric))
    ]


def _printed(
    theirs: tuple[float, ...] | None, before: tuple[float, ...] | None, place: int, stage: str
) -> str:
    if theirs is None:
        return MISSING
    text = format_metric(theirs[place])
    if stage == "base" or before is None:
        return text
    return f"{text} ({format_percent(theirs[place] / before[place] - 1)})"


def _note(record: Record, found: Record) -> str:
    if not found["cells"]:
        return "Nothing is run yet."
    data, cell = found["dataset"], next(iter(found["cells"].values()))
    category = CATEGORIES.get(category_of(data["name"]) or "", "none")
    protocol, seeds = cell["protocol"], ", ".join(str(seed) for seed in cell["seeds"])
    return (
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions; "
        f"paper's column: {category}. Split: {protocol['split'].replace('_', ' ')}; full ranking; "
        f"seen items masked: {protocol['mask_seen']}. Profile {record['profile']}, seeds {seeds}; "
        f"intervals: 95 %, {interval_note(found['cells'])}. Changes in brackets are against the "
        "base."
    )


def _with_control(record: Record, found: Record) -> str:
    """Return the note of a table that shows the supervised control."""
    note = _note(record, found)
    if not any("control" in cell["models"] for cell in found["cells"].values()):
        return note
    return f"{note} Supervised steps: as many as GRPO's, as large, at its learning rate."


_TABLES: Final[dict[str, Callable[[Record], list[ResultTable]]]] = {
    "table3": _table3,
    "table4": _table4,
    "factors": _factors,
    "figure1": _figure1,
    "gains": gains,
    "future": future,
    "ablation": ablation,
    "rivals": rivals,
    "tail": tail,
    "verification": verification,
    "simulator": simulated,
}

_FIGURES: Final[dict[str, Callable[[Record, Path], list[Path]]]] = {
    "figure1": draw_figure1,
    "factors": draw_factors,
    "gains": draw_gains,
    "simulator": draw_front,
}
