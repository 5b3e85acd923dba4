"""`recoach search`: search the settings of GRPO for a log."""

from pathlib import Path

from recoach.cli.options import Count, Words
from recoach.cli.runs import Changes
from recoach.errors import ConfigError
from recoach.experiments.config import read_config


def search(
    experiment: Path | None = None,
    *,
    trials: Count = 20,
    output: Path = Path("runs/search"),
    vary: Words = None,
    changes: Changes = None,
) -> None:
    """Search the settings of GRPO for a log on validation; the test items are not used.

    The base is trained once. After an interruption, the same command continues the search; a higher
    --trials adds trials.

    Args:
        experiment: A TOML file as for `recoach run`. Default: the default settings on the simulated
            shop.
        trials: Total number of trials, including those of earlier calls.
        output: The folder for the base, the study, trials.json, search.html and best.toml.
        vary: Settings to vary: finetune.KEY=LOW..HIGH or finetune.KEY=A,B,C; may be repeated.
            Default: learning rate, weight averaging, KL penalty, loss type, horizon and discount.
        changes: Settings for all trials that replace those of the file, like data.path=log.csv; may
            be repeated.
    """
    try:
        from recoach.cli.trials import search_and_show  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigError("recoach search needs Optuna: pip install 'recoach[tune]'.") from error
    search_and_show(read_config(experiment, changes or []), vary or [], trials, output)
