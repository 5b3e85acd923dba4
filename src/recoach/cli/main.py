"""The command line: `recoach VERB`."""

import signal
import sys
from types import FrameType

from cyclopts import App, CycloptsError

from recoach.cli.console import errors
from recoach.errors import RecoachError

app = App(
    name="recoach",
    help="Reinforcement fine-tuning for recommenders: take a log and a model, make it better.",
)
for name, target in {
    "demo": "recoach.cli.runs:demo",
    "run": "recoach.cli.runs:run",
    "pretrain": "recoach.cli.runs:pretrain",
    "finetune": "recoach.cli.runs:finetune",
    "evaluate": "recoach.cli.runs:evaluate",
    "report": "recoach.cli.runs:report",
    "recommend": "recoach.cli.recommend:recommend",
    "data": "recoach.cli.data:app",
}.items():
    app.command(target, name=name)


def main() -> None:
    """Run the command line; errors the user can mend end in one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except RecoachError as error:
        errors.print(f"[bold red]Error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print(
            "Interrupted. What was trained up to the last checkpoint is saved; give the same "
            "command with --resume to go on.",
            soft_wrap=True,
        )
        sys.exit(130)


def _plain(message: str) -> str:
    return " ".join(message.split()).replace("[", r"\[")


def _terminated(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
