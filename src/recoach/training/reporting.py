"""What a training shows and logs beside its result: a progress bar, experiment trackers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from recoach import distributed
from recoach.errors import ConfigError, listed
from recoach.training.callbacks import Callback, CallbackList, TrainResult
from recoach.training.context import RunContext
from recoach.training.trackers import check_trackers, trackers


def step_progress(console: Console) -> Progress:
    """Return a progress bar that counts steps and disappears when it stops."""
    title = TextColumn("  {task.description}", markup=False)
    columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


class ProgressBar(Callback):
    """Shows a bar with the steps of a training and its last validation value.

    Only in a terminal or a notebook; elsewhere it does nothing.

    Args:
        console: where the bar is shown.
        title: the text before the bar.
        metric: the validation metric that is shown with it.
    """

    def __init__(self, console: Console, title: str, metric: str = "") -> None:
        self._console, self._title, self._metric = console, title, metric
        self._progress = step_progress(console)
        self._task: TaskID | None = None

    def on_begin(self, total_steps: int, step: int) -> None:
        """Show the bar."""
        if self._console.is_terminal or self._console.is_jupyter:
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total_steps, completed=step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Advance the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=step)

    def on_row(self, row: dict[str, float]) -> None:
        """Show the validation value."""
        value = row.get(f"valid/{self._metric}")
        if self._task is not None and value is not None:
            text = f"{self._title}, {self._metric} {value:.4f}"
            self._progress.update(self._task, description=text)

    def on_end(self, outcome: TrainResult) -> None:
        """Remove the bar."""
        self.stop()

    def stop(self) -> None:
        """Remove the bar, also after an error."""
        if self._task is not None:  # rich prints an empty line for a bar that is not shown
            self._progress.stop()
            self._task = None


@contextmanager
def reporting(
    context: RunContext,
    stage: str,
    settings: Mapping[str, Any],
    metric: str,
    callbacks: Sequence[Callback] = (),
) -> Iterator[RunContext]:
    """Return the context of a training with the callbacks that it asks for.

    Args:
        context: `progress` asks for a bar, `report_to` for trackers.
        stage: "base" or "tuned", under which the trackers log.
        settings: tables of settings that the trackers log.
        metric: the validation metric that the bar shows.
        callbacks: further callbacks, called first.

    Raises:
        ConfigError: a tracker is not installed, or the training has no folder for it.
    """
    titles = {"base": "Training", "tuned": "Fine-tuning"}
    bar = ProgressBar(Console(stderr=True), titles[stage], metric)
    tracking: list[Callback] = []
    names = context.trackers
    check_trackers(names)
    if names and context.folder is None:
        raise ConfigError(
            f"report_to = {listed(names)} writes into the folder of the training, and there is "
            "none. Pass RunContext(folder=..., report_to=...)."
        )
    if names and context.folder is not None and distributed.is_main_process():
        tracking = trackers(names, settings, Path(context.folder), stage)
    shown = [bar] if context.progress else []
    try:
        all_callbacks = [*callbacks, context.callback, *tracking, *shown]
        yield replace(context, callback=CallbackList(all_callbacks))
    finally:
        bar.stop()
