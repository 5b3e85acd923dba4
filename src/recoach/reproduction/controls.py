"""The ladder of controls for a run of one's own: `recoach run --controls ladder`."""

from pathlib import Path
from typing import Final

from recoach.errors import ConfigError
from recoach.experiments.base_copy import copy_base
from recoach.experiments.config import override
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory, execute, open_run
from recoach.report.table_formats import markdown
from recoach.reproduction.ladder_cells import RATES, Rung, rungs_of
from recoach.reproduction.ladder_contrasts import contrasts, trials_in
from recoach.reproduction.ladder_tables import run_table
from recoach.reproduction.runner import Announce

FOLDER: Final = "ladder"
"""The folder within a run folder that holds one run folder for each trial."""


def train_ladder(path: Path, make_callback: CallbackFactory, announce: Announce) -> Path:
    """Train every rung of the ladder from the base of a finished run and write their comparison.

    Each trial is a run folder of its own with a copy of the base; finished ones are kept. A rung
    that does not fit the model is left out, and `announce` is told why.

    Args:
        path: a run folder whose base is trained.
        make_callback: returns the callback of a stage.
        announce: called with the name of each trial before it starts.

    Returns:
        The Markdown file with the table; ladder.json lies beside it.

    Raises:
        RunError: the run has no trained base, or another process uses a folder.
    """
    run = RunFolder(path)
    config = run.config()
    rungs = {name: rung for name, rung in rungs_of(config.model_name).items() if not rung.pretrain}
    for name, rung in rungs.items():
        for rate in RATES:
            trial = f"{name}-{rate:g}"
            announce(trial)
            try:
                output = path / FOLDER / f"{trial}-{config.seed}"
                _train(run, output, rung, rate, make_callback)
            except ConfigError as error:
                announce(f"{trial}: left out. {error}")
    trials = {name: trials_in(path / FOLDER, f"{name}-{{rate}}-{{seed}}", RATES) for name in rungs}
    rows = contrasts(trials, rungs)
    run.write_json("ladder.json", rows)
    run.write_text("ladder.md", markdown([run_table(config.model_name, rows)]))
    return path / "ladder.md"


def _train(
    run: RunFolder, output: Path, rung: Rung, rate: float, make_callback: CallbackFactory
) -> None:
    """Fine-tune a copy of the base with the settings of a rung, unless that is finished."""
    changes = {**rung.change, "learning_rate": rate}
    folder = copy_base(run.path, output, resume=True)
    with folder.lock():
        settings = [override(f"finetune.{name}", value) for name, value in changes.items()]
        settings.append(override("evaluation.control", rung.has_control))
        trial = folder.prepare_finetuning(settings, resume=True)
        if folder.has_results_for(trial):
            return
        opened = open_run(trial, output, resume=True, make_callback=make_callback, stored=True)
        execute(opened)
