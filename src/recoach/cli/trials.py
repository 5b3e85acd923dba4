"""The progress and the results of `recoach search` in the terminal.

A module of its own, because it needs Optuna and `recoach search --help` does not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recoach.cli import interrupts
from recoach.cli.console import bold, console
from recoach.cli.progress import StageProgress
from recoach.experiments.config import ExperimentConfig
from recoach.experiments.search import SearchCallback, SearchPlan
from recoach.experiments.search import search as run_search
from recoach.experiments.space import read_space
from recoach.report.search import (
    change_against_base,
    search_summary,
    search_table,
    settings_text,
    write_search,
)
from recoach.report.tables import format_metric
from recoach.training.callbacks import TrainResult
from recoach.training.reporting import step_progress


class _TrialProgress(SearchCallback):
    """Shows a progress bar for the running trial and prints a line for each finished one."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._progress = step_progress(console)
        self._task = self._progress.add_task("steps")

    def on_search(self, base: float, done: int) -> None:
        finished = f", {done} of {self._total} trials are finished" if done else ""
        text = f": validation value of the base {format_metric(base)}{finished}"
        console.print(bold("Search", text))

    def on_begin(self, total_steps: int, step: int) -> None:
        interrupts.begin_training()
        if console.is_terminal:
            self._progress.start()
            self._progress.reset(self._task, total=total_steps, completed=step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        self._progress.update(self._task, completed=step)

    def on_end(self, outcome: TrainResult) -> None:
        interrupts.end_training()

    def stops(self) -> bool:
        return interrupts.stop_requested()

    def on_trial(self, trial: dict[str, Any], base: float) -> None:
        self._progress.stop()  # the next trial may first train bases, with their own progress bar
        result = f"pruned: {trial['pruned']}"
        if trial["value"] is not None:
            change = change_against_base(trial["value"], base)
            result = f"{format_metric(trial['value'])} ({change})"
        line = f"  trial {trial['trial']:>3} of {self._total}  {result}  {settings_text(trial)}"
        console.print(line)

    def stop(self) -> None:
        self._progress.stop()


def search_and_show(
    config: ExperimentConfig, vary: Sequence[str], trials: int, output: Path
) -> None:
    """Run the search, write its page and print the results.

    Args:
        config: the experiment whose GRPO settings are varied.
        vary: the search space, as in `recoach search --vary`.
        trials: the total number of trials, with those of earlier calls.
        output: the folder of the search.
    """
    plan = SearchPlan(config, read_space(config.finetune, vary), trials, output)
    progress = _TrialProgress(trials)
    try:
        record = run_search(plan, StageProgress, progress)
    finally:
        progress.stop()
    page = write_search(record, output)
    console.print(search_table(record))
    console.print(search_summary(record))
    console.print(f"Written: {output / 'trials.json'}, {page}")
    if record["best"] is not None:
        console.print(f"Run the best settings with: recoach run {output / 'best.toml'}")
