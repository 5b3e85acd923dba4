"""The steps of `recoach demo`: base, fine-tunings, continued training, re-rankers, forecasts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from recoach.demonstration.forecast import ForecastPlan, forecast
from recoach.demonstration.lists import DEPTH, Entry, ListJudge, RankedUsers, keeps, select
from recoach.errors import RunError
from recoach.experiments.base_copy import copy_base, copy_stage
from recoach.experiments.config import read_config
from recoach.experiments.data import embedded_purchases
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory, Run, execute, open_run
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.report.html import write_report
from recoach.rerank.config import RerankConfig
from recoach.serving.snapshot import ModelSnapshot

FORMAT: Final = 1
RECORD: Final = "demo.json"
WEIGHTS: Final = "weights"
"""Folder of the fine-tunings, in the run folder."""
BASE: Final = "base"
CONTROL: Final = "continued training"
GRPO: Final = "GRPO"
Show = Callable[[str], None]

BASE_SETTINGS: Final = (
    "pretrain.epochs=16",
    "pretrain.batch_size=256",
    "pretrain.learning_rate=2e-3",
    "pretrain.patience=3",
)
OBJECTIVE: Final = (
    "finetune.reward_funcs=['future','value']",
    "finetune.multi_objective_aggregation='normalize_then_sum'",
    "finetune.select='last'",
    "finetune.patience=0",
    "finetune.max_steps=80",
    "finetune.eval_steps=40",
    "finetune.batch_size=1024",
    "finetune.learning_rate=3e-3",
    "finetune.ema_decay=0.95",
)
"""Settings of GRPO: the next items, and the prices of those of them that are bought."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """A demonstration to run."""

    output: Path
    """The run folder."""
    settings: Sequence[str] = BASE_SETTINGS
    """Settings of the base, as `--set` takes them."""
    objective: Sequence[str] = OBJECTIVE
    """Settings of GRPO."""
    weights: Sequence[float] = (1.0, 2.0, 4.0)
    """Weights of the reward for purchases beside that for the next items, which has 1."""
    tolerance: float = 0.01
    """Relative fall of NDCG on validation up to which a setting can be selected."""
    visits: int = 25
    """Logged lists of each user, from which revenue is forecast."""


def run_demo(
    plan: DemoPlan, make_callback: CallbackFactory, show: Show, *, resume: bool = False
) -> dict[str, Any]:
    """Run the demonstration, or continue an interrupted one; return the content of demo.json.

    The folder becomes a run with base, fine-tuned model and continued training. The fine-tunings of
    all weights are in `weights/`. Re-rankers and GRPO are selected by the same rule on validation.

    Args:
        plan: the settings.
        make_callback: returns the callback of a training.
        show: is called with a line of progress.
        resume: whether an unfinished run may be continued.

    Raises:
        RunError: the folder holds something else, or an unfinished run and not `resume`.
    """
    folder = RunFolder(plan.output)
    with folder.lock():
        run = _open_base(plan, make_callback, resume=resume)
        if (plan.output / RECORD).exists():
            show(f"{plan.output} is finished and is not run again.")
            return folder.read_json(RECORD)
        show(f"{run.dataset.name}: {run.dataset.n_users:,} users, {run.dataset.n_items:,} items")
        record = _train_and_measure(plan, run, make_callback, show)
        folder.write_json(RECORD, record)
        return record


def _train_and_measure(
    plan: DemoPlan, run: Run, make_callback: CallbackFactory, show: Show
) -> dict[str, Any]:
    folder, dataset, response = run.folder, run.dataset, embedded_purchases().response()
    base = run.train_base().model
    judge = ListJudge(dataset, base, response)
    ranked = judge.rank(base)
    start, entries = judge.own(ranked), []
    for weight in plan.weights:
        show(f"Fine-tuning, weight {weight:g} of the reward for purchases")
        entries.append(judge.own(judge.rank(_fine_tuned(plan, weight, make_callback)), weight))
    chosen = select(start, entries, plan.tolerance)
    show(f"Validation selects weight {chosen['knob']:g}; continued training")
    finetuning = _open_finetuning(plan, folder, chosen["knob"], make_callback)
    if not folder.is_complete("tuned"):
        copy_stage(_folder_of(plan, chosen["knob"]), folder, "tuned")
    execute(finetuning)
    write_report(plan.output)
    models = {
        stage: load_model(folder.checkpoints(stage), dataset).eval()
        for stage in ("base", "control", "tuned")
    }
    control = judge.rank(models["control"])
    rules = {
        **_rules(judge, ranked, ""),
        **_rules(judge, control, f", {CONTROL}"),
    }
    show("Forecasts from logged lists")
    snapshot = ModelSnapshot(dataset, models, folder.titles(dataset).to_list(), version="demo")
    logging = ForecastPlan(plan.output, visits=plan.visits)
    return {
        "format": FORMAT,
        "tolerance": plan.tolerance,
        "users": dataset.n_users,
        "base": start,
        "methods": {CONTROL: [judge.own(control)], **rules, GRPO: entries},
        "rows": _rows(start, judge.own(control), rules, chosen, plan.tolerance),
        "forecasts": forecast(logging, snapshot, response, "base"),
    }


def _rows(
    start: Entry,
    control: Entry,
    rules: Mapping[str, Sequence[Entry]],
    chosen: Entry,
    tolerance: float,
) -> list[dict[str, Any]]:
    """Return the base and the three methods, each with the setting that validation selects."""
    every = [entry for entries in rules.values() for entry in entries]
    best = select(start, every, tolerance)
    name = next(name for name, entries in rules.items() if best in entries)
    named = ((BASE, start), (CONTROL, control), (name, best), (GRPO, chosen))
    return [
        {"method": method, "keeps": keeps(start, entry, tolerance)} | entry
        for method, entry in named
    ]


def _rules(judge: ListJudge, ranked: RankedUsers, ending: str) -> dict[str, list[Entry]]:
    """Return the offsets on the scores of a model, for all values of their knobs.

    `value` adds the mean revenue of the item's training events, `price` its price.
    """
    configs = {
        "value": RerankConfig(by="value", knob=0.0, depth=DEPTH),
        "price": RerankConfig(by="value", knob=0.0, depth=DEPTH, column="price"),
        "popularity": RerankConfig(by="popularity", knob=0.0, depth=DEPTH),
    }
    return {
        f"{name}{ending}": [judge.reranked(ranked, one) for one in judge.rerankers(ranked, config)]
        for name, config in configs.items()
    }


def _open_base(plan: DemoPlan, make_callback: CallbackFactory, *, resume: bool) -> Run:
    """Open the run of the base; in a folder that is already fine-tuned these settings stay.

    Raises:
        RunError: see `open_run`; or an earlier version made the log, without purchases.
    """
    config = read_config(None, [*plan.settings, "finetune.enabled=false"])
    if (plan.output / "config.toml").exists():
        stored = RunFolder(plan.output).config()
        config = replace(config, finetune=stored.finetune, finetune_enabled=stored.finetune_enabled)
    run = open_run(config, plan.output, resume=resume, make_callback=make_callback)
    if "value" not in run.dataset.train.columns:
        raise RunError(
            f"{plan.output} holds a run of an earlier version, whose log has no purchases. Choose "
            "another --output."
        )
    return run


def _fine_tuned(plan: DemoPlan, weight: float, make_callback: CallbackFactory) -> Recommender:
    """Fine-tune a copy of the base, or load what an earlier call has trained."""
    folder = copy_base(plan.output, _folder_of(plan, weight).path, resume=True)
    with folder.lock():
        run = _open_finetuning(plan, folder, weight, make_callback)
        return run.train_tuned().model.eval()


def _folder_of(plan: DemoPlan, weight: float) -> RunFolder:
    """Return the run folder of the fine-tuning with a weight."""
    return RunFolder(plan.output / WEIGHTS / f"{weight:g}")


def _open_finetuning(
    plan: DemoPlan, folder: RunFolder, weight: float, make_callback: CallbackFactory
) -> Run:
    changes = [*plan.objective, f"finetune.reward_weights=[1.0,{weight:.6g}]"]
    config = folder.prepare_finetuning(changes, resume=True)
    return open_run(config, folder.path, resume=True, make_callback=make_callback, stored=True)
