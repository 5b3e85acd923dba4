"""The command line: `recoach VERB`."""

import os
import sys

from cyclopts import App, CycloptsError

from recoach.cli import interrupts
from recoach.cli.console import errors
from recoach.errors import RecoachError

# Read when torch starts its threads: threads that spin while they wait stall each other on a busy
# machine, and threads that sleep at once halve the speed of a quiet one. So they spin for a moment.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = App(
    name="recoach",
    help="Reinforcement fine-tuning for recommenders: take a log and a model, make it better.",
    suppress_keyboard_interrupt=False,  # main says what is saved and how to go on
)
for name, (target, purpose) in {
    "compare": ("recoach.cli.compare:compare", "Set runs side by side."),
    "convert-config": ("recoach.cli.recbole:convert_config", "Turn RecBole's YAML into TOML."),
    "data": ("recoach.cli.data:app", "Look at interaction logs and prepare them."),
    "demo": ("recoach.cli.runs:demo", "Run the main job on a simulated shop or your own log."),
    "doctor": ("recoach.cli.doctor:doctor", "Show versions, devices and extras."),
    "evaluate": ("recoach.cli.runs:evaluate", "Judge the models of a run again."),
    "export": ("recoach.cli.recbole:exports", "Write weights back to where a model came from."),
    "finetune": ("recoach.cli.runs:finetune", "Fine-tune the base of a run with GRPO."),
    "import": ("recoach.cli.recbole:imports", "Make a run of a model trained elsewhere."),
    "pretrain": ("recoach.cli.runs:pretrain", "Train a base model by its own loss."),
    "recommend": ("recoach.cli.recommend:recommend", "Recommend items to users of a run."),
    "report": ("recoach.cli.runs:report", "Write the page of a run again."),
    "reproduce": ("recoach.cli.reproduce:reproduce", "Repeat the tables of the paper."),
    "run": ("recoach.cli.runs:run", "Run an experiment from its TOML file."),
    "serve": ("recoach.cli.serve:serve", "Serve the models of a run over HTTP."),
    "search": ("recoach.cli.search:search", "Search settings of GRPO that suit your log."),
}.items():
    app.command(target, name=name, help=purpose)


def main() -> None:
    """Run the command line; errors the user can mend end in one sentence and exit code 2."""
    with interrupts.watched():
        try:
            app(sys.argv[1:], exit_on_error=False, print_error=True)
        except CycloptsError:
            sys.exit(2)
        except RecoachError as error:
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


def _plain(message: str) -> str:
    return " ".join(message.split()).replace("[", r"\[")


if __name__ == "__main__":
    main()
