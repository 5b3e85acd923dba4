"""Compare ten daily updates with retraining every day and with no update, on a log with times.

    python benchmarks/daily_updates.py LOG.csv --output runs/daily

The first events of the log (70 %) train a model. The rest is divided into eleven parts of as many
events, the "days". After each of the first ten the served model is updated (`recoach update`), a
model of the same settings is trained anew on the same events, and both are compared with the first
model on the events of the next day: each event of a user after the ones before it. All models have
the items that they were trained on; other targets are misses. A second call continues where the
first one was interrupted, after the last whole day.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from recoach import PretrainConfig, RunContext, build_model, paired_bootstrap, pretrain
from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset, join_rows
from recoach.data.extend import events_not_in, extend, hold_out_newest
from recoach.data.ingest import read_interactions
from recoach.data.targets import targets_of
from recoach.evaluation.evaluator import evaluate_targets
from recoach.experiments.config import ExperimentConfig, read_config
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import load_served, served_stage
from recoach.experiments.stages import execute, open_run
from recoach.experiments.update import update
from recoach.experiments.update_config import UpdateConfig
from recoach.experiments.update_training import with_empty_rows
from recoach.experiments.versions import version_folder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.models.growing import WithoutNewItems, grow
from recoach.training.callbacks import Callback

_SETTINGS = [
    "finetune.enabled=false",
    "evaluation.retrain=false",
    "model.dim=32",
    "model.layers=1",
    "model.max_length=30",
    "pretrain.batch_size=512",
    "pretrain.learning_rate=2e-3",
    "pretrain.patience=2",
    "pretrain.epochs=20",
]
_ARMS = ("no update", "daily update", "retraining")
_READING = PrepareConfig(k_core=0)


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--first", type=float, default=0.7, help="share of the first events")
    parser.add_argument("--users", type=float, default=1.0, help="share of the users")
    parser.add_argument("--set", dest="changes", nargs="*", default=[])
    parser.add_argument("--update", nargs="*", default=[], help="settings of updates, JSON values")
    options = parser.parse_args()
    run, config, parts, first_cpu = train_first(
        options.log,
        options.output,
        days=options.days,
        first=options.first,
        users=options.users,
        changes=options.changes,
    )
    settings = UpdateConfig(
        **{key: json.loads(value) for key, _, value in (s.partition("=") for s in options.update)}
    )
    rows = options.output / "days.jsonl"
    done = len(rows.read_text().splitlines()) if rows.exists() else 0
    for day in range(done + 1, options.days + 1):
        row = compare_day(run, config, parts, day, settings)
        with rows.open("a") as file:
            file.write(json.dumps(row | {"first_cpu": first_cpu}) + "\n")
        print(day, row["ndcg@10"], row["cpu_seconds"], flush=True)
    print(table(rows))


def train_first(
    log: Path,
    output: Path,
    *,
    days: int,
    first: float = 0.7,
    users: float = 1.0,
    changes: Sequence[str] = (),
) -> tuple[Path, ExperimentConfig, list[Path], float]:
    """Divide a log and train the first model.

    Args:
        log: file with times.
        output: folder of the run and of the parts of the log.
        days: number of days that are compared.
        first: share of the first events.
        users: share of the users.
        changes: settings of the run, KEY=VALUE.

    Returns:
        The run, its config, the files of the first events and of each day, and the CPU seconds of
        the training.
    """
    output.mkdir(parents=True, exist_ok=True)
    parts = _divide(log, output, days, first, users)
    run = output / "run"
    config = read_config(None, [f'data.path="{parts[0]}"', *_SETTINGS, *changes])
    began = time.process_time()
    with RunFolder(run).lock():
        opened = open_run(config, run, resume=True, make_callback=lambda _: Callback())
        if not opened.folder.has_results_for(config):
            execute(opened)
    return run, config, parts, time.process_time() - began


def _divide(path: Path, output: Path, days: int, first: float, share: float) -> list[Path]:
    """Write the parts of the log, the first events and each day, and return their files."""
    log = read_interactions(path).frame().sort("timestamp", maintain_order=True)
    users = log["user_id"].unique().sort().sample(fraction=share, seed=0, shuffle=True)
    log = log.filter(pl.col("user_id").is_in(users.implode()))
    log = log.select("user_id", "item_id", pl.col("timestamp").dt.epoch("ms"))
    bounds = np.linspace(first, 1, days + 2) * len(log)
    bounds = np.concatenate([[0], bounds]).round().astype(int)
    files = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        file = output / f"part-{number}.csv"
        if not file.exists():
            log[int(start) : int(stop)].write_csv(file)
        files.append(file)
    return files


def compare_day(
    run: Path, config: ExperimentConfig, parts: list[Path], day: int, settings: UpdateConfig
) -> dict[str, object]:
    """Return one day's values of the updated, the retrained and the first model.

    Args:
        run: the run, with the updates of the days before.
        config: of the run.
        parts: the files of the first events and of each day.
        day: number of the day, from 1.
        settings: of the update.
    """
    folder, cpu = RunFolder(run), {"no update": 0.0}
    began = time.process_time()
    result = update(run, parts[day], settings)
    cpu["daily update"] = time.process_time() - began
    updated, (model,) = load_served(folder, [served_stage(folder)])
    everything = version_folder(folder, day).load_dataset()
    began = time.process_time()
    retrained = build_model("sasrec", everything, seed=config.seed, **config.model.model_dump())
    training = PretrainConfig(**config.pretrain.model_dump())
    steps = pretrain(retrained, everything, training, RunContext(seed=config.seed)).steps
    cpu["retraining"] = time.process_time() - began
    first = version_folder(folder, 0).load_dataset()
    base = _load_first(folder, first)
    next_day = read_interactions(parts[day + 1])
    future = _next_day(everything, next_day)
    targets = targets_of(future, "valid", config.evaluation.repeats)
    values = {}
    for arm, (arm_model, dataset) in zip(
        _ARMS, ((base, first), (model, updated), (retrained, everything)), strict=True
    ):
        evaluation = evaluate_targets(_grown(arm_model, dataset, future), future, targets)
        values[arm] = evaluation
    users = future.user_ids.gather(values["no update"].users).to_list()
    return {
        "day": day,
        "new_rows": result.counts.new,
        "new_users": result.counts.new_users,
        "new_items": result.counts.new_items,
        "outcome": result.outcome,
        "reason": result.reason,
        "retraining_steps": steps,
        "states": len(targets.users),
        "unknown_targets": float((targets.items >= everything.n_items).mean()),
        "ndcg@10": {arm: round(value.means()["ndcg@10"], 6) for arm, value in values.items()},
        "recall@10": {arm: round(value.means()["recall@10"], 6) for arm, value in values.items()},
        "cpu_seconds": {arm: round(seconds, 1) for arm, seconds in cpu.items()},
        "users": users,
        "per_state": {arm: value.metrics["ndcg@10"].tolist() for arm, value in values.items()},
    }


def _load_first(folder: RunFolder, dataset: Dataset) -> Recommender:
    return load_model(folder.checkpoints("base"), dataset)


def _next_day(dataset: Dataset, events: object) -> Dataset:
    """Return the dataset with the events of the next day in valid and all others in train."""
    past = join_rows([dataset.train, dataset.valid, dataset.test])
    longer = extend(dataset, events).dataset
    is_next = events_not_in(longer.train, past)
    return hold_out_newest(longer, is_next, 1.0)[0]


def _grown(model: Recommender, dataset: Dataset, future: Dataset) -> Recommender:
    padded = with_empty_rows(dataset.train, future.n_users)
    grown = grow(model, dataset, replace(future, train=padded))
    return WithoutNewItems(grown, dataset.n_items)


def table(rows: Path) -> str:
    """Return the table of finished days as Markdown."""
    days = [json.loads(line) for line in rows.read_text().splitlines()]
    per_state = {arm: np.concatenate([day["per_state"][arm] for day in days]) for arm in _ARMS}
    users = pl.Series([user for day in days for user in day["users"]])
    clusters = users.rank("dense").to_numpy().astype(np.int64)
    lines = [
        f"{len(days)} days, {len(users):,} states; updates served: "
        f"{sum(day['outcome'] == 'better' for day in days)}; targets that no model knows: "
        f"{np.mean([day['unknown_targets'] for day in days]):.1%}",
        "",
        "| | NDCG@10 | against no update | against retraining | CPU s a day |",
        "|---|---:|---:|---:|---:|",
    ]
    for arm in _ARMS:
        cells = [arm, f"{per_state[arm].mean():.4f}"]
        for other in ("no update", "retraining"):
            if arm == other:
                cells.append("")
                continue
            interval = paired_bootstrap(per_state[arm], per_state[other], clusters=clusters)
            difference = per_state[arm].mean() - per_state[other].mean()
            cells.append(f"{difference:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]")
        cells.append(f"{np.mean([day['cpu_seconds'][arm] for day in days]):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
