"""`recoach compare`: runs side by side."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from recoach.cli.console import console
from recoach.experiments.run_folder import RunFolder
from recoach.report.compare import compared
from recoach.report.table_formats import latex, markdown

Metrics = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


def compare(
    runs: list[Path],
    /,
    *,
    metrics: Metrics = None,
    style: Annotated[Literal["console", "markdown", "latex"], Parameter("--format")] = "console",
) -> None:
    """Set the models of several runs side by side, where data and protocol are the same.

    Parameters
    ----------
    runs
        Run folders with results.
    metrics
        What to show, like ndcg@10; recall and NDCG at 10 and 50 where not given.
    style
        A table for the terminal, Markdown or LaTeX.
    """
    wanted = metrics or ["recall@10", "ndcg@10", "recall@50", "ndcg@50"]
    found = {str(path): RunFolder(path).read_json("results.json") for path in runs}
    grid = compared(found, wanted)
    if style != "console":
        text = markdown([grid]) if style == "markdown" else latex([grid])
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(title=grid.heading, caption=grid.note)
    for place, name in enumerate(grid.head):
        table.add_column(name, justify="right" if place else "left")
    for row in grid.rows:
        table.add_row(*row)
    console.print(table)
