"""Collective operations for training under torchrun, on top of torch.distributed.

There are two kinds of ranks:

- **World ranks** (`rank`, `world_size`) number the processes that torchrun has started.
- **Data-parallel ranks** (`data_rank`, `data_world_size`) number the processes over which the rows
  of a batch are sharded. They equal the world ranks, except inside `replicated_batches`: there
  every process has the same rows (the item table is sharded instead, see
  `models/sharded_embedding.py`), so that the data-parallel world size is 1.

Each data-parallel rank divides its loss by the number of rows on all ranks. Losses and gradients
are therefore summed over the ranks, not averaged, and equal those of a single process. With one
process every function returns its argument unchanged.
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


_REPLICATED = ContextVar("replicated batches", default=False)


def world_size() -> int:
    """Return the number of processes in the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process in the process group, 0 without one."""
    return dist.get_rank() if world_size() > 1 else 0


def data_world_size() -> int:
    """Return the number of processes over which the rows of a batch are sharded."""
    size = world_size()
    return 1 if size == 1 or _REPLICATED.get() else size


def data_rank() -> int:
    """Return the rank of this process among those over which rows are sharded, from 0."""
    return rank() if data_world_size() > 1 else 0


def is_main_process() -> bool:
    """Return whether this is world rank 0, the process that writes files and prints."""
    return rank() == 0


@contextmanager
def replicated_batches(*, enabled: bool = True) -> Iterator[None]:
    """Within this context every process has all rows of a batch: the data world size is 1.

    Args:
        enabled: False shards the rows again, within a context that replicates them.
    """
    token = _REPLICATED.set(enabled)
    try:
        yield
    finally:
        _REPLICATED.reset(token)


@contextmanager
def process_group() -> Iterator[None]:
    """Initialise the process group if torchrun has started this process, and destroy it on exit.

    Raises:
        RunError: the process group cannot be initialised.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _collective(dist.init_process_group)  # gloo for CPU tensors, NCCL for CUDA tensors
    yield
    # Not destroyed after an exception: that may block for ever, waiting for the other ranks.
    dist.destroy_process_group()


def rank_slice() -> slice:
    """Return the slice of a sequence that belongs to this data-parallel rank: every n-th entry."""
    return slice(data_rank(), None, data_world_size())


def shard_rows(rows: Rows) -> Rows:
    """Return the rows of a batch that belong to this data-parallel rank.

    A batch with fewer rows than ranks is replicated on all ranks instead. Losses divide by the
    number of rows on all ranks, so that its mean loss stays the same.
    """
    replicate = data_world_size() == 1 or len(rows) < data_world_size()
    return rows if replicate else rows[rank_slice()]


def rank_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator for draws that differ between data-parallel ranks.

    Args:
        generator: on the CPU, in the same state on all ranks. It is advanced by one draw on every
            rank and so stays in the same state. With one rank it is returned itself.
    """
    if data_world_size() == 1:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed(seed + data_rank())


def data_sum(number: float) -> float:
    """Return the sum of a number over the data-parallel ranks (all-reduce)."""
    if data_world_size() == 1:
        return number
    return float(all_reduce_sum(torch.tensor([number], dtype=torch.float64)))


def data_total(number: Tensor) -> Tensor:
    """Return the sum of a float[] tensor over the data-parallel ranks, without gradient.

    Unlike `data_sum` it reads nothing on the host.
    """
    return number.detach() if data_world_size() == 1 else all_reduce_sum(number)


def all_reduce_sum(numbers: Tensor) -> Tensor:
    """Return the elementwise sum of a tensor over the world (all-reduce), without gradient."""
    if world_size() == 1:
        return numbers
    result = numbers.detach().clone().contiguous()
    _collective(lambda: dist.all_reduce(result))
    return result


def all_reduce_max(numbers: Tensor) -> Tensor:
    """Return the elementwise maximum of a tensor over the world (all-reduce), without gradient."""
    if world_size() == 1:
        return numbers
    result = numbers.detach().clone().contiguous()
    _collective(lambda: dist.all_reduce(result, dist.ReduceOp.MAX))
    return result


def broadcast_bool(value: bool) -> bool:
    """Return the value of world rank 0 on all ranks (broadcast)."""
    return bool(all_reduce_max(torch.tensor(float(value and is_main_process()))))


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all world ranks in rank order (all-gather), without gradient.

    The ranks may have different numbers of rows.
    """
    return rows if world_size() == 1 else torch.cat(_gather_parts(rows))


def all_gather_with_grad(vectors: Tensor) -> Tensor:
    """Concatenate the rows of all data-parallel ranks; gradients flow to this rank's rows only.

    A loss of the result has the same value on all ranks (see `scale_replicated`), and each rank
    computes the gradient with respect to its own rows.
    """
    if data_world_size() == 1:
        return vectors
    parts = _gather_parts(vectors)
    parts[data_rank()] = vectors
    return torch.cat(parts)


def scale_replicated(loss: Tensor) -> Tensor:
    """Scale the value of a loss that all data-parallel ranks computed, so that it sums to the loss.

    Only the value is divided by the world size. The gradients are not: each rank has those of
    different rows (see `all_gather_with_grad`).
    """
    return loss if data_world_size() == 1 else loss - loss.detach() * (1 - 1 / data_world_size())


def data_mean(values: Tensor) -> Tensor:
    """Return the mean of the values on all data-parallel ranks, without gradient; 0 if empty."""
    if data_world_size() == 1:
        return values.mean() if values.numel() else values.sum()
    values = values.detach()
    return values.new_tensor(data_sum(float(values.sum())) / max(1.0, data_sum(values.numel())))


def mean_contribution(values: Tensor) -> Tensor:
    """Return this rank's sum over the number of values on all data-parallel ranks.

    The sum of the results over the ranks is the mean of all values.
    """
    return values.mean() if data_world_size() == 1 else values.sum() / data_sum(values.numel())


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their sums over the data-parallel ranks.

    Dense gradients are summed by an all-reduce. Sparse ones are concatenated by an all-gather: a
    row of the result may occur several times, and their sum is its gradient.

    Args:
        parameters: in the same order on all ranks. A parameter without a gradient on every rank
            stays without one; where only some ranks have one, the others count as zero.
    """
    if data_world_size() == 1:
        return
    params = list(parameters)
    if not params:
        return
    # Ranks with and without a gradient must take part in the same operations.
    kinds = [0 if p.grad is None else 2 if p.grad.is_sparse else 1 for p in params]
    kinds = all_reduce_max(torch.tensor(kinds).to(params[0].device)).tolist()
    for parameter, kind in zip(params, kinds, strict=True):
        if kind == 2:
            parameter.grad = _gathered_gradient(parameter)
    dense = [p for p, kind in zip(params, kinds, strict=True) if kind == 1]
    if not dense:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in dense])
    _collective(lambda: dist.all_reduce(flat))
    parts = torch.split(flat, [p.numel() for p in dense])
    for parameter, part in zip(dense, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _gathered_gradient(parameter: Tensor) -> Tensor:
    """Return the sparse gradients of a table on all ranks, concatenated."""
    gradient = parameter.grad
    if gradient is None:
        rows = torch.zeros(0, dtype=torch.int64, device=parameter.device)
        values = parameter.detach()[rows]
    else:
        gradient = gradient.coalesce()
        (rows,), values = gradient.indices(), gradient.values()
    rows, values = all_gather(rows), all_gather(values)
    return torch.sparse_coo_tensor(rows[None], values, parameter.shape, check_invariants=False)


def check_same_weights(model: torch.nn.Module) -> None:
    """Check that all data-parallel ranks hold the same weights.

    Raises:
        RunError: the weights differ.
    """
    if data_world_size() == 1:
        return
    weights = model.state_dict().values()
    sums = torch.stack([tensor.detach().double().sum().cpu() for tensor in weights])
    if not torch.equal(all_reduce_max(sums), -all_reduce_max(-sums)):
        raise RunError(
            "the weights of the model differ between ranks. Build the model with the same seed on "
            "every rank and give all ranks access to the same run folder."
        )


def barrier() -> None:
    """Block until all world ranks have reached this call."""
    all_reduce_sum(torch.zeros(1))


def _gather_parts(rows: Tensor) -> list[Tensor]:
    """Return the rows of each world rank; the numbers of rows may differ."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    local_length = torch.tensor([len(rows)])
    _collective(lambda: dist.all_gather(lengths, local_length))
    max_length = max(int(length) for length in lengths)
    padded = rows.new_zeros(max_length, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    _collective(lambda: dist.all_gather(parts, padded))
    return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]


def _collective(operation: Callable[[], object]) -> None:
    """Run a collective operation; a failure of torch.distributed becomes a RunError."""
    try:
        operation()
    except RuntimeError as error:
        raise RunError(
            f"rank {os.environ.get('RANK', '?')} has lost the connection to the other ranks "
            f"({str(error).splitlines()[0][:120]}). Run the same command again with --resume: it "
            "continues from the last checkpoint."
        ) from error
