"""Run a suite: every cell, on every log, with every seed.

Each of these is an ordinary run folder: an interrupted suite resumes, and every run can be reported
and repeated from its own config.toml. Cells with equal settings of the base model train it once.
Several processes may run one suite: each skips the runs that another one is working on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recoach.data.lock import LOCK_FILE
from recoach.errors import BusyError, ConfigError, ModelError, RunError
from recoach.experiments.base_copy import copy_stage
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.run_folder import RETRAINED, RunFolder
from recoach.experiments.stages import CallbackFactory, Run, execute, open_run
from recoach.reproduction.aggregate import aggregate
from recoach.reproduction.paper_cells import Cell, Profile, Source
from recoach.reproduction.suites import cells_of, group_of, runs_folder

Announce = Callable[[str], None]
"""Called with the name of every run before it starts, and with the reason if it is skipped."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The runs of a suite and their folders."""

    suite: str
    """A suite of `GROUPS`."""
    sources: tuple[Source, ...]
    profile: Profile
    seeds: tuple[int, ...]
    output: Path
    only: tuple[str, ...] = ()
    """Run only cells whose names contain one of these words."""

    def cells(self, source: Source, seed: int) -> list[Cell]:
        """Return the cells for one log and seed, after `only`."""
        cells = cells_of(self.suite, source, self.profile, seed)
        if not self.only:
            return cells
        return [cell for cell in cells if any(word in cell.name for word in self.only)]

    def run_folder(self, source: Source, cell: Cell, seed: int) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.suite_folder / source.name / f"{cell.name}-{seed}")

    def jobs(self) -> Iterator[tuple[str, ExperimentConfig, RunFolder]]:
        """Yield name, settings and folder of every run."""
        for source in self.sources:
            for seed in self.seeds:
                for cell in self.cells(source, seed):
                    config = resolve(cell.tables, f"cell {cell.name}")
                    name = f"{source.name}: {cell.name}, seed {seed}"
                    yield name, config, self.run_folder(source, cell, seed)

    def missing(self) -> list[str]:
        """Return the names of the runs that are not finished."""
        return [name for name, config, folder in self.jobs() if not folder.has_results_for(config)]

    @property
    def suite_folder(self) -> Path:
        """The folder of the suite's runs and tables; suites that share runs share it."""
        return self.output / runs_folder(group_of(self.suite), self.profile)


def reproduce(plan: Plan, make_callback: CallbackFactory, announce: Announce) -> dict[str, Any]:
    """Run every cell that is not finished and return the aggregated record of the suite.

    A run that another process is working on is skipped; `Plan.missing` names it until it is
    finished. The record holds every finished run in the suite's folder, of other logs and seeds
    too.

    Raises:
        ConfigError: `only` excludes every cell, or the settings of a cell are wrong.
    """
    if not any(plan.cells(source, seed) for source in plan.sources for seed in plan.seeds):
        raise ConfigError(
            f"--only {' '.join(plan.only)} leaves no cell of {plan.suite} to run. Use a part of a "
            "cell's name, like sasrec."
        )
    for name, config, folder in plan.jobs():
        announce(name)
        try:
            _run(config, folder, make_callback)
        except BusyError as busy:
            announce(f"{name}: skipped, {busy.owner}")
    return aggregate(plan.suite, plan.profile, plan.suite_folder, plan.sources)


def _run(config: ExperimentConfig, folder: RunFolder, make_callback: CallbackFactory) -> None:
    if folder.has_results_for(config) and not (folder.path / LOCK_FILE).exists():
        return
    with folder.lock():  # also removes the lock of a process that was killed after its results
        if folder.has_results_for(config):
            return
        run = open_run(config, folder.path, resume=True, make_callback=make_callback)
        stages = ["base"]
        if config.evaluation.retrains(run.dataset.split):
            stages.append(f"base{RETRAINED}")
        for stage in stages:
            if not folder.has_checkpoint(stage):
                _copy_base(run, stage)
        execute(run)


def _copy_base(run: Run, stage: str) -> None:
    """Copy the base model of another run with equal settings, if one has trained it."""
    settings = _base_settings(run.config)
    for path in sorted(run.folder.path.parent.iterdir()):
        other = RunFolder(path)
        if path != run.folder.path and _has_base(other, stage, settings):
            copy_stage(other, run.folder, stage)
            return


def _has_base(folder: RunFolder, stage: str, settings: dict[str, Any]) -> bool:
    """Return whether a run has trained a base with these settings; False if it cannot be read."""
    try:
        return _base_settings(folder.config()) == settings and folder.is_complete(stage)
    except (ConfigError, ModelError, RunError):  # of another version, or damaged
        return False


def _base_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that the base model depends on."""
    tables = config.tables()
    settings = {name: tables[name] for name in ("seed", "data", "model", "pretrain")}
    return settings | {"repeats": config.evaluation.repeats}
