"""Counts the multiply-adds of training steps."""

from contextlib import nullcontext
from typing import Final

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from recoach import distributed
from recoach.training.contract import Batch, Trainer, read_logs
from recoach.training.work import Work

_ATEN: Final = torch.ops.aten
_FLOPS: Final = {
    **flop_registry,
    # PyTorch's registry has the products of attention for GPUs only.
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (
        flop_registry[_ATEN._scaled_dot_product_flash_attention]
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        flop_registry[_ATEN._scaled_dot_product_flash_attention_backward]
    ),
}


class MultiplyAddCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this context, counts the multiply-adds of PyTorch's operations in `total`.

    Counted are dense matrix products, convolutions and attention, forward and backward, of the
    trained model and of all other modules. Not counted are element-wise operations, look-ups, sums
    over the edges of a graph, and recurrent layers on a GPU (cuDNN). The scores of B states over I
    items with vectors of D numbers are B · I · D multiply-adds, and the two products of their
    backward pass twice as many.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and add half of its floating point operations."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        flops = _FLOPS.get(func._overloadpacket)
        if flops is not None:
            self.total += flops(*args, **kwargs, out_val=result) // 2
        return result


def run_step(
    trainer: Trainer[Batch], batch: Batch, generator: torch.Generator, work: Work
) -> dict[str, float]:
    """Run a step of a trainer, add it to the work of the training, and read and return its logs.

    Multiply-adds are counted in steps 1, 2, 4, 8 and so on: the counter slows small steps down.
    """
    number = work.steps + 1
    counter = MultiplyAddCounter() if number & (number - 1) == 0 else None
    with counter or nullcontext():
        logs = trainer.step(batch, generator)
    step = trainer.work(batch)
    states = int(distributed.data_sum(step.states))
    work.steps, work.updates = number, work.updates + step.updates
    work.states += states
    work.encoder_passes += int(distributed.data_sum(step.encoder_passes))
    if counter is not None:
        total = torch.tensor([counter.total], dtype=torch.float64)
        work.measured_states += states
        work.measured += int(distributed.all_reduce_sum(total))
    return read_logs(logs)  # last: the host prepares what it can while a GPU computes
