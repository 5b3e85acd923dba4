"""Run a suite of cells over data sets and seeds.

A cell is a run folder like any other: interrupted suites go on where they were, and every cell
can be looked at, reported and repeated from its own config.toml. Cells whose bases are the same
train it once. Several processes may share a suite: each skips the cells that others work on.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recoach.data.lock import LOCK_FILE
from recoach.errors import BusyError, ConfigError
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory, Run, execute, open_run
from recoach.reproduction.aggregate import aggregate
from recoach.reproduction.paper_cells import Cell, Profile, Source
from recoach.reproduction.suites import cells_of, group_of, runs_folder

Announce = Callable[[str], None]
"""Told the name of every cell before it is run, and why one is skipped."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and where."""

    suite: str
    """A key of `SUITES` or `GAINS`."""
    sources: tuple[Source, ...]
    profile: Profile
    seeds: tuple[int, ...]
    output: Path
    only: tuple[str, ...] = ()
    """Run only cells whose names contain one of these words."""

    def cells(self, source: Source, seed: int) -> list[Cell]:
        """Return the wanted cells of one data set and seed."""
        every = cells_of(self.suite, source, self.profile, seed)
        return [
            cell for cell in every if not self.only or any(word in cell.name for word in self.only)
        ]

    def folder(self, source: Source, cell: Cell, seed: int) -> RunFolder:
        """Return where a cell runs."""
        return RunFolder(self.shelf / source.name / f"{cell.name}-{seed}")

    def jobs(self) -> Iterator[tuple[str, ExperimentConfig, RunFolder]]:
        """Yield the name, the settings and the folder of every wanted cell."""
        for source in self.sources:
            for seed in self.seeds:
                for cell in self.cells(source, seed):
                    config = resolve(cell.tables, f"cell {cell.name}")
                    name = f"{source.name}: {cell.name}, seed {seed}"
                    yield name, config, self.folder(source, cell, seed)

    def missing(self) -> list[str]:
        """Return the names of the wanted cells that are not finished."""
        return [name for name, config, folder in self.jobs() if not folder.has_results_for(config)]

    @property
    def shelf(self) -> Path:
        """Where the suite's tables lie: beside those it shares runs with."""
        return self.output / (runs_folder(group_of(self.suite), self.profile))


def reproduce(plan: Plan, make_callback: CallbackFactory, announce: Announce) -> dict[str, Any]:
    """Run every cell that is not finished and return the joined record of the suite.

    A cell that another process works on is skipped (`Plan.missing` names it as long as it is not
    finished). The record holds all that is finished on the shelf, of other logs and seeds as well.

    Raises:
        ConfigError: nothing is left to run, or a cell's settings are wrong.
    """
    if not any(plan.cells(source, seed) for source in plan.sources for seed in plan.seeds):
        raise ConfigError(f"--only {' '.join(plan.only)} leaves no cell of {plan.suite} to run.")
    for name, config, folder in plan.jobs():
        announce(name)
        try:
            _run(config, folder, make_callback)
        except BusyError as busy:
            announce(f"{name}: skipped, {busy.owner}")
    return aggregate(plan.suite, plan.profile, plan.shelf, plan.sources)


def _run(config: ExperimentConfig, folder: RunFolder, make_callback: CallbackFactory) -> None:
    if folder.has_results_for(config) and not (folder.path / LOCK_FILE).exists():
        return
    with folder.lock():  # takes away the lock file of one that was killed at its very end
        if folder.has_results_for(config):
            return
        run = open_run(config, folder.path, resume=True, make_callback=make_callback)
        if not folder.has_checkpoint("base"):
            _adopt_base(run)
        execute(run)


def _adopt_base(run: Run) -> None:
    """Take over the trained base of a sibling run that has the same."""
    wanted = _base_of(run.config)
    for path in sorted(run.folder.path.parent.iterdir()):
        other = RunFolder(path)
        if path == run.folder.path or not (path / "config.toml").exists():
            continue
        if _base_of(other.config()) == wanted and other.is_complete("base"):
            for row in other.metrics():  # first: rows without weights are written again
                if row["stage"] == "base":
                    run.folder.append_metrics(
                        "base", {k: v for k, v in row.items() if k != "stage"}
                    )
            target = run.folder.checkpoints("base")
            part = target.with_name(".base.part")
            for unfinished in (part, target):
                shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(other.checkpoints("base"), part)
            part.rename(target)
            return


def _base_of(config: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that a base depends on."""
    tables = config.tables()
    kept = {name: tables[name] for name in ("seed", "data", "model", "pretrain")}
    return kept | {"mask_seen": config.evaluation.mask_seen}
