"""`recoach compare`: one table of the results of several runs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recoach.cli.console import console
from recoach.cli.options import Words
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import write_atomically
from recoach.report.compare import compare_runs, default_metrics
from recoach.report.compare_page import comparison_page
from recoach.report.table_formats import console_table, latex, markdown
from recoach.report.tables import headline
from recoach.report.verdict import verdict_sentence


def compare(
    runs: list[Path],
    /,
    *,
    metrics: Words = None,
    style: Annotated[Literal["console", "markdown", "latex"], Parameter("--format")] = "console",
    html: Path | None = None,
) -> None:
    """Compare the models of several runs that have the same data and protocol.

    Args:
        runs: Run folders with results.
        metrics: Metrics to compare, like ndcg@10. Default: recall and NDCG at 10 and 50, or at the
            cutoffs nearest to 10 and 50.
        style: The format of the table: for the terminal, Markdown or LaTeX.
        html: Also write a page with verdicts, intervals and the curves of all runs to this file.
    """
    results = {str(path): RunFolder(path).read_json("results.json") for path in runs}
    names = metrics or default_metrics(results)
    grid = compare_runs(results, names)
    if html is not None:
        write_atomically(html, comparison_page(runs, names).encode())
    if style == "console":
        for name, record in results.items():
            console.print(f"{name}: {verdict_sentence(headline(record))}")
        console.print(console_table(grid))
    else:
        text = markdown([grid]) if style == "markdown" else latex([grid])
        console.print_document(text)
