"""Collect finished runs into `results/` and write the tables of the documents.

Run from the root of the repository as `python -m tools.results.collect` (`make results`).
Committed results whose runs are elsewhere are first written below `runs/reproduce/`, so that
`recoach reproduce` does not run them again.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from recoach.errors import ConfigError
from recoach.experiments.run_folder import RunFolder
from recoach.report.table_formats import ResultTable, latex, markdown
from recoach.reproduction.aggregate import aggregate, comparisons_file
from recoach.reproduction.datasets import Sizes
from recoach.reproduction.ladder_tables import costs
from recoach.reproduction.paper_tables import save_figure, suite_tables, table1
from recoach.reproduction.record_digest import digest_of
from recoach.reproduction.suites import cells_of, group_of, runs_folder
from tools.results.committed import PROFILE, Record, RunKey, read_results, write_results
from tools.results.logs import COMMITTED
from tools.results.overview_tables import best_published, change_by_model, overview, summary
from tools.results.user_values import collect_user_values, restore_user_values

_BEGIN: Final = "<!-- results: written by `make results` -->\n"
_END: Final = "<!-- end of results -->"

DOCUMENTS: Final[dict[str, tuple[str, ...]]] = {
    "README.md": ("summary",),
    "docs/results/verification.md": ("verification",),
    "docs/results/session-models.md": ("sessions",),
    "docs/results/events.md": ("events",),
    "docs/results/ladder.md": ("ladder",),
    "docs/results/over-time.md": ("protocols",),
    "docs/results/which-models.md": ("wins",),
    "docs/results/cost.md": ("cost",),
    "docs/results/paper.md": ("table1", "table3-main"),
    "docs/results/gains.md": ("overview", "published"),
    "docs/results/ablation.md": ("ablation-by-model", "algorithms-by-model"),
    "docs/results/beyond-the-next-item.md": ("tail-overview", "simulator"),
}
"""The tables of `results/tables/` that a document shows between its two marks, in this order."""

_SIMULATOR: Final = RunKey("simulator", "simulator", "simulator", None)


def main(root: Path) -> None:
    """Write the Parquet files, the tables, the figures and the documents of a repository.

    Raises:
        ConfigError: the folder is not the root of the repository.
    """
    missing = [name for name in DOCUMENTS if not (root / name).exists()]
    if missing:
        raise ConfigError(f"{root} has no {missing[0]}. Run `make results` in the repository.")
    runs, results = root / "runs/reproduce", root / "results"
    before = read_results(results)
    restore(before, runs)
    restore_user_values(results, runs)
    suites = aggregate_committed(runs)
    records = before | finished_runs(runs) | combined_comparisons(suites, runs)
    write_results(results, records)
    folders = {key: _path_of(key, runs).parent for key in records if key.seed is not None}
    collect_user_values(records, folders, results)
    tables = committed_tables(suites, records)
    folder = RunFolder(results / "tables")
    for name, grids in tables.items():
        folder.write_text(f"{name}.md", markdown(grids))
        folder.write_text(f"{name}.tex", latex(grids))
    _save_figures(suites, records, folder)
    for name, text in documents(root, tables).items():
        RunFolder(root).write_text(name, text)


def restore(records: Mapping[RunKey, Record], runs: Path) -> None:
    """Write committed records where the suites look for them; no existing file is replaced."""
    for key, record in records.items():
        path = _path_of(key, runs)
        if not path.exists():
            RunFolder(path.parent).write_json(path.name, record)


def _path_of(key: RunKey, runs: Path) -> Path:
    if key == _SIMULATOR:
        return runs / "simulator" / "simulator.json"
    folder = runs / runs_folder(key.group, PROFILE)
    if key.seed is None:
        return comparisons_file(folder, key.log, key.cell)
    return folder / key.log / f"{key.cell}-{key.seed}" / "results.json"


def aggregate_committed(runs: Path) -> dict[str, Record]:
    """Return the aggregated records of all suites, each of the logs in `COMMITTED`."""
    records = {}
    for suite, sources in COMMITTED.items():
        folder = runs / runs_folder(group_of(suite), PROFILE)
        record = aggregate(suite, PROFILE, folder, sources)
        names = {source.name for source in sources}  # suites of a group share cells of other logs
        record["data"] = {log: data for log, data in record["data"].items() if log in names}
        records[suite] = record
    return records


def finished_runs(runs: Path) -> dict[RunKey, Record]:
    """Return the records of the finished runs of all committed suites."""
    records: dict[RunKey, Record] = {}
    for group, log, cell in committed_cells():
        folder = runs / runs_folder(group, PROFILE) / log
        for path in sorted(folder.glob(f"{cell}-*/results.json")):
            seed = path.parent.name.removeprefix(f"{cell}-")
            if seed.isdecimal():
                records[RunKey(group, log, cell, int(seed))] = _read(path)
    path = _path_of(_SIMULATOR, runs)
    return records | ({_SIMULATOR: _read(path)} if path.exists() else {})


def committed_cells() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the settings of every cell by group, log and cell; seed 2020."""
    return {
        (group_of(suite), source.name, cell.name): cell.tables
        for suite, sources in COMMITTED.items()
        for source in sources
        for cell in cells_of(suite, source, PROFILE, 2020)
    }


def combined_comparisons(suites: Mapping[str, Record], runs: Path) -> dict[RunKey, Record]:
    """Return the comparisons that need the values of single users for every metric."""
    combined = {}
    for suite, record in suites.items():
        group = group_of(suite)
        for log, data in record["data"].items():
            for name, cell in data["cells"].items():
                if cell["users_averaged"]:
                    keys = [RunKey(group, log, name, seed) for seed in cell["seeds"]]
                    rows = cell["comparisons"]
                    combined[RunKey(group, log, name, None)] = {
                        "seeds": cell["seeds"],
                        "runs": digest_of(_read(_path_of(key, runs)) for key in keys),
                        "comparisons": [
                            {k: v for k, v in row.items() if k != "seeds"} for row in rows
                        ],
                    }
    return combined


def committed_tables(
    suites: Mapping[str, Record], records: Mapping[RunKey, Record]
) -> dict[str, list[ResultTable]]:
    """Return every table of `results/tables/` by the name of its file."""
    sizes = {}
    for log, data in suites["table3"]["data"].items():
        size = data["dataset"]
        users, interactions = size["users"], size["interactions"]
        sizes[log] = Sizes(users, size["items"], interactions, interactions / users)
    recipes = [suites["gains"], suites["future"]]
    tables = {
        "overview": [overview(*recipes)],
        "table1": table1(sizes, k_core=5),
        "figure1": suite_tables(suites["table3"], "figure1"),
        "published": best_published(recipes),
    }
    tables |= {suite: suite_tables(record, suite) for suite, record in suites.items()}
    tables |= {
        "summary": [summary(suites["gains"])],
        "wins": tables["gains"][:1],
        "protocols": tables["ladder"][:1],
        "ladder": tables["ladder"][1:],
        "cost": [costs(suites["ladder"])],
        "table3-main": [table for table in tables["table3"] if table.heading.startswith("Table 3")],
        "ablation-by-model": change_by_model(suites["ablation"], "Ablation"),
        "algorithms-by-model": change_by_model(suites["algorithms"], "Algorithms"),
        "tail-overview": [overview(suites["tail"], {"data": {}})],
    }
    if _SIMULATOR in records:
        tables["simulator"] = suite_tables(records[_SIMULATOR], "simulator")
    return tables


def _save_figures(
    suites: Mapping[str, Record], records: Mapping[RunKey, Record], folder: RunFolder
) -> None:
    figures: dict[str, Record] = {"figure1": suites["table3"]}
    figures |= {name: suites[name] for name in ("factors", "gains")}
    if _SIMULATOR in records:
        figures["simulator"] = records[_SIMULATOR]
    with tempfile.TemporaryDirectory() as place:
        for name, record in figures.items():
            for path in save_figure(record, name, Path(place)):
                if path.suffix == ".svg":
                    folder.write_bytes(path.name, path.read_bytes())


def documents(root: Path, tables: Mapping[str, Sequence[ResultTable]]) -> dict[str, str]:
    """Return the text of each document with its tables between the two marks."""
    texts = {}
    for name, names in DOCUMENTS.items():
        block = "\n".join(markdown(tables[table]) for table in names if table in tables)
        before, rest = (root / name).read_text().split(_BEGIN)
        _, after = rest.split(_END)
        texts[name] = f"{before}{_BEGIN}\n{block}\n{_END}{after}"
    return texts


def _read(path: Path) -> Record:
    record: Record = json.loads(path.read_text())
    return record


if __name__ == "__main__":
    main(Path.cwd())
