"""`recoach reproduce`: the tables and figures of the documents, one command each."""

from pathlib import Path
from typing import Literal

from recoach.cli.console import console, errors
from recoach.cli.options import Count, CountOrZero, Words
from recoach.cli.progress import StageProgress
from recoach.reproduction.datasets import find_sources, missing_categories, statistics_of_sources
from recoach.reproduction.paper_cells import Profile
from recoach.reproduction.paper_tables import write_suite, write_table1
from recoach.reproduction.runner import Plan
from recoach.reproduction.runner import reproduce as run_suite


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
        "algorithms",
        "rivals",
        "tail",
        "verification",
        "sessions",
        "events",
        "ladder",
        "simulator",
    ],
    *,
    data: Path | None = None,
    dataset: Words = None,
    profile: Profile = "quick",
    seeds: Count = 1,
    only: Words = None,
    k_core: CountOrZero = 5,
    output: Path = Path("runs/reproduce"),
) -> None:
    """Reproduce a table or the figure of Jeon et al. 2025, or measure what GRPO gains.

    An interrupted command resumes when it is given again. Several processes may run one suite: each
    skips the runs that another one is working on.

    Args:
        what: The paper: table1 (sizes of the data), table3 (base, continued training and GRPO of
            three models), table4 (which tables are fine-tuned), figure1 (the base models), factors
            (the paper's setting with one change at a time). The default recipe, with the same
            settings for both profiles: gains (on well-trained base models), future (an earlier
            recipe, which rewards future items only), ablation (the changes named), algorithms
            (other algorithms with the earlier recipe; the old name is rivals), tail (both recipes,
            tested on the next five and ten interactions). verification (base models beside
            published results or our runs of RecBole, on logs named toys-2014, beauty-2014 and
            ml-latest-small). sessions (session models and baselines on folders of sessions, named
            as on the page of their results).
            events (reinforcement learning beside supervised training on a log with event types,
            under two protocols). ladder (controls between a base and the recipe, one link at a
            time, each with the same number of learning rates). simulator (customers of a simulated
            shop).
        data: A folder with the files of Amazon Reviews 2023: Baby_Products, Video_Games and
            Industrial_and_Scientific, each .jsonl.gz (reviews) or .csv.gz (ratings), or unpacked.
        dataset: NAME=PATH of another log, or of a folder with train, valid and test files; may be
            repeated. A log whose name begins with Baby, Video or Industrial is shown beside that
            column of the paper.
        profile: paper (the paper's budget: 1 to 5 days per log on two cores) or quick (the same
            code with fewer steps). Quick takes about an hour for table3 on each of the paper's own
            files, whose base models it stops early; on other logs base models are trained until
            validation stops improving or 60 (SASRec), 200 (LightGCN) or 30 epochs (GSAU) are over,
            minutes for 60,000 interactions, an hour and a half for 400,000.
        seeds: Number of seeds, from 2020 on.
        only: Run only cells whose names contain one of these words, for example sasrec.
        k_core: Keep users and items with at least this many interactions, iterated; 0 keeps all.
            Does not apply to folders.
        output: Folder for runs, tables and figures.
    """
    if what == "rivals":
        errors.print("Warning: `rivals` is now called `algorithms`.")
        what = "algorithms"
    if what == "simulator":
        _simulate(tuple(range(2020, 2020 + seeds)), output / "simulator")
        return
    sources = find_sources(data, dataset or [], k_core)
    for category in missing_categories(data, sources):
        errors.print(f"Warning: {data} has no {category}; continuing without it.")
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
        record = run_suite(plan, StageProgress, _announce)
        paths = write_suite(record, what, plan.suite_folder) if record["data"] else []
        _print_missing(plan.missing())
    if paths:
        _show(paths)


def _simulate(seeds: tuple[int, ...], output: Path) -> None:
    from recoach.reproduction.simulator import Simulation, simulate  # noqa: PLC0415 (an extra)

    record = simulate(Simulation(seeds, output), StageProgress, _announce)
    _show(write_suite(record, "simulator", output))


def _print_missing(runs: list[str]) -> None:
    if runs:
        errors.print(
            f"Not finished, as another process is working on it: {'; '.join(runs)}. Run this "
            "command again later to complete the tables.",
        )


def _announce(text: str) -> None:
    console.rule(text, align="left")


def _show(paths: list[Path]) -> None:
    console.print_document(paths[0].read_text(encoding="utf-8"))
    console.print("Written: " + ", ".join(str(path) for path in paths))
