"""The commands that create or read a run folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from recoach import distributed
from recoach.cli.console import console
from recoach.cli.options import Layout, Resume, Run
from recoach.cli.progress import StageProgress
from recoach.errors import RunError
from recoach.experiments.base_copy import copy_base
from recoach.experiments.config import ExperimentConfig, read_config
from recoach.experiments.data_notes import data_notes
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import execute, open_run
from recoach.models.registry import MODELS
from recoach.report.html import write_report
from recoach.report.protocol import split_lines
from recoach.report.tables import comparison_table, headline, summary
from recoach.report.verdict import control_warning, verdict_sentence
from recoach.reproduction.controls import train_ladder
from recoach.training.callbacks import Callback, CallbackList
from recoach.training.trackers import TrackerName, check_trackers, trackers

ReportTo = Annotated[
    list[TrackerName] | None,
    Parameter(
        consume_multiple=(1, None),
        negative="",
        help="Experiment trackers to log to: tensorboard, mlflow, wandb.",
    ),
]
Model = Annotated[
    str,
    Parameter(
        help=f"The model: {', '.join(MODELS)}; or package.module:function for one of your own."
    ),
]
Changes = Annotated[
    list[str] | None, Parameter(name="--set", consume_multiple=(1, None), negative="")
]

_DETECTED: Final = Layout()


def run(
    experiment: Path,
    *,
    output: Path | None = None,
    resume: Resume = False,
    report_to: ReportTo = None,
    controls: Literal["ladder"] | None = None,
    changes: Changes = None,
) -> None:
    """Run all stages of an experiment: prepare, train, fine-tune, control, evaluate, report.

    Args:
        experiment: The TOML file of the experiment.
        output: The run folder. Default: runs/NAME for NAME.toml.
        controls: ladder: afterwards also train the base with everything that could explain the
            gain (more training, other targets, other objectives, from scratch, rewards without
            information), each with three learning rates, in OUTPUT/ladder. It takes about 50 times
            as long as the fine-tuning; an interrupted ladder resumes with --resume.
        changes: Settings that replace those of the file, like finetune.beta=0.02; may be repeated.
    """
    config = read_config(experiment, changes or [])
    path = output or Path("runs") / experiment.stem
    execute_and_show(config, path, resume=resume, report_to=report_to)
    if controls == "ladder":
        table = train_ladder(path, StageProgress, _announce)
        console.print_document(table.read_text(encoding="utf-8"))
        console.print(f"Written: {table}")


def pretrain(
    data: Path,
    *,
    output: Path,
    model: Model = "sasrec",
    objective: Literal["own", "future"] = "own",
    resume: Resume = False,
    report_to: ReportTo = None,
    changes: Changes = None,
    layout: Layout = _DETECTED,
) -> None:
    """Train a base model.

    Args:
        data: An interaction log, or a folder made by `recoach data prepare`.
        output: The run folder.
        objective: What the model learns from: its own loss, or (future) cross-entropy with the next
            ten items of each state, discounted and smoothed to similar items.
        changes: Settings that replace the defaults, like pretrain.epochs=50; may be repeated.
    """
    settings = [data_path(data), f"model.name={model}", "finetune.enabled=false"]
    settings.append(f"pretrain.objective={objective}")
    config = read_config(None, [*settings, *layout.changes(), *(changes or [])])
    execute_and_show(config, output, resume=resume, report_to=report_to)


def finetune(
    path: Path,
    *,
    output: Path | None = None,
    resume: bool = False,
    report_to: ReportTo = None,
    changes: Changes = None,
) -> None:
    """Fine-tune the base of a run, with GRPO by default, and train the control for comparison.

    The control continues the base's own supervised training for as many steps as the
    fine-tuning, with the same learning rate and the same selection.

    Args:
        path: A run folder made by `recoach pretrain`.
        output: A new run folder for this fine-tuning, which gets a copy of the base and the
            dataset. Default: the folder of the run.
        resume: Continue an interrupted fine-tuning.
        changes: Settings of GRPO that replace those of the run, like finetune.beta=0.02; may be
            repeated.
    """
    check_trackers(report_to or [])
    folder = RunFolder(path) if output is None else copy_base(path, output, resume=resume)
    folder.config()
    with folder.lock():
        config = folder.prepare_finetuning(changes or [], resume=resume)
    execute_and_show(config, folder.path, resume=True, report_to=report_to, stored=True)


def evaluate(path: Run) -> None:
    """Evaluate the models of a run again and print the comparison."""
    folder = RunFolder(path)
    config = folder.config()
    with folder.lock():
        if not folder.is_complete("base"):
            raise RunError(f"{path} holds an unfinished run. Finish it first.")
        opened = open_run(config, path, resume=True, make_callback=_silent, stored=True)
        if not opened.is_complete:
            raise RunError(f"{path} holds an unfinished run. Finish it first.")
        _show(path, execute(opened))


def report(path: Run) -> None:
    """Write report.html of a run again and print the comparison."""
    _show(path, RunFolder(path).read_json("results.json"))


def execute_and_show(
    config: ExperimentConfig,
    path: Path,
    *,
    resume: bool,
    report_to: Sequence[TrackerName] | None = None,
    stored: bool = False,
) -> None:
    """Execute all stages of a run, write its report and print the comparison.

    A finished run is not executed again. `stored` tells that the settings are those of the run.

    Raises:
        RunError: another process uses the folder, or it has an unfinished run and not `resume`.
    """

    def make_callback(stage: str) -> Callback:
        if not distributed.is_main_process():
            return Callback()
        tracking = trackers(report_to or [], config.tables(), path, stage)
        return CallbackList([StageProgress(stage), *tracking])

    check_trackers(report_to or [])
    with RunFolder(path).lock():
        opened = open_run(config, path, resume=resume, make_callback=make_callback, stored=stored)
        dataset, folder = opened.dataset, opened.folder
        for note in [] if stored else data_notes(opened.config, dataset, folder.dataset):
            console.print(note)
        if folder.has_results_for(config):
            console.print(f"{path} is finished and is not run again.")
            _show(path, folder.read_json("results.json"))
            return
        console.print(f"{dataset.name}: {dataset.n_users:,} users, {dataset.n_items:,} items")
        for line in split_lines(dataset):
            console.print(line)
        _show(path, execute(opened))


def _show(path: Path, results: dict[str, Any]) -> None:
    if not distributed.is_main_process():
        return
    report_path = write_report(path)
    shown = headline(results)
    for line in (verdict_sentence(shown), control_warning(shown)):
        if line:
            console.print(line)
    console.print(comparison_table(results))
    console.print(summary(results))
    console.print(f"Run folder: {path}. Report: {report_path}")


def _silent(stage: str) -> Callback:
    """Return a callback that prints nothing, for stages that are not trained again."""
    del stage
    return Callback()


def _announce(text: str) -> None:
    console.rule(text, align="left")


def data_path(path: Path) -> str:
    """Return the override of `data.path`; a JSON string is also a TOML string."""
    return f"data.path={json.dumps(str(path), ensure_ascii=False)}"
