"""`recoach search`: settings of GRPO that suit a log."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from recoach.cli.runs import Changes
from recoach.errors import ConfigError
from recoach.experiments.config import read_config

Vary = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


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
        Where the base, the study, trials.json, search.html and best.toml go.
    vary
        What may vary: grpo.KEY=LOW..HIGH or grpo.KEY=A,B,C; may be repeated. Without it: learning
        rate, average, KL, transform, horizon and discount.
    changes
        Settings to change for all trials, like data.path=log.csv; may be repeated.
    """
    try:
        from recoach.cli.trials import search_and_show  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigError("recoach search needs Optuna: pip install 'recoach[tune]'.") from error
    search_and_show(read_config(experiment, changes or []), vary or [], trials, output)
