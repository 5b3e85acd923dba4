"""`recoach rerank`: what a re-ranker changes in the lists of a run, on validation and test."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from recoach.cli.console import console
from recoach.cli.options import Count, Decimal, Run
from recoach.cli.reranking import checked_config
from recoach.errors import ConfigError
from recoach.experiments.reranking import RerankPlan, evaluate_rerankers
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import write_atomically
from recoach.report.reranking import rerank_lines, rerank_table
from recoach.report.table_formats import console_table, markdown
from recoach.rerank.config import RerankName

Knobs = Annotated[list[Decimal], Parameter(consume_multiple=(1, None), negative="")]


def rerank(
    path: Run,
    *,
    by: RerankName,
    knob: Knobs,
    stage: Literal["base", "tuned", "control"] = "base",
    k: Count = 10,
    depth: Count = 100,
    category: str | None = None,
    column: str | None = None,
    member: str | None = None,
    new_days: Decimal | None = None,
    margin: Decimal = 0.01,
    output: Path | None = None,
) -> None:
    """Re-rank the lists of a model of a run and print their metrics on test beside the model's.

    Args:
        by: The re-ranker.
        knob: How much accuracy is traded; of several values validation selects one.
        stage: Which model to use.
        k: Length of the lists.
        depth: Number of best items of the model that a list is chosen from.
        category: Column of the items table with categories. Default: category or genre, or else
            clusters of the model's item vectors.
        column: Column of the items table with costs, values or groups of items.
        member: The group that exposure_floor protects.
        new_days: Age in days up to which exposure_floor protects items.
        margin: Relative loss of NDCG on validation up to which a knob can be selected.
        output: Also write the results to this file (.json or .md).
    """
    if output is not None and output.suffix not in (".json", ".md"):
        raise ConfigError(f"--output must end with .json or .md, not {output.name!r}.")
    if not 0 <= margin < 1:
        raise ConfigError(f"--margin must be between 0 and 1, not {margin:g}.")
    given = {"category": category, "column": column, "member": member, "new_days": new_days}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings |= {"by": by, "depth": depth}
    configs = [checked_config(settings | {"knob": value}, "recoach rerank") for value in knob]
    plan = RerankPlan(RunFolder(path), configs, stage, k, margin)
    record = evaluate_rerankers(plan)
    console.print(console_table(rerank_table(record)))
    for line in rerank_lines(record):
        console.print(line)
    if output is not None:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        if output.suffix == ".md":
            text = markdown([rerank_table(record)]) + "\n" + "\n".join(rerank_lines(record)) + "\n"
        write_atomically(output, text.encode())
        console.print(f"Written: {output}")
