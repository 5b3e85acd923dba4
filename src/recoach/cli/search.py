"""`recoach search`: settings of GRPO that suit a log."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recoach.cli import interrupts
from recoach.cli.console import console
from recoach.cli.progress import Shown
from recoach.cli.runs import Changes
from recoach.errors import ConfigError
from recoach.experiments.config import read_config
from recoach.report.search import change, draw_search, drawn, search_table, search_verdict
from recoach.report.tables import number
from recoach.training.observers import Outcome

try:
    from recoach.experiments.search import Plan, SearchObserver
    from recoach.experiments.search import search as run_search
    from recoach.experiments.space import read_space
except ModuleNotFoundError as error:
    raise ConfigError("recoach search needs Optuna: pip install 'recoach[tune]'.") from error

Vary = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


class _Trials(SearchObserver):
    """A progress bar for the trial that runs and a line for each that has ended."""

    def __init__(self, total: int) -> None:
        self._total = total
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            TextColumn("  {task.description}"), *columns, console=console, transient=True
        )
        self._task = self._progress.add_task("steps")

    def on_search(self, base: float, done: int) -> None:
        earlier = f", {done} of {self._total} trials are there" if done else ""
        console.print(f"[bold]Search[/]: the base has {number(base)}{earlier}", highlight=False)

    def on_begin(self, total_steps: int, step: int) -> None:
        interrupts.begin_training()
        if console.is_terminal:
            self._progress.start()
            self._progress.reset(self._task, total=total_steps, completed=step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        self._progress.update(self._task, completed=step)

    def on_end(self, outcome: Outcome) -> None:
        interrupts.end_training()

    def stops(self) -> bool:
        return interrupts.asked()

    def on_trial(self, trial: dict[str, Any], base: float) -> None:
        came = f"pruned: {trial['pruned']}"
        if trial["value"] is not None:
            came = f"{number(trial['value'])} ({change(trial['value'], base)})"
        line = f"  trial {trial['trial']:>3} of {self._total}  {came}  {drawn(trial)}"
        console.print(line, highlight=False, markup=False)

    def stop(self) -> None:
        self._progress.stop()


def search(
    experiment: Path | None = None,
    *,
    trials: int = 20,
    output: Path = Path("runs/search"),
    vary: Vary = None,
    changes: Changes = None,
) -> None:
    """Search settings of GRPO that suit a log, by validation; the test items are not looked at.

    The base is trained once. Interrupted, the same command goes on where it was; a higher --trials
    adds to what is there.

    Parameters
    ----------
    experiment
        A TOML file as `recoach run` takes it; without it, the defaults on the simulated shop.
    trials
        How many settings to try, those of earlier calls among them.
    output
        Where the base, the study, trials.json, search.png and best.toml go.
    vary
        What may vary: grpo.KEY=LOW..HIGH or grpo.KEY=A,B,C; may be repeated. Without it: learning
        rate, average, KL, transform, horizon and discount.
    changes
        Settings to change for all trials, like data.path=log.csv; may be repeated.
    """
    config = read_config(experiment, changes or [])
    plan = Plan(config, read_space(config.grpo, vary or []), trials, output)
    shown = _Trials(trials)
    try:
        record = run_search(plan, Shown, shown)
    finally:
        shown.stop()
    picture = draw_search(record, output / "search.png")
    console.print(search_table(record))
    console.print(search_verdict(record), highlight=False, markup=False)
    console.print(f"Written: {output / 'trials.json'}, {picture}", highlight=False)
    if record["best"] is not None:
        console.print(f"Go on with: recoach run {output / 'best.toml'}", highlight=False)
