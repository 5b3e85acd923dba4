"""Copy the results of finished runs into results/ and write the documents' tables from them.

Run from the project's root, after `recoach run experiments/NAME.toml` for any number of names, and
`recoach reproduce` for any number of suites.
"""

import json
import shutil
from pathlib import Path

import tomli_w

from recoach.experiments.suites import SUITES, Source
from recoach.report.tables import markdown_table

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


def collect() -> None:
    """Take over what runs/ holds; results whose runs are elsewhere stay as they are."""
    for experiment in sorted((ROOT / "experiments").glob("*.toml")):
        source = ROOT / "runs" / experiment.stem / "results.json"
        if source.exists():
            (ROOT / "results" / f"{experiment.stem}.json").write_text(source.read_text())


PROFILE = "quick"
SOURCES = (
    Source("industrial-2018", "../shared/data/industrial-2018/sequences.txt"),
    Source("video-games-2023", "../shared/data/video-games-2023/sequences.txt.gz"),
    Source("baby-2023", "../shared/data/baby-2023", ready_split=True),
)
"""The logs that stand closest to the paper's."""


def cells() -> dict[str, dict]:
    """Return every cell of the paper's suites by the place of its TOML in experiments/."""
    return {
        f"paper/{source.name}/{cell.name}.toml": cell.tables
        for source in SOURCES
        for suite in SUITES.values()
        for cell in suite(source, PROFILE, 2020)
    }


def collect_paper() -> None:
    """Write the cells' TOML files and take over what `recoach reproduce` has found."""
    for name, tables in cells().items():
        path = ROOT / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(tables))
    runs, kept = ROOT / "runs" / "reproduce" / PROFILE, ROOT / "results" / "paper"
    for source in sorted(runs.glob("*/*/results.json")):
        target = kept / source.parent.parent.name / f"{source.parent.name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
    for folder in (runs.parent, runs):
        for pattern in ("*.json", "*.md", "*.tex", "*.svg"):
            for source in folder.glob(pattern):
                shutil.copy(source, kept / source.name)


def suite(name: str) -> str:
    """Return the tables of a suite as `recoach reproduce` wrote them."""
    path = ROOT / "results" / "paper" / f"{name}.md"
    return path.read_text() if path.exists() else "Not run yet.\n"


def gains() -> str:
    """Return the README's table: every committed result that was fine-tuned."""
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))]
    return markdown_table(record for record in records if "tuned" in record["models"])


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


def paper() -> str:
    """Return all tables of the paper's reproduction."""
    return "\n".join(suite(name) for name in ("table1", "table3", "table4", "factors"))


TABLES = {"README.md": gains, "docs/verification.md": verification, "docs/paper.md": paper}


def write() -> None:
    """Put each table between its document's two marks."""
    for name, table in TABLES.items():
        document = ROOT / name
        before, rest = document.read_text().split(BEGIN)
        _, after = rest.split(END)
        document.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    collect()
    collect_paper()
    write()
