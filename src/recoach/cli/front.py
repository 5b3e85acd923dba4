"""`recoach front`: accuracy and an objective, of fine-tunings and of re-rankers."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from recoach.cli.console import console
from recoach.cli.options import Count, CountOrZero, Decimal, Run
from recoach.cli.progress import StageProgress
from recoach.cli.runs import Changes
from recoach.experiments.front import compute_front
from recoach.experiments.front_objectives import FrontObjective
from recoach.experiments.front_trainings import WEIGHTS, FrontPlan
from recoach.report.front import front_sentences, front_tables, write_front
from recoach.report.table_formats import console_table

Weights = Annotated[tuple[Decimal, ...], Parameter(consume_multiple=(1, None), negative="")]


def front(
    path: Run,
    *,
    objective: FrontObjective,
    output: Path,
    weights: Weights = WEIGHTS,
    steps: CountOrZero = 200,
    k: Count = 10,
    depth: Count = 100,
    category: str | None = None,
    column: str | None = None,
    changes: Changes = None,
) -> None:
    """Compare fine-tunings of a base for an objective with re-rankers of its lists.

    After an interruption the same command continues.

    Args:
        objective: What the lists are judged by beside accuracy.
        output: Folder for the fine-tunings, the tables and the picture.
        weights: Weights of the objective's reward beside that of the log; one fine-tuning each.
        steps: Steps of each training; 0 leaves them to the settings of the run.
        k: Length of the lists.
        depth: Number of best items of the base that re-rankers choose from.
        category: Column of the items table with categories. Default: category or genre, or else
            clusters of the base's item vectors.
        column: Column of the items table with values, for value. Default: the log's value.
        changes: Settings of GRPO that replace those of the run, like finetune.learning_rate=0.001;
            may be repeated.
    """
    plan = FrontPlan(
        path, objective, output, k, depth, weights, steps, category, column, changes or []
    )
    record = compute_front(plan, StageProgress, lambda text: console.rule(text, align="left"))
    paths = write_front(record, output)
    for table in front_tables(record)[:2]:
        console.print(console_table(table))
    for sentence in front_sentences(record):
        console.print(sentence)
    console.print(f"Written: {', '.join(map(str, paths))}")
