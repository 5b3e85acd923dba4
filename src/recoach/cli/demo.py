"""`recoach demo`: all stages on a log, or a demonstration on a simulated shop."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from recoach import distributed
from recoach.cli.console import console
from recoach.cli.options import Layout, Resume
from recoach.cli.progress import StageProgress
from recoach.cli.runs import data_path, execute_and_show
from recoach.demonstration.pipeline import BASE_SETTINGS, DemoPlan, run_demo
from recoach.demonstration.report import (
    demo_sentence,
    demo_tables,
    forecast_sentences,
    write_demo,
)
from recoach.errors import ConfigError
from recoach.experiments.config import read_config
from recoach.report.table_formats import console_table

_DETECTED: Final = Layout()
_LOG_SETTINGS = (*BASE_SETTINGS, "finetune.epochs=5")
_PLAN = DemoPlan(Path("runs/demo"))


def demo(
    *,
    data: Path | None = None,
    output: Path = Path("runs/demo"),
    resume: Resume = False,
    layout: Layout = _DETECTED,
) -> None:
    """Show what fine-tuning gains: on a simulated shop, or on a log.

    On the shop: a base, continued training, re-rankers and GRPO with a reward for purchases,
    judged by the true revenue of their lists, and forecasts of it from logged lists. On a log:
    base, GRPO and continued training with a small budget.

    Args:
        data: An interaction log. Default: a simulated shop with views, carts and purchases.
        output: The run folder.
    """
    if data is not None:
        changes = [*_LOG_SETTINGS, data_path(data), *layout.changes()]
        execute_and_show(read_config(None, changes), output, resume=resume)
        return
    if distributed.world_size() > 1:
        raise ConfigError("The simulated shop runs in one process. Use torchrun with --data FILE.")
    plan = replace(_PLAN, output=output, settings=[*_PLAN.settings, *layout.changes()])
    record = run_demo(plan, StageProgress, console.print, resume=resume)
    paths = [*write_demo(record, output), output / "report.html"]
    for table in demo_tables(record):
        console.print(console_table(table))
    for sentence in forecast_sentences(record):
        console.print(sentence)
    console.print(f"Written: {', '.join(map(str, paths))}")
    console.print(demo_sentence(record))
