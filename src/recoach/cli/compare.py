"""`recoach compare`: one table of the results of several runs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recoach.cli.console import console
from recoach.cli.options import Words
from recoach.experiments.run_folder import RunFolder
from recoach.report.compare import compare_runs, default_metrics
from recoach.report.table_formats import console_table, latex, markdown


def compare(
    runs: list[Path],
    /,
    *,
    metrics: Words = None,
    style: Annotated[Literal["console", "markdown", "latex"], Parameter("--format")] = "console",
) -> None:
    """Compare the models of several runs that have the same data and protocol.

    Args:
        runs: Run folders with results.
        metrics: Metrics to compare, like ndcg@10. Default: recall and NDCG at 10 and 50, or at the
            cutoffs nearest to 10 and 50.
        style: The format of the table: for the terminal, Markdown or LaTeX.
    """
    results = {str(path): RunFolder(path).read_json("results.json") for path in runs}
    grid = compare_runs(results, metrics or default_metrics(results))
    if style == "console":
        console.print(console_table(grid))
    else:
        text = markdown([grid]) if style == "markdown" else latex([grid])
        console.print_document(text)
