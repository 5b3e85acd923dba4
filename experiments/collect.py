"""Copy the results of finished runs into results/ and write the documents' tables from them.

Run from the project's root, after `recoach run experiments/NAME.toml` for any number of names, and
`recoach reproduce` for any number of suites.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import tomli_w

from recoach.report.table_formats import markdown
from recoach.reproduction.aggregate import join
from recoach.reproduction.gains_cells import GAINS
from recoach.reproduction.gains_tables import label, overview
from recoach.reproduction.paper_cells import SUITES, Source
from recoach.reproduction.paper_tables import write_suite

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: written by `make results` -->\n", "<!-- end of results -->"

REFERENCES = {
    "verify-gsau-toys": (
        "GSAU(rec), Toys 2014: the authors' log",
        {"recall@10": 0.0924, "ndcg@10": 0.0470, "recall@50": 0.1970, "ndcg@50": 0.0699},
    ),
    "verify-sasrec-beauty": (
        "SASRec, Beauty 2014: the GSAU authors' log",
        {"recall@10": 0.0826, "ndcg@10": 0.0414, "recall@50": 0.1752, "ndcg@50": 0.0616},
    ),
    "verify-lightgcn-toys": (
        "LightGCN, Toys 2014: RecBole 1.2.1",
        {"recall@10": 0.0431, "ndcg@10": 0.0230, "recall@50": 0.1045, "ndcg@50": 0.0362},
    ),
    "verify-lightgcn-beauty": (
        "LightGCN, Beauty 2014: RecBole 1.2.1",
        {"recall@10": 0.0437, "ndcg@10": 0.0218, "recall@50": 0.1175, "ndcg@50": 0.0379},
    ),
}
"""Published test figures by experiment; LightGCN's from the one run told of in the document."""


PUBLISHED = {
    "beauty-2014": (
        "BSARec (Shin et al. 2024)",
        {"recall@5": 0.0736, "recall@10": 0.1008, "ndcg@5": 0.0523, "ndcg@10": 0.0611},
    ),
    "toys-2014": ("BSARec (Shin et al. 2024)", {"recall@5": 0.0805}),
}
"""The best test figures we know of for the same files and split, seen items masked as here."""


def collect() -> None:
    """Take over what runs/ holds; results whose runs are elsewhere stay as they are."""
    for experiment in sorted((ROOT / "experiments").glob("*.toml")):
        source = ROOT / "runs" / experiment.stem / "results.json"
        if source.exists():
            (ROOT / "results" / f"{experiment.stem}.json").write_text(source.read_text())


DATA = "../shared/data"
INDUSTRIAL = Source("industrial-2018", f"{DATA}/industrial-2018/sequences.txt")
GAMES = Source("video-games-2023", f"{DATA}/video-games-2023/sequences.txt.gz")
PLAYERS = GAMES._replace(name="video-games-2023-10-core", k_core=10)
BABY = Source("baby-2023", f"{DATA}/baby-2023", ready_split=True)
TOYS = Source("toys-2014", f"{DATA}/toys-2014/Toys_and_Games.txt")
BEAUTY = Source("beauty-2014", f"{DATA}/beauty-2014/Beauty.txt")
MOVIES = Source("ml-latest-small", f"{DATA}/ml-latest-small/ratings.csv")
GAMES_2018 = Source("video-games-2018", f"{DATA}/video-games-2018/ratings.csv.gz")


class Family(NamedTuple):
    """Suites that share their runs, each with the logs it is committed for."""

    runs: Path
    suites: dict[str, tuple[Source, ...]]


CLOSEST = (INDUSTRIAL, GAMES, BABY)
"""The logs that stand closest to the paper's."""

LOGS = (INDUSTRIAL, TOYS, BEAUTY, BABY, MOVIES, PLAYERS, GAMES_2018, GAMES)

FAMILIES = {
    "paper": Family(ROOT / "runs/reproduce/quick", dict.fromkeys(SUITES, CLOSEST)),
    "gains": Family(
        ROOT / "runs/reproduce/gains",
        {
            "gains": LOGS,
            "future": LOGS,
            "ablation": (INDUSTRIAL,),
            "rivals": (INDUSTRIAL,),
            "tail": (INDUSTRIAL, TOYS),
        },
    ),
}


def cells() -> dict[str, dict]:
    """Return every cell of every family by the place of its TOML in experiments/."""
    return {
        f"{name}/{source.name}/{cell.name}.toml": cell.tables
        for name, family in FAMILIES.items()
        for suite, sources in family.suites.items()
        for source in sources
        for cell in (SUITES | GAINS)[suite](source, "quick", 2020)
    }


def collect_suites() -> None:
    """Write the cells' TOML files and take over what `recoach reproduce` has found."""
    known = cells()
    for name, tables in known.items():
        path = ROOT / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(tables))
    for name, family in FAMILIES.items():
        for source in sorted(family.runs.glob("*/*/results.json")):
            data, cell = source.parent.parent.name, source.parent.name
            if f"{name}/{data}/{cell.rpartition('-')[0]}.toml" in known:
                take(source, f"{name}/{data}/{cell}.json")
        for source in family.runs.glob("*.*"):
            take(source, f"{name}/{source.name}")
    for source in (ROOT / "runs/reproduce/simulator").glob("simulator.*"):
        take(source, f"simulator/{source.name}")
    for source in (ROOT / "runs/reproduce").glob("table1.*"):
        take(source, f"paper/{source.name}")


def restore() -> None:
    """Put committed results where suites look for them: what is finished is not run again."""
    for name, family in FAMILIES.items():
        for record in sorted((ROOT / "results" / name).glob("*/*.json")):
            folder = family.runs / record.parent.name / record.stem
            if not (folder / "results.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(record, folder / "results.json")


def join_suites() -> None:
    """Write the tables of every suite from its finished cells, whenever they were run."""
    for family in FAMILIES.values():
        for suite, sources in family.suites.items():
            record = join(suite, "quick", family.runs, sources)
            names = {source.name for source in sources}  # others share the recipe's cell alone
            record["data"] = {k: found for k, found in record["data"].items() if k in names}
            if record["data"]:
                write_suite(record, suite, family.runs)
        if "table3" in family.suites:
            figure = join("table3", "quick", family.runs, CLOSEST)
            write_suite(figure, "figure1", family.runs)


def take(source: Path, name: str) -> None:
    """Copy a file into results/, unless it is of a kind that is not committed."""
    target = ROOT / "results" / name
    if target.suffix in (".json", ".md", ".tex", ".svg"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def suites(family: str, *names: str) -> str:
    """Return the tables of suites as `recoach reproduce` wrote them."""
    paths = [ROOT / "results" / family / f"{name}.md" for name in names]
    return "\n".join(path.read_text() if path.exists() else "Not run yet.\n" for path in paths)


RECIPES = (ROOT / "results/gains/gains.json", ROOT / "results/gains/future.json")


def summary() -> str:
    """Return the README's table: what GRPO gained on each log."""
    return markdown([overview(*(json.loads(path.read_text()) for path in RECIPES))])


def verification() -> str:
    """Return the table of published figures beside ours; a dash where ours is not run yet."""
    lines = ["| figure | published | ours | ours / published |", "|---|---:|---:|---:|"]
    for name, (title, published) in REFERENCES.items():
        path = ROOT / "results" / f"{name}.json"
        test = json.loads(path.read_text())["models"]["base"]["test"] if path.exists() else {}
        for metric, figure in published.items():
            ours = test.get(metric)
            cells = ("–", "–") if ours is None else (f"{ours:.4f}", f"{ours / figure:.3f}")
            lines.append(f"| {title}, {metric} | {figure:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def against_published() -> str:
    """Return the best tuned model of each log beside published figures for the same split."""
    records = [json.loads(path.read_text())["data"] for path in RECIPES]
    lines = [
        "| log | figure | published | ours, best | ours / published |",
        "|---|---|---:|---:|---:|",
    ]
    for log, (who, figures) in PUBLISHED.items():
        cells = {n: c for data in records if log in data for n, c in data[log]["cells"].items()}
        for metric, figure in figures.items():
            found = {n: c["models"]["tuned"]["test"][metric]["mean"] for n, c in cells.items()}
            best = max(found, key=found.__getitem__, default=None)
            ours = ("–", "–")
            if best is not None:
                ours = (f"{found[best]:.4f} ({label(best)})", f"{found[best] / figure:.3f}")
            lines.append(f"| {log} | {who}, {metric} | {figure:.4f} | {' | '.join(ours)} |")
    return "\n".join(lines) + "\n"


TABLES = {
    "README.md": summary,
    "docs/results/verification.md": verification,
    "docs/results/paper.md": lambda: suites("paper", "table1", "table3", "table4", "factors"),
    "docs/results/gains.md": lambda: (
        suites("gains", "gains", "future", "ablation", "rivals")
        + "\n### Beside published figures\n\n"
        + against_published()
    ),
    "docs/results/beyond-the-next-item.md": lambda: (
        suites("gains", "tail") + "\n" + suites("simulator", "simulator")
    ),
}


def write() -> None:
    """Put each table between its document's two marks."""
    for name, table in TABLES.items():
        document = ROOT / name
        before, rest = document.read_text().split(BEGIN)
        _, after = rest.split(END)
        document.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    restore()
    join_suites()
    collect()
    collect_suites()
    write()
