"""The command line: `recoach VERB`."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cyclopts import App, CycloptsError

from recoach.cli import interrupts
from recoach.cli.console import console, errors, shown
from recoach.errors import ConfigError, RecoachError

# Read when torch starts its threads: threads that spin while they wait stall each other on a busy
# machine, and threads that sleep at once halve the speed of a quiet one. So they spin for a moment.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = App(
    name="recoach",
    help="Reinforcement fine-tuning for recommenders: take a log and a model, make it better.",
    suppress_keyboard_interrupt=False,  # main says what is saved and how to go on
)
for name, (target, purpose, example) in {
    "compare": (
        "recoach.cli.compare:compare",
        "Set runs side by side.",
        "recoach compare runs/a runs/b --metrics ndcg@10 --format markdown",
    ),
    "convert-config": (
        "recoach.cli.recbole:convert_config",
        "Turn RecBole's YAML into TOML.",
        "recoach convert-config recbole.yaml --output mine.toml",
    ),
    "demo": (
        "recoach.cli.runs:demo",
        "Run the main job on a simulated shop or your own log.",
        "recoach demo --data log.csv",
    ),
    "doctor": ("recoach.cli.doctor:doctor", "Show versions, devices and extras.", "recoach doctor"),
    "evaluate": (
        "recoach.cli.runs:evaluate",
        "Judge the models of a run again.",
        "recoach evaluate runs/mine",
    ),
    "finetune": (
        "recoach.cli.runs:finetune",
        "Fine-tune the base of a run with GRPO.",
        "recoach finetune runs/mine --set grpo.beta=0.02",
    ),
    "pretrain": (
        "recoach.cli.runs:pretrain",
        "Train a base model by its own loss.",
        "recoach pretrain log.csv --model sasrec --output runs/mine",
    ),
    "recommend": (
        "recoach.cli.recommend:recommend",
        "Recommend items to users of a run.",
        "recoach recommend runs/mine --users u1 u2 --k 5",
    ),
    "report": (
        "recoach.cli.runs:report",
        "Write the page of a run again.",
        "recoach report runs/mine",
    ),
    "reproduce": (
        "recoach.cli.reproduce:reproduce",
        "Repeat the tables of the paper.",
        "recoach reproduce gains --dataset shop=shop.csv --seeds 3",
    ),
    "run": (
        "recoach.cli.runs:run",
        "Run an experiment from its TOML file.",
        "recoach run experiment.toml --set grpo.epochs=3",
    ),
    "search": (
        "recoach.cli.search:search",
        "Search settings of GRPO that suit your log.",
        "recoach search experiment.toml --trials 40",
    ),
    "serve": (
        "recoach.cli.serve:serve",
        "Serve the models of a run over HTTP.",
        "recoach serve runs/mine --port 8080",
    ),
}.items():
    app.command(target, name=name, help=purpose, help_epilogue=shown(example))
for name, (target, purpose) in {
    "data": ("recoach.cli.data:app", "Look at interaction logs and prepare them."),
    "export": ("recoach.cli.export:app", "Write weights or vectors for other tools."),
    "import": ("recoach.cli.recbole:imports", "Make a run of a model trained elsewhere."),
}.items():
    app.command(target, name=name, help=purpose)
app.register_install_completion_command(
    add_to_startup=False, help="Write the completion of your shell; follow what it says."
)


_TOGETHER = ("demo", "evaluate", "finetune", "pretrain", "run")
"""Verbs for torchrun."""


def main() -> None:
    """Run the command line; errors the user can mend end in one sentence and exit code 2."""
    with interrupts.watched(), _verdict_alone():
        try:
            with _together(sys.argv[1:]):
                app(sys.argv[1:], exit_on_error=False, print_error=False)
        except (CycloptsError, RecoachError) as error:
            if not interrupts.asked():
                _say(f"[bold red]Error:[/] {_plain(str(error))}")
                sys.exit(2)
        except KeyboardInterrupt:
            interrupts.note()
        finally:
            # Whatever a signal has become on its way through foreign code, it is no error.
            if interrupts.asked():
                _say(_plain(interrupts.farewell(sys.argv[1:])))
                sys.exit(interrupts.exit_code())


def _say(text: str) -> None:
    errors.print(text, highlight=False, soft_wrap=True)


@contextmanager
def _verdict_alone() -> Iterator[None]:
    """Keep a trainer's own word on a base that comes back to scripts: reports say it here."""
    logger = logging.getLogger("recoach.training.trainer")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _together(words: list[str]) -> Iterator[None]:
    """Join the other processes where torchrun has started several; only the first shows anything.

    Raises:
        ConfigError: the verb is not for several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if words[:1] and words[0] not in _TOGETHER:
        raise ConfigError(
            f"recoach {words[0]} works in one process; torchrun is for {', '.join(_TOGETHER)}."
        )
    from recoach import distributed  # noqa: PLC0415 (torch, which `recoach --help` need not wait for)

    with distributed.process_group():
        console.quiet = not distributed.is_main_process()
        yield


def _plain(message: str) -> str:
    return " ".join(message.split()).replace("[", r"\[")


if __name__ == "__main__":
    main()
