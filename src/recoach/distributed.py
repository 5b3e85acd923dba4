"""Several processes that train one model, as torchrun starts them: what they tell each other.

Each takes its share of every batch and computes its share of every sum: a loss is divided by what
all have together, so that losses and gradients of the processes add up to those of one. Where
there is only one process, everything comes back as it was given; as it does where all go through
the same rows, because it is the catalogue that they divide (`same_rows`).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from recoach.errors import RunError

Rows = TypeVar("Rows", np.ndarray, Tensor)


_SAME_ROWS = ContextVar("same rows", default=False)


def world_size() -> int:
    """Return how many processes there are, whatever they divide."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def data_world_size() -> int:
    """Return among how many processes the rows of a batch are divided."""
    return 1 if _SAME_ROWS.get() else world_size()


def data_rank() -> int:
    """Return which of those this is, from 0."""
    return rank() if data_world_size() > 1 else 0


def is_main_process() -> bool:
    """Return whether this is the process that writes and shows."""
    return rank() == 0


@contextmanager
def replicated_batches(*, same: bool = True) -> Iterator[None]:
    """Let all processes go through the same rows for a while, or (`same=False`) through shares."""
    token = _SAME_ROWS.set(same)
    try:
        yield
    finally:
        _SAME_ROWS.reset(token)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun has started, if it has started this one.

    Raises:
        RunError: they do not come together.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _together(dist.init_process_group)  # gloo for what is on a CPU, NCCL for what is on a GPU
    yield
    dist.destroy_process_group()  # not after an error: the others may wait for ever


def shard_rows(rows: Rows) -> Rows:
    """Return this process's rows of a batch that all of them hold.

    Fewer rows than processes are taken whole by every one of them: means stay what they are.
    """
    alone = data_world_size() == 1 or len(rows) < data_world_size()
    return rows if alone else rows[data_rank() :: data_world_size()]


def rank_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator for what is drawn for the own share.

    Args:
        generator: in the same state in all processes, on the CPU; it stays so.
    """
    if data_world_size() == 1:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed(seed + data_rank())


def data_sum(number: float) -> float:
    """Return the sum of a number over all shares of the rows."""
    if data_world_size() == 1:
        return number
    return float(all_reduce_sum(torch.tensor([number], dtype=torch.float64)))


def all_reduce_sum(numbers: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient."""
    if world_size() == 1:
        return numbers
    result = numbers.detach().clone().contiguous()
    _together(lambda: dist.all_reduce(result))
    return result


def all_reduce_max(numbers: Tensor) -> Tensor:
    """Return the maximum of a tensor over all processes, number by number, without a gradient."""
    if world_size() == 1:
        return numbers
    result = numbers.detach().clone().contiguous()
    _together(lambda: dist.all_reduce(result, dist.ReduceOp.MAX))
    return result


def broadcast_bool(answer: bool) -> bool:
    """Return what the first process answers to yes or no."""
    return bool(all_reduce_max(torch.tensor(float(answer and is_main_process()))))


def all_gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes, the first one's first, without a gradient."""
    return rows if world_size() == 1 else torch.cat(_parts(rows))


def all_gather_with_grad(vectors: Tensor) -> Tensor:
    """Return the rows of all processes, of which only the own ones have a gradient.

    A loss of them is the same in every process (see `once`), and each finds its own rows' part of
    the gradient.
    """
    if data_world_size() == 1:
        return vectors
    parts = _parts(vectors)
    parts[data_rank()] = vectors
    return torch.cat(parts)


def scale_replicated(loss: Tensor) -> Tensor:
    """Return a loss that every process has computed whole, so that all add up to one of it.

    Only the value is divided: the gradients are of different rows already.
    """
    return loss if data_world_size() == 1 else loss - loss.detach() * (1 - 1 / data_world_size())


def data_mean(values: Tensor) -> Tensor:
    """Return the mean over all processes' values, without a gradient; 0 where there are none."""
    if data_world_size() == 1:
        return values.mean() if values.numel() else values.sum()
    values = values.detach()
    return values.new_tensor(data_sum(float(values.sum())) / max(1.0, data_sum(values.numel())))


def mean_contribution(values: Tensor) -> Tensor:
    """Return the own share of the mean over all processes' values: the shares add up to it."""
    return values.mean() if data_world_size() == 1 else values.sum() / data_sum(values.numel())


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their sums over all processes.

    Args:
        parameters: the same in all processes; one without a gradient anywhere is left without.
    """
    if data_world_size() == 1:
        return
    moved = list(parameters)
    there = torch.tensor([p.grad is not None for p in moved]).to(moved[0])
    zero_or_grad = [torch.zeros_like(p) if p.grad is None else p.grad for p in moved]
    flat = torch.cat([there, *(gradient.flatten() for gradient in zero_or_grad)])
    _together(lambda: dist.all_reduce(flat))
    known, *parts = torch.split(flat, [len(moved), *(p.numel() for p in moved)])
    for parameter, part, anywhere in zip(moved, parts, (known > 0).tolist(), strict=True):
        if anywhere:
            parameter.grad = part.view_as(parameter)


def check_same_weights(model: torch.nn.Module) -> None:
    """Make sure that all processes begin with the same weights.

    Raises:
        RunError: they do not.
    """
    if data_world_size() == 1:
        return
    weights = model.state_dict().values()
    sums = torch.stack([tensor.detach().double().sum().cpu() for tensor in weights])
    if not torch.equal(all_reduce_max(sums), -all_reduce_max(-sums)):
        raise RunError(
            "the processes hold different weights: build the model with the same seed in each, "
            "and let all of them see the same run folder."
        )


def barrier() -> None:
    """Wait until all processes have come here."""
    all_reduce_sum(torch.zeros(1))


def _parts(rows: Tensor) -> list[Tensor]:
    """Return the rows of each process, which may be different in number."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    own_length = torch.tensor([len(rows)])
    _together(lambda: dist.all_gather(lengths, own_length))
    most = max(int(length) for length in lengths)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    _together(lambda: dist.all_gather(parts, padded))
    return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]


def _together(work: Callable[[], object]) -> None:
    try:
        work()
    except RuntimeError as error:
        raise RunError(
            f"process {os.environ.get('RANK', '?')} has lost the others "
            f"({str(error).splitlines()[0][:120]}). What was trained up to the last checkpoint is "
            "saved; the same command with --resume goes on."
        ) from error
