"""A stage on the screen: a progress bar and a line for each evaluation."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from recoach.cli import interrupts
from recoach.cli.console import console
from recoach.training.callbacks import Callback, TrainResult

_TITLES = {
    "base": "Training the base",
    "tuned": "Fine-tuning with GRPO",
    "control": "Control: training on without GRPO",
}
_SHOWN = ("loss", "objective", "reward", "kl", "valid/ndcg@10", "valid/recall@10")


class Shown(Callback):
    """A progress bar for a stage and a line for each evaluation."""

    def __init__(self, stage: str) -> None:
        self._title = _TITLES.get(stage) or f"Training the base of {stage.replace('-', ' ')}"
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def on_begin(self, total_steps: int, step: int) -> None:
        """Say what begins, or that it goes on."""
        interrupts.begin_training()
        console.print(f"[bold]{self._title}[/]" + (f" (from step {step})" if step else ""))
        if console.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task("steps", total=total_steps, completed=step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=step)

    def on_row(self, row: dict[str, float]) -> None:
        """Print the evaluation."""
        shown = "  ".join(f"{name} {row[name]:.4f}" for name in _SHOWN if name in row)
        console.print(f"  step {row['step']:>6}  {shown}", highlight=False)

    def on_end(self, outcome: TrainResult) -> None:
        """Take the bar away and say which step was kept."""
        self._progress.stop()
        kept = outcome.best_step
        last = f"  kept step {kept} of {outcome.steps}, {outcome.seconds:.0f} s"
        if outcome.share is not None and outcome.share < 1:
            last += f", {100 * outcome.share:.0f} % of the way to it"
        console.print(last if outcome.steps else "  nothing to do", highlight=False)
        interrupts.end_training()

    def stops(self) -> bool:
        """Return whether Ctrl-C or SIGTERM has come."""
        return interrupts.asked()
