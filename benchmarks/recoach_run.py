"""Measure one task with Recoach: `recoach_run.py TASK FOLDER OUT [KEY=VALUE …]`.

FOLDER contains `log.inter`. OUT is written as a JSON object, or as one JSON line per epoch for a
learning curve. The programs of the peers take the same arguments; each runs in its own environment.
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
from plain_pytorch import PlainSASRec, padded_batches, plain_grpo_step

from recoach.data.config import PrepareConfig
from recoach.data.dataset import Dataset
from recoach.data.ingest import read_interactions
from recoach.data.prepared import prepare
from recoach.data.protocol import LeaveLastOut
from recoach.data.split import leave_last_out
from recoach.evaluation.evaluator import evaluate
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Embeddings
from recoach.models.losses import cross_entropy
from recoach.models.registry import build_model
from recoach.models.softmax import BlockwiseDistribution
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.callbacks import Callback
from recoach.training.context import RunContext
from recoach.training.loop import stream
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.supervised import SupervisedTrainer

SEED = 2020
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def read_dataset(folder: Path) -> Dataset:
    """Return the split log of a folder."""
    return leave_last_out(read_interactions(folder / "log.inter"))


def write_result(out: Path, result: dict[str, object]) -> None:
    """Write a result with the peak memory (MiB) and the versions."""
    versions = {name: version(name) for name in ("recoach", "torch")}
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    versions["python"] = platform.python_version()
    if DEVICE.type == "cuda":
        versions["gpu"] = torch.cuda.get_device_name()
        result = result | {"peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20)}
    out.write_text(json.dumps(result | {"peak_mib": peak, "versions": versions}))


def median_seconds(step: Callable[[], object], steps: int, warm_up: int = 3) -> float:
    """Return the median seconds of a step; the first `warm_up` steps are not counted."""
    seconds = []
    for _ in range(warm_up + steps):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def synchronize() -> None:
    """Wait until the GPU has finished, if there is one."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def training_step(trainer: SupervisedTrainer | GRPOTrainer) -> Callable[[], object]:
    """Return a function that builds the next batch and trains on it, as the training loop does."""
    epochs = (trainer.epoch(stream(SEED, "batches", epoch)) for epoch in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    return lambda: trainer.step(next(batches), stream(SEED, "draws"))  # type: ignore[arg-type]


def sasrec_curve(folder: Path, out: Path, batch: int = 512, patience: int = 10) -> None:
    """Train SASRec until early stopping; write a line per evaluation (seen items not masked)."""

    class WriteLines(Callback):
        def on_row(self, row: dict[str, float]) -> None:
            names = ("epoch", "step", "seconds", "valid/ndcg@10")
            with out.open("a") as lines:
                lines.write(json.dumps({name: row[name] for name in names}) + "\n")

    data = read_dataset(folder)
    out.write_text("")
    config = PretrainConfig(batch_size=batch, patience=patience)
    context = RunContext(seed=SEED, repeats="all", callback=WriteLines())
    pretrain(build_model("sasrec", data, seed=SEED).to(DEVICE), data, config, context)


def sasrec_epoch(folder: Path, out: Path, steps: int = 100, batch: int = 512) -> None:
    data = read_dataset(folder)
    model = build_model("sasrec", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=batch), data)
    seconds = median_seconds(training_step(trainer), steps) * len(trainer)
    positions = int((data.train.lengths - 1).clip(min=0).sum())
    write_result(out, {"seconds_per_epoch": seconds, "positions_per_epoch": positions})


def plain_epoch(folder: Path, out: Path, steps: int = 20, batch: int = 128) -> None:
    """Time the same architecture and loss in a plain PyTorch loop: padded batches, float32."""
    data = read_dataset(folder)
    model = PlainSASRec(data.n_items).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = int((data.train.lengths > 1).sum())
    batches = padded_batches(data, batch)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(*next(batches)).backward()
        optimizer.step()

    seconds = median_seconds(step, steps) * -(-rows // batch)
    positions = int((data.train.lengths - 1).clip(min=0).sum())
    write_result(out, {"seconds_per_epoch": seconds, "positions_per_epoch": positions})


def lightgcn_epoch(folder: Path, out: Path, steps: int = 120) -> None:
    _bpr_epoch("lightgcn", folder, out, steps, loss="bpr")


def fpmc_epoch(folder: Path, out: Path, steps: int = 120) -> None:
    _bpr_epoch("fpmc", folder, out, steps)


def ngcf_epoch(folder: Path, out: Path, steps: int = 60) -> None:
    """Time NGCF with RecBole's layer: the paper's, with three of them."""
    layer = {"normalisation": "symmetric", "activations": "one"}
    _bpr_epoch("ngcf", folder, out, steps, loss="bpr", layers=3, **layer)


def graphsage_epoch(folder: Path, out: Path, steps: int = 60) -> None:
    _bpr_epoch("graphsage", folder, out, steps, loss="bpr", layers=3)


def _bpr_epoch(name: str, folder: Path, out: Path, steps: int, **settings: object) -> None:
    """Time BPR training with batches of 2,048."""
    data = read_dataset(folder)
    model = build_model(name, data, seed=SEED, **settings).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=2048), data)
    seconds = median_seconds(training_step(trainer), steps) * len(trainer)
    write_result(out, {"seconds_per_epoch": seconds})


def rank(folder: Path, out: Path) -> None:
    data = read_dataset(folder)
    model = build_model("lightgcn", data, seed=SEED).to(DEVICE)
    seconds = median_seconds(
        lambda: evaluate(model, data, "test", ks=(10, 50), repeats="new"), 5, warm_up=1
    )
    write_result(out, {"seconds": seconds})


def grpo_step(folder: Path, out: Path, steps: int = 40, group: int = 4096) -> None:
    """Time a step of cross-entropy, exact and sampled GRPO, and plain PyTorch sampled GRPO."""
    data = read_dataset(folder)
    model = build_model("sasrec", data, seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=512), data)
    sampled = {"estimator": "sampled", "loss_type": "grpo", "num_generations": group}
    exact = {"loss_type": "grpo"}
    variants = {"exact": exact, "exact_kl": exact | {"beta": 0.1}, "sampled": sampled}
    seconds: dict[str, list[float]] = {}
    step_functions = {
        "cross_entropy": training_step(trainer),
        "plain": plain_grpo_step(model, data, group),
    }
    for name, settings in variants.items():
        args = GRPOConfig(
            **{"temperature": 1.0, "batch_size": 512, "reward_smoothing": 0} | settings
        )
        step_functions[name] = training_step(GRPOTrainer(model, args=args, train_dataset=data))
        model.requires_grad_(True)
    for _ in range(4):  # take turns, so that noise on the machine affects all kinds of steps
        for name, step in step_functions.items():
            n_steps = steps // 4 if name in ("cross_entropy", "exact") else 4
            seconds.setdefault(name, []).append(median_seconds(step, n_steps, warm_up=2))
    write_result(out, {name: statistics.median(values) for name, values in seconds.items()})


def load(folder: Path, out: Path, k_core: int = 5) -> None:
    """Time `prepare`: read, filter and split the log, and write the cache.

    The split is leave-last-out, which the peers make.
    """
    config = PrepareConfig(k_core=k_core, split=LeaveLastOut())
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        data = prepare(folder / "log.inter", Path(cache), config)
        seconds = time.perf_counter() - start
    rows = sum(len(part.values) for part in (data.train, data.valid, data.test))
    sizes = {"users": data.n_users, "items": data.n_items, "rows": rows}
    write_result(out, {"seconds": seconds} | sizes)


def softmax_peak(folder: Path, out: Path) -> None:
    """Measure the speed of the catalogue softmax relative to its matrix products alone."""
    shapes = ((512, 12_000), (2048, 26_000))
    write_result(
        out, {f"{states}x{items}": _softmax_peak(states, items) for states, items in shapes}
    )


def _softmax_peak(states: int, n_items: int) -> dict[str, float]:
    users = torch.randn(states, 64, device=DEVICE).mul_(0.5).requires_grad_()
    items = torch.randn(n_items, 64, device=DEVICE).mul_(0.5).requires_grad_()
    targets = torch.randint(n_items, (states,), device=DEVICE)
    policy = BlockwiseDistribution(Embeddings(users, items))
    block = users.detach()[: policy.block_size].to(policy.product)
    scores = policy.cast.new_empty(len(block), n_items)
    p = torch.full_like(scores, 1e-4)
    matrix_products = (
        lambda: torch.mm(block, policy.cast.T, out=scores),
        lambda: p @ policy.cast,
        lambda: p.T @ block,
    )
    n_blocks = states / len(block)
    products = sum(median_seconds(product, 30) for product in matrix_products) * n_blocks
    total = median_seconds(lambda: cross_entropy(users, items, targets).backward(), 30)
    gflop = 6e-9 * states * n_items * 64
    return {
        "share": products / total,
        "gflops": gflop / total,
        "products_gflops": gflop / products,
        "ms": 1e3 * total,
    }


if __name__ == "__main__":
    task, folder, out, *rest = sys.argv[1:]
    options = {key: int(value) for key, value in (option.split("=") for option in rest)}
    globals()[task](Path(folder), Path(out), **options)
