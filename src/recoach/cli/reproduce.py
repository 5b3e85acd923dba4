"""`recoach reproduce`: the paper's tables and figure, one command each."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recoach.cli.console import console, errors
from recoach.cli.progress import Shown
from recoach.errors import ConfigError
from recoach.reproduction.datasets import find_sources, missing_categories, statistics_of_sources
from recoach.reproduction.paper_cells import Profile
from recoach.reproduction.paper_tables import write_suite, write_table1
from recoach.reproduction.runner import Plan
from recoach.reproduction.runner import reproduce as run_suite

Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


def reproduce(
    what: Literal[
        "table1",
        "table3",
        "table4",
        "figure1",
        "factors",
        "gains",
        "future",
        "ablation",
        "rivals",
        "tail",
        "verification",
        "simulator",
    ],
    *,
    data: Path | None = None,
    dataset: Words = None,
    profile: Profile = "quick",
    seeds: int = 1,
    only: Words = None,
    k_core: int = 5,
    output: Path = Path("runs/reproduce"),
) -> None:
    """Repeat a table or the figure of Jeon et al. 2025, or measure what GRPO gains.

    Interrupted, the same command goes on where it was. Several processes may share a suite: each
    skips the cells that others work on.

    Parameters
    ----------
    what
        table1 (sizes of the data), table3 (base, supervised control, GRPO of three backbones),
        table4 (which tables GRPO moves), figure1 (the bases), factors (paper mode with one
        change at a time); gains (the default recipe on bases trained to their end), future (the
        recipe before it, which rewards the coming items alone), ablation (the first with one
        change at a time), rivals (other algorithms in place of future) or tail (both recipes judged
        on the next five and ten interactions), for which there is one profile; verification (base
        models whose results are published, on logs named toys-2014 and beauty-2014); simulator
        (customers of a simulated shop, who tire, leave and come back).
    data
        A folder with the files of Amazon Reviews 2023: Baby_Products, Video_Games and
        Industrial_and_Scientific, each .jsonl.gz (reviews) or .csv.gz (ratings), or unpacked.
    dataset
        NAME=PATH of another log, or of a folder with train, valid and test files; may be repeated.
        A name that begins with Baby, Video or Industrial is set beside that column of the paper.
    profile
        paper (the paper's budget: 1 to 5 days a data set on two cores) or quick (the same code with
        fewer steps). Quick takes about an hour for table3 on each of the paper's own files, whose
        bases it cuts short; on other logs bases are trained until they stop rising, minutes for
        60,000 interactions, an hour and a half for 400,000.
    seeds
        How many seeds: 2020 and the ones after it.
    only
        Run only cells whose names contain one of these words, like sasrec.
    k_core
        Keep users and items with at least so many interactions, iterated; 0 keeps all. Folders are
        taken as they are.
    output
        Where runs, tables and figures go.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {seeds}.")
    if what == "simulator":
        _simulate(tuple(range(2020, 2020 + seeds)), output / "simulator")
        return
    sources = find_sources(data, dataset or [], k_core)
    for category in missing_categories(data, sources):
        errors.print(f"Warning: {data} has no {category}; going on without it.", highlight=False)
    if what == "table1":
        paths = write_table1(statistics_of_sources(sources), k_core, output)
    else:
        plan = Plan(
            suite="table3" if what == "figure1" else what,
            sources=sources,
            profile=profile,
            seeds=tuple(range(2020, 2020 + seeds)),
            output=output,
            only=tuple(only or []),
        )
        record = run_suite(plan, Shown, _announce)
        paths = write_suite(record, what, plan.shelf) if record["data"] else []
        _say_missing(plan.missing())
    if paths:
        _show(paths)


def _simulate(seeds: tuple[int, ...], output: Path) -> None:
    from recoach.reproduction.simulator import Simulation, simulate  # noqa: PLC0415 (an extra)

    record = simulate(Simulation(seeds, output), Shown, _announce)
    _show(write_suite(record, "simulator", output))


def _say_missing(cells: list[str]) -> None:
    if cells:
        errors.print(
            f"Missing, as other processes work on it: {'; '.join(cells)}. The same command, later, "
            "completes the tables.",
            highlight=False,
        )


def _announce(text: str) -> None:
    console.rule(text, align="left")


def _show(paths: list[Path]) -> None:
    console.print(paths[0].read_text(), markup=False, highlight=False, soft_wrap=True)
    console.print("Written: " + ", ".join(str(path) for path in paths), highlight=False)
