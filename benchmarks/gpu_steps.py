"""Measure single steps on a GPU: `gpu_steps.py TASK FOLDER OUT [KEY=VALUE …]`."""

import sys
from pathlib import Path

import torch
from recoach_run import DEVICE, SEED, median_seconds, read_dataset, write_result

from recoach.models.base import Embeddings
from recoach.models.distribution import Block
from recoach.models.losses import cross_entropy
from recoach.models.registry import build_model
from recoach.models.sharded_softmax import has_fused_kernels
from recoach.models.softmax import BlockwiseDistribution
from recoach.training.loop import stream
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.supervised import SupervisedTrainer


def softmax_kernels(folder: Path, out: Path) -> None:
    """Time cross-entropy by the fused kernels and blockwise, and the three products alone."""
    shapes = ((512, 12_000), (2048, 26_000))
    write_result(out, {f"{states}x{items}": _softmax(states, items) for states, items in shapes})


def _softmax(states: int, n_items: int) -> dict[str, float | bool]:
    users = torch.randn(states, 64, device=DEVICE).mul_(0.5).requires_grad_()
    items = torch.randn(n_items, 64, device=DEVICE).mul_(0.5).requires_grad_()
    targets = torch.randint(n_items, (states,), device=DEVICE)
    rows = torch.arange(states, device=DEVICE)
    vectors = Embeddings(users, items)

    def loss(block: Block) -> torch.Tensor:
        return -block.log_p(rows[: len(block)], targets[block.which]).sum()

    def blockwise() -> None:
        BlockwiseDistribution(vectors).loss(loss).backward()

    cast_users, cast_items = users.detach().bfloat16(), items.detach().bfloat16()
    scores = cast_users @ cast_items.T
    products = sum(
        median_seconds(product, 30)
        for product in (
            lambda: torch.mm(cast_users, cast_items.T, out=scores),
            lambda: scores @ cast_items,
            lambda: scores.T @ cast_users,
        )
    )
    seconds = median_seconds(lambda: cross_entropy(users, items, targets).backward(), 30)
    return {
        "fused": has_fused_kernels(vectors),
        "ms": 1e3 * seconds,
        "blockwise_ms": 1e3 * median_seconds(blockwise, 30),
        "products_ms": 1e3 * products,
        "share": products / seconds,
    }


def softmax_adam(folder: Path, out: Path, states: int = 512, items: int = 1_000_000) -> None:
    """Time cross-entropy with the update of the item table by Adam, without a model."""
    users = torch.randn(states, 64, device=DEVICE).mul_(0.5).requires_grad_()
    table = torch.nn.Parameter(torch.randn(items, 64, device=DEVICE).mul_(0.1))
    targets = torch.randint(items, (states,), device=DEVICE)
    optimizer = torch.optim.Adam([table], lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(users, table, targets).backward()
        optimizer.step()

    write_result(out, {"ms": 1e3 * median_seconds(step, 20)})


def graphed_step(folder: Path, out: Path, steps: int = 60, batch: int = 128) -> None:
    """Time SASRec's step on one batch, and with CUDA graphs (`mode="reduce-overhead"`)."""
    model = build_model("sasrec", data := read_dataset(folder), seed=SEED).to(DEVICE)
    trainer = SupervisedTrainer(model, PretrainConfig(batch_size=batch), data)
    one_batch = next(iter(trainer.epoch(stream(SEED, "batches", 0))))
    positions = len(one_batch.part("states", "sasrec").targets)

    def positions_per_second() -> float:
        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            trainer.step(one_batch, stream(SEED, "draws"))

        return positions / median_seconds(step, steps, warm_up=10)

    result = {"eager": positions_per_second()}
    model.loss = torch.compile(model.loss, mode="reduce-overhead")
    write_result(out, result | {"graphs": positions_per_second()})


if __name__ == "__main__":
    task, folder, out, *rest = sys.argv[1:]
    options = {key: int(value) for key, value in (option.split("=") for option in rest)}
    globals()[task](Path(folder), Path(out), **options)
