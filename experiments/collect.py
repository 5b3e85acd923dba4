"""Copy the results of finished runs into results/ and write the README's table from them.

Run from the project's root, after `recoach run experiments/NAME.toml` for any number of names.
"""

import json
from pathlib import Path

from recoach.report.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: written by `make results` -->\n", "<!-- end of results -->"


def collect() -> None:
    """Take over what runs/ holds; results whose runs are elsewhere stay as they are."""
    for experiment in sorted((ROOT / "experiments").glob("*.toml")):
        source = ROOT / "runs" / experiment.stem / "results.json"
        if source.exists():
            (ROOT / "results" / f"{experiment.stem}.json").write_text(source.read_text())


def table() -> str:
    """Return the README's table: every committed result that was fine-tuned."""
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))]
    return markdown_table(record for record in records if "tuned" in record["models"])


def write() -> None:
    """Put the table between the README's two marks."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + "\n" + table() + "\n" + END + after)


if __name__ == "__main__":
    collect()
    write()
