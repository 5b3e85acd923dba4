"""The `recoach` command: its verbs, error messages and exit codes."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter

from recoach.cli import interrupts
from recoach.cli.console import bold, console, errors, example_line, print_warnings
from recoach.errors import ConfigError, RecoachError

# OpenMP reads this when torch starts its threads. Waiting threads that only spin slow each other
# down on a busy machine; threads that sleep at once halve the speed of an idle machine. With this
# value they spin for a short time and then sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = App(
    name="recoach",
    # A value that begins with [ or { is a path or an id, never JSON.
    default_parameter=Parameter(json_list=False, json_dict=False),
    help="Reinforcement fine-tuning for recommenders: improve a trained model with its log.",
    help_format="plaintext",  # to import a parser of Markdown takes a third of the time of --help
    suppress_keyboard_interrupt=False,  # main() prints how to continue
)
for name, (target, purpose, example) in {
    "compare": (
        "recoach.cli.compare:compare",
        "Compare the results of several runs.",
        "recoach compare runs/a runs/b --metrics ndcg@10 --format markdown",
    ),
    "convert-config": (
        "recoach.cli.recbole:convert_config",
        "Convert RecBole's YAML settings to TOML.",
        "recoach convert-config recbole.yaml --output mine.toml",
    ),
    "demo": (
        "recoach.cli.demo:demo",
        "Show what fine-tuning gains, on a simulated shop or on your own log.",
        "recoach demo --data log.csv",
    ),
    "doctor": (
        "recoach.cli.doctor:doctor",
        "Show versions, devices and optional extras.",
        "recoach doctor",
    ),
    "evaluate": (
        "recoach.cli.runs:evaluate",
        "Evaluate the models of a run again.",
        "recoach evaluate runs/mine",
    ),
    "finetune": (
        "recoach.cli.runs:finetune",
        "Fine-tune the base of a run with GRPO.",
        "recoach finetune runs/mine --set finetune.beta=0.02",
    ),
    "front": (
        "recoach.cli.front:front",
        "Compare fine-tunings for an objective with re-rankers.",
        "recoach front runs/mine --objective diversity --output fronts/diversity",
    ),
    "ope": (
        "recoach.cli.ope:ope",
        "Estimate what policies would earn, from a log of what was shown.",
        "recoach ope exposures --rewards clicks.parquet --policy runs/next",
    ),
    "pretrain": (
        "recoach.cli.runs:pretrain",
        "Train a base model with its own loss.",
        "recoach pretrain log.csv --model sasrec --output runs/mine",
    ),
    "recommend": (
        "recoach.cli.recommend:recommend",
        "Recommend items to users with a model of a run.",
        "recoach recommend runs/mine --users u1 u2 --k 5",
    ),
    "report": (
        "recoach.cli.runs:report",
        "Write the HTML report of a run again.",
        "recoach report runs/mine",
    ),
    "reproduce": (
        "recoach.cli.reproduce:reproduce",
        "Reproduce the tables of the paper.",
        "recoach reproduce gains --dataset shop=shop.csv --seeds 3",
    ),
    "rerank": (
        "recoach.cli.rerank:rerank",
        "Re-rank the lists of a run and evaluate them.",
        "recoach rerank runs/mine --by mmr --knob 0.1 0.3 0.5",
    ),
    "run": (
        "recoach.cli.runs:run",
        "Run an experiment from its TOML file.",
        "recoach run experiment.toml --set finetune.epochs=3",
    ),
    "search": (
        "recoach.cli.search:search",
        "Search the settings of GRPO for your log.",
        "recoach search experiment.toml --trials 40",
    ),
    "serve": (
        "recoach.cli.serve:serve",
        "Serve the models of a run over HTTP.",
        "recoach serve runs/mine --port 8080",
    ),
    "update": (
        "recoach.cli.update:update",
        "Extend a run by the events of new days and train on them.",
        "recoach update runs/mine --data 2024-09-01.csv",
    ),
}.items():
    app.command(
        target,
        name=name,
        help=purpose,
        help_epilogue=example_line(example),
        help_format="markdown",
    )
for name, (target, purpose) in {
    "data": ("recoach.cli.data:app", "Describe, audit, prepare and download interaction logs."),
    "export": ("recoach.cli.export:app", "Export weights or vectors for other tools."),
    "import": ("recoach.cli.recbole:imports", "Import a model trained elsewhere as a run."),
}.items():
    app.command(target, name=name, help=purpose)
app.register_install_completion_command(
    add_to_startup=False,
    help="Write the completion script of your shell.",
)


_DISTRIBUTED_VERBS = ("demo", "evaluate", "finetune", "pretrain", "run")
"""Verbs that run under torchrun."""


def main() -> None:
    """Run the command line; errors of the user print one line and give exit code 2."""
    with interrupts.handle_signals(), print_warnings(), _without_trainer_warnings():
        try:
            _check_no_empty_values(sys.argv[1:])
            sys.path.append(str(Path.cwd()))  # of models of one's own, "mymodule:build"
            with _distributed(sys.argv[1:]):
                app(sys.argv[1:], exit_on_error=False, print_error=False)
        except (CycloptsError, RecoachError) as error:
            if not interrupts.stop_requested():
                errors.print(bold("Error:", f" {_one_line(str(error))}", style="bold red"))
                sys.exit(2)
        except KeyboardInterrupt:
            interrupts.record_keyboard_interrupt()
        finally:
            # Third-party code may have turned the signal into another exception.
            if interrupts.stop_requested():
                errors.print(interrupts.interrupt_message(sys.argv[1:]))
                sys.exit(interrupts.exit_code())


@contextmanager
def _without_trainer_warnings() -> Iterator[None]:
    """Hide the trainer's warning that the base is kept: the report of the run says so."""
    logger = logging.getLogger("recoach.training.trainer")
    previous = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(previous)


@contextmanager
def _distributed(arguments: list[str]) -> Iterator[None]:
    """Join the process group if torchrun started several processes; only rank 0 prints.

    Raises:
        ConfigError: the verb does not run under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if arguments[:1] and arguments[0] not in _DISTRIBUTED_VERBS:
        raise ConfigError(
            f"recoach {arguments[0]} runs in one process. Use torchrun with: "
            f"{', '.join(_DISTRIBUTED_VERBS)}."
        )
    from recoach import distributed  # noqa: PLC0415 (imports torch; --help does not need it)

    with distributed.process_group():
        console.quiet = not distributed.is_main_process()
        yield


def _one_line(message: str) -> str:
    """Join the lines of a message; blanks inside a line, for example in a path, are kept."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def _check_no_empty_values(arguments: Sequence[str]) -> None:
    """Raise a ConfigError if an argument of the command line is empty or blank."""
    option = "The command line"
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = name.startswith("--")
        option = name if is_option else option
        if not argument.strip() or (is_option and equals and not value.strip()):
            raise ConfigError(f"{option}: a value is empty. Give a value, or leave the option out.")


if __name__ == "__main__":
    main()
