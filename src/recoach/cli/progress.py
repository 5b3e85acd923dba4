"""The progress of a training stage in the terminal."""

from rich.progress import TaskID

from recoach.cli import interrupts
from recoach.cli.console import bold, console
from recoach.experiments.run_folder import RETRAINED
from recoach.training.callbacks import Callback, TrainResult
from recoach.training.reporting import step_progress

_TITLES = {
    "base": "Training the base",
    "tuned": "Fine-tuning",
    "control": "Continued training of the base (control)",
}
_PRINTED = ("loss", "objective", "reward", "kl", "valid/ndcg@10", "valid/recall@10")


class StageProgress(Callback):
    """Shows a progress bar for a stage and prints a line for each evaluation."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._title = _title(stage)
        self._progress = step_progress(console)
        self._task: TaskID | None = None

    def on_begin(self, total_steps: int, step: int) -> None:
        """Print the title of the stage, with the step at which it resumes."""
        interrupts.begin_training()
        console.print(bold(self._title, f" (from step {step})" if step else ""))
        if console.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task("steps", total=total_steps, completed=step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Advance the progress bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=step)

    def on_row(self, row: dict[str, float]) -> None:
        """Print the metrics of an evaluation."""
        # A surrogate of the reward is 0, or minus the reward, where the policies are the same.
        hidden = {"loss"} if "reward" in row else set()
        names = [name for name in _PRINTED if name in row and name not in hidden]
        metrics = "  ".join(f"{name} {row[name]:.4f}" for name in names)
        console.print(f"  step {row['step']:>6}  {metrics}")

    def on_end(self, outcome: TrainResult) -> None:
        """Remove the progress bar, and print which step was selected unless a signal came."""
        self._progress.stop()
        interrupts.end_training()
        console.print(f"  {self._selection(outcome)}")

    def stops(self) -> bool:
        """Return whether Ctrl-C or SIGTERM was received."""
        return interrupts.stop_requested()

    def _selection(self, outcome: TrainResult) -> str:
        if not outcome.steps:
            return "no steps to run"
        if self._stage.endswith(RETRAINED):
            return f"{outcome.steps} steps, {outcome.seconds:.0f} s"
        text = f"kept step {outcome.best_step} of {outcome.steps}"
        if outcome.best_step == 0 and self._stage in ("tuned", "control"):
            text = f"no improvement in {outcome.steps} steps: base kept"
        if outcome.share is not None and outcome.share < 1:
            text += f", interpolation towards the base: {100 * outcome.share:.0f} % of the change"
        return f"{text}, {outcome.seconds:.0f} s"


def _title(stage: str) -> str:
    """Return the title of a stage of the run folder."""
    name = stage.removesuffix(RETRAINED)
    if name.startswith("setting-"):
        return f"Training on the new events, setting {name.removeprefix('setting-')}"
    title = _TITLES.get(name) or f"Training the base of {name.replace('-', ' ')}"
    return f"{title}, again on train and validation" if name != stage else title
