"""Measure growth and large catalogues: `scale.py TASK FOLDER OUT [KEY=VALUE …]`."""

import copy
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from recoach_run import (
    DEVICE,
    SEED,
    median_seconds,
    read_dataset,
    synchronize,
    training_step,
    write_result,
)

from recoach.data.dataset import Dataset
from recoach.data.ingest import read_interactions
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.config import resolve
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.registry import build_from_config, build_model
from recoach.reproduction.paper_cells import Source, table3
from recoach.reproduction.paper_results import TABLE1
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer


def random_log(users: int, items: int, length: int) -> Dataset:
    """Return a dataset of equally long histories with uniformly drawn items.

    Every item occurs if there are enough interactions.
    """
    rng = np.random.default_rng(0)
    item_ids = rng.integers(items, size=users * length)
    n_distinct = min(items, len(item_ids))
    item_ids[rng.choice(len(item_ids), n_distinct, replace=False)] = np.arange(n_distinct)
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), length),
            "item_id": item_ids,
            "timestamp": np.tile(np.arange(length), users),
        }
    )
    return leave_last_out(read_interactions(frame))


def point(folder: Path, out: Path, users: int, items: int, length: int, dim: int) -> None:
    """Time an epoch of SASRec and the ranking of all users: one point of the growth plot."""
    data = random_log(users, items, length)
    settings = {"dim": dim, "inner_dim": 4 * dim, "max_length": max(50, length)}
    model = build_model("sasrec", data, seed=SEED, **settings).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    step = median_seconds(training_step(trainer), 20)
    rank = median_seconds(lambda: evaluate(model, data, "test"), 2, warm_up=1)
    write_result(out, {"epoch_s": step * len(trainer), "rank_s": rank})


def large(folder: Path, out: Path, items: int = 1_000_000, users: int = 200_000) -> None:
    """Time supervised and GRPO steps and ranking of SASRec with a million items."""
    data = random_log(users, items, 10)
    model = build_model("sasrec", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    result = {"cross_entropy_step_s": median_seconds(training_step(trainer), 3, warm_up=1)}
    del trainer
    for estimator in ("stratified", "exact"):
        args = GRPOConfig(estimator=estimator, temperature=1.0, batch_size=512, reward_smoothing=0)
        tuner = GRPOTrainer(model, args=args, train_dataset=data)
        result[f"{estimator}_step_s"] = median_seconds(training_step(tuner), 4, warm_up=1)
        model.requires_grad_(True)
        del tuner
    start = time.perf_counter()
    evaluate(model, data, "test", users=np.arange(4096))
    synchronize()
    result["rank_4096_users_s"] = time.perf_counter() - start
    write_result(out, result)


def stratified(folder: Path, out: Path, epochs: int = 4, base_epochs: int = 30) -> None:
    """Measure validation NDCG@10 during exact and stratified fine-tuning of one base model."""

    class CollectValues(Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_row(self, row: dict[str, float]) -> None:
            self.values.append(round(row["valid/ndcg@10"], 5))

    data = read_dataset(folder)
    base = build_model("sasrec", data, seed=SEED).to(DEVICE)
    pretrain(base, data, PretrainConfig(epochs=base_epochs), RunContext(seed=SEED))
    result: dict[str, object] = {"items": data.n_items}
    variants = [("exact", 1), *(("stratified", count) for count in (8192, 2048, 512))]
    for estimator, count in variants:
        collector = CollectValues()
        args = GRPOConfig(
            estimator=estimator,
            num_negatives=count,
            epochs=epochs,
            patience=0,
            batch_size=512,
            learning_rate=1e-3,
            reward_smoothing=0,
        )
        context = RunContext(seed=SEED, callback=collector)
        model = copy.deepcopy(base)
        start = time.perf_counter()
        GRPOTrainer(model, args=args, train_dataset=data, context=context).train()
        name = estimator if estimator == "exact" else f"{estimator} {count}"
        result[name] = {
            "ndcg@10 from the base on": collector.values,
            "seconds": round(time.perf_counter() - start, 1),
        }
    write_result(out, result)


def paper(folder: Path, out: Path) -> None:
    """Time supervised and GRPO steps of the paper's nine cells, at the sizes of its datasets."""
    cells = {}
    for category, (users, items, rows, _) in TABLE1.items():
        data = random_log(users, items, round(rows / users))
        for cell in table3(Source(category, ""), "paper", SEED):
            config = resolve(cell.tables, cell.name)
            model = build_from_config(config.model_name, config.model, data, seed=SEED)
            model.to(DEVICE)
            trainer = SupervisedTrainer(model, config.pretrain, data)
            tuner = GRPOTrainer(model, args=config.finetune, train_dataset=data)
            grpo_seconds = median_seconds(training_step(tuner), 3, warm_up=1)
            model.requires_grad_(True)
            base_seconds = median_seconds(training_step(trainer), 6, warm_up=2)
            cells[f"{category}/{cell.name}"] = {
                "base_step_s": base_seconds,
                "base_steps": len(trainer) * config.pretrain.epochs,
                "grpo_step_s": grpo_seconds,
                "grpo_steps": len(tuner) * config.finetune.epochs,
            }
    write_result(out, {"cells": cells})


AXES = {"users": 2000, "items": 2000, "length": 12, "dim": 32}
"""Smallest size along each axis; the growth plot multiplies one axis at a time by `SCALES`."""
SCALES = (1, 2, 4, 8, 16)


def points() -> list[tuple[str, int, dict[str, int]]]:
    """Return (axis, scale, options) of every point of the growth plot."""
    return [
        (axis, scale, AXES | {axis: AXES[axis] * scale})
        for axis, scale in itertools.product(AXES, SCALES)
    ]


if __name__ == "__main__":
    task, folder, out, *rest = sys.argv[1:]
    options = {key: int(value) for key, value in (option.split("=") for option in rest)}
    globals()[task](Path(folder), Path(out), **options)
