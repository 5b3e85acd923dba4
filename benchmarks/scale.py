"""Growth, and catalogues of a million items: `scale.py WORK FOLDER OUT [KEY=VALUE …]`."""

import copy
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from ours import DEVICE, SEED, answer, finish, log_of, median_seconds, steps_of

from recoach.data.ingest import read_interactions
from recoach.data.split import Dataset, leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.config import resolve
from recoach.models.registry import build_from_config, build_model, model_entry
from recoach.reproduction.paper_cells import Source, table3
from recoach.reproduction.paper_results import TABLE1
from recoach.training.callbacks import Callback
from recoach.training.config import GRPOConfig
from recoach.training.loop import RunContext
from recoach.training.supervised import PretrainConfig, SupervisedTrainer, pretrain
from recoach.training.trainer import GRPOTrainer


def random_log(users: int, items: int, length: int) -> Dataset:
    """Return histories of a given length over items drawn evenly, every item among them."""
    random = np.random.default_rng(0)
    taken = random.integers(items, size=users * length)
    every = min(items, len(taken))
    taken[random.choice(len(taken), every, replace=False)] = np.arange(every)
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), length),
            "item_id": taken,
            "timestamp": np.tile(np.arange(length), users),
        }
    )
    return leave_last_out(read_interactions(frame))


def point(folder: Path, out: Path, users: int, items: int, length: int, dim: int) -> None:
    """One point of the growth plot: seconds of an epoch of SASRec and of ranking all users."""
    data = random_log(users, items, length)
    settings = {"dim": dim, "inner_dim": 4 * dim, "max_length": max(50, length)}
    model = build_model("sasrec", data, seed=SEED, **settings).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    step = median_seconds(steps_of(trainer), 20)
    rank = median_seconds(lambda: evaluate(model, data, "test"), 2, warm_up=1)
    answer(out, {"epoch_s": step * len(trainer), "rank_s": rank})


def large(folder: Path, out: Path, items: int = 1_000_000, users: int = 200_000) -> None:
    """SASRec with a million items: a step of each kind, and ranking, on one machine."""
    data = random_log(users, items, 10)
    model = build_model("sasrec", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    found = {"cross_entropy_step_s": median_seconds(steps_of(trainer), 3, warm_up=1)}
    del trainer
    for estimator in ("stratified", "exact"):
        args = GRPOConfig(estimator=estimator, temperature=1.0, batch_size=512, reward_smoothing=0)
        tuner = GRPOTrainer(model, args=args, train_dataset=data)
        found[f"{estimator}_step_s"] = median_seconds(steps_of(tuner), 4, warm_up=1)
        model.requires_grad_(True)
        del tuner
    start = time.perf_counter()
    evaluate(model, data, "test", users=np.arange(4096))
    finish()
    found["rank_4096_users_s"] = time.perf_counter() - start
    answer(out, found)


def stratified(folder: Path, out: Path, epochs: int = 4, base_epochs: int = 30) -> None:
    """Validation NDCG@10 of the same base after exact and after stratified fine-tuning."""

    class Rows(Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_row(self, row: dict[str, float]) -> None:
            self.values.append(round(row["valid/ndcg@10"], 5))

    data = log_of(folder)
    base = build_model("sasrec", data, seed=SEED).to(DEVICE)
    pretrain(base, data, PretrainConfig(epochs=base_epochs), RunContext(seed=SEED))
    found: dict[str, object] = {"items": data.n_items}
    choices = [("exact", 1), *(("stratified", count) for count in (8192, 2048, 512))]
    for estimator, count in choices:
        rows = Rows()
        args = GRPOConfig(
            estimator=estimator,
            num_negatives=count,
            epochs=epochs,
            patience=0,
            batch_size=512,
            learning_rate=1e-3,
            reward_smoothing=0,
        )
        context = RunContext(seed=SEED, callback=rows)
        model = copy.deepcopy(base)
        start = time.perf_counter()
        GRPOTrainer(model, args=args, train_dataset=data, context=context).train()
        name = estimator if estimator == "exact" else f"{estimator} {count}"
        found[name] = {
            "ndcg@10 from the base on": rows.values,
            "seconds": round(time.perf_counter() - start, 1),
        }
    answer(out, found)


def paper(folder: Path, out: Path) -> None:
    """What the paper's own budget costs at its sizes, by the steps of each of its nine cells."""
    found = {}
    for category, (users, items, rows, _) in TABLE1.items():
        data = random_log(users, items, round(rows / users))
        for cell in table3(Source(category, ""), "paper", SEED):
            config = resolve(cell.tables, cell.name)
            entry = model_entry(config.model_name)
            model = build_from_config(entry, config.model, data.train, data.n_items, seed=SEED)
            model.to(DEVICE)
            trainer = SupervisedTrainer(model, config.pretrain, data)
            tuner = GRPOTrainer(model, args=config.grpo, train_dataset=data)
            seconds = median_seconds(steps_of(tuner), 3, warm_up=1)
            model.requires_grad_(True)
            before = median_seconds(steps_of(trainer), 6, warm_up=2)
            found[f"{category}/{cell.name}"] = {
                "base_step_s": before,
                "base_steps": len(trainer) * config.pretrain.epochs,
                "grpo_step_s": seconds,
                "grpo_steps": len(tuner) * config.grpo.epochs,
            }
    answer(out, {"cells": found})


AXES = {"users": 2000, "items": 2000, "length": 12, "dim": 32}
"""The smallest of each; growth multiplies one at a time by 1, 2, 4, 8, 16."""
SCALES = (1, 2, 4, 8, 16)


def points() -> list[tuple[str, int, dict[str, int]]]:
    """Return (axis, scale, options) of every point of the growth plot."""
    return [
        (axis, scale, AXES | {axis: AXES[axis] * scale})
        for axis, scale in itertools.product(AXES, SCALES)
    ]


if __name__ == "__main__":
    work, folder, out, *rest = sys.argv[1:]
    options = {key: int(value) for key, value in (option.split("=") for option in rest)}
    globals()[work](Path(folder), Path(out), **options)
