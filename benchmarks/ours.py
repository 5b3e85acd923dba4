"""Recoach's own part of the benchmarks: `ours.py WORK FOLDER OUT [KEY=VALUE …]`.

FOLDER holds `log.inter`; OUT is a JSON object, or a JSON line an epoch for a learning curve. The
peers' programs keep the same contract, each in an environment of its own.
"""

import itertools
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
from plain import PlainSASRec, padded_batches, plain_grpo_step

from recoach.data.ingest import read_interactions
from recoach.data.prepared import PrepareConfig, prepare
from recoach.data.split import Dataset, leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.models.losses import cross_entropy
from recoach.models.registry import build_model
from recoach.models.softmax import Catalogue
from recoach.training.callbacks import Callback
from recoach.training.config import GRPOConfig
from recoach.training.loop import RunContext, stream
from recoach.training.supervised import PretrainConfig, SupervisedTrainer, pretrain
from recoach.training.trainer import GRPOTrainer

SEED = 2020
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def log_of(folder: Path) -> Dataset:
    return leave_last_out(read_interactions(folder / "log.inter"))


def answer(out: Path, result: dict[str, object]) -> None:
    versions = {name: version(name) for name in ("recoach", "torch")}
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    versions["python"] = platform.python_version()
    if DEVICE.type == "cuda":
        versions["gpu"] = torch.cuda.get_device_name()
        result = result | {"peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20)}
    out.write_text(json.dumps(result | {"peak_mib": peak, "versions": versions}))


def median_seconds(step: Callable[[], object], steps: int, warm_up: int = 3) -> float:
    """Return the median seconds of a step after some that are not counted."""
    taken = []
    for _ in range(warm_up + steps):
        finish()
        start = time.perf_counter()
        step()
        finish()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[warm_up:])


def finish() -> None:
    """Wait for what a GPU still has to do."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def steps_of(trainer: SupervisedTrainer | GRPOTrainer) -> Callable[[], object]:
    """Return a function that makes the next batch and takes the step, as training does."""
    epochs = (trainer.epoch(stream(SEED, "batches", epoch)) for epoch in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    return lambda: trainer.step(next(batches), stream(SEED, "draws"))  # type: ignore[arg-type]


def sasrec_curve(folder: Path, out: Path, batch: int = 512, patience: int = 10) -> None:
    """Train SASRec to its early stopping; a line an evaluation, validation unmasked."""

    class Lines(Callback):
        def on_row(self, row: dict[str, float]) -> None:
            names = ("epoch", "step", "seconds", "valid/ndcg@10")
            with out.open("a") as lines:
                lines.write(json.dumps({name: row[name] for name in names}) + "\n")

    data = log_of(folder)
    out.write_text("")
    config = PretrainConfig(batch_size=batch, patience=patience)
    context = RunContext(seed=SEED, mask_seen="none", callback=Lines())
    pretrain(build_model("sasrec", data, seed=SEED).to(DEVICE), data, config, context)


def sasrec_epoch(folder: Path, out: Path, steps: int = 100, batch: int = 512) -> None:
    data = log_of(folder)
    model = build_model("sasrec", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=batch), data)
    seconds = median_seconds(steps_of(trainer), steps) * len(trainer)
    positions = int((data.train.lengths - 1).clip(min=0).sum())
    answer(out, {"seconds_per_epoch": seconds, "positions_per_epoch": positions})


def plain_epoch(folder: Path, out: Path, steps: int = 20, batch: int = 128) -> None:
    """The same architecture and loss in the loop that tutorials show: padded, float32."""
    data = log_of(folder)
    model = PlainSASRec(data.n_items).to(DEVICE)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = int((data.train.lengths > 1).sum())
    batches = padded_batches(data, batch)

    def step() -> None:
        optimiser.zero_grad()
        model.loss(*next(batches)).backward()
        optimiser.step()

    seconds = median_seconds(step, steps) * -(-rows // batch)
    positions = int((data.train.lengths - 1).clip(min=0).sum())
    answer(out, {"seconds_per_epoch": seconds, "positions_per_epoch": positions})


def lightgcn_epoch(folder: Path, out: Path, steps: int = 120) -> None:
    data = log_of(folder)
    model = build_model("lightgcn", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=2048), data)
    seconds = median_seconds(steps_of(trainer), steps) * len(trainer)
    answer(out, {"seconds_per_epoch": seconds})


def rank(folder: Path, out: Path) -> None:
    data = log_of(folder)
    model = build_model("lightgcn", data, seed=SEED).to(DEVICE)
    run = lambda: evaluate(model, data, "test", ks=(10, 50), mask_seen="all")  # noqa: E731
    answer(out, {"seconds": median_seconds(run, 5, warm_up=1)})


def grpo_step(folder: Path, out: Path, steps: int = 40, group: int = 4096) -> None:
    """One step of cross-entropy, of exact and of sampled GRPO, and of the plain sampled one."""
    data, found = log_of(folder), {}
    model = build_model("sasrec", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    sampled = {"estimator": "sampled", "loss_type": "grpo", "num_generations": group}
    exact = {"loss_type": "grpo"}
    choices = {"exact": exact, "exact_kl": exact | {"beta": 0.1}, "sampled": sampled}
    rounds: dict[str, list[float]] = {}
    workers = {"cross_entropy": steps_of(trainer), "plain": plain_grpo_step(model, data, group)}
    for name, settings in choices.items():
        args = GRPOConfig(
            **{"temperature": 1.0, "batch_size": 512, "reward_smoothing": 0} | settings
        )
        workers[name] = steps_of(GRPOTrainer(model, args=args, train_dataset=data))
        model.requires_grad_(True)
    for _ in range(4):  # in turns: a noisy minute meets all of them
        for name, step in workers.items():
            few = steps // 4 if name in ("cross_entropy", "exact") else 4
            rounds.setdefault(name, []).append(median_seconds(step, few, warm_up=2))
    found = {name: statistics.median(values) for name, values in rounds.items()}
    answer(out, found)


def load(folder: Path, out: Path, k_core: int = 5) -> None:
    """Read, filter and split the log by the front door, cache and all."""
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        data = prepare(folder / "log.inter", Path(cache), PrepareConfig(k_core=k_core))
        seconds = time.perf_counter() - start
    rows = sum(len(part.values) for part in (data.train, data.valid, data.test))
    sizes = {"users": data.n_users, "items": data.n_items, "rows": rows}
    answer(out, {"seconds": seconds} | sizes)


def softmax_peak(folder: Path, out: Path) -> None:
    """Share of the products' own speed in the catalogue softmax, forward and backward."""
    shapes = ((512, 12_000), (2048, 26_000))
    answer(out, {f"{states}x{items}": _peak(states, items) for states, items in shapes})


def _peak(states: int, n_items: int) -> dict[str, float]:
    users = torch.randn(states, 64, device=DEVICE).mul_(0.5).requires_grad_()
    items = torch.randn(n_items, 64, device=DEVICE).mul_(0.5).requires_grad_()
    targets = torch.randint(n_items, (states,), device=DEVICE)
    catalogue = Catalogue(items, states)
    block = users.detach()[: catalogue.block_size].to(catalogue.product)
    scores, p = (room[: len(block)] for room in catalogue.rooms)
    p.fill_(1e-4)
    products = (
        lambda: torch.mm(block, catalogue.cast.T, out=scores),
        lambda: p @ catalogue.cast,
        lambda: p.T @ block,
    )
    alone = sum(median_seconds(product, 30) for product in products) * states / len(block)
    whole = median_seconds(lambda: cross_entropy(users, items, targets).backward(), 30)
    gflop = 6e-9 * states * n_items * 64
    return {
        "share": alone / whole,
        "gflops": gflop / whole,
        "products_gflops": gflop / alone,
        "ms": 1e3 * whole,
    }


if __name__ == "__main__":
    work, folder, out, *rest = sys.argv[1:]
    options = {key: int(value) for key, value in (option.split("=") for option in rest)}
    globals()[work](Path(folder), Path(out), **options)
