"""Losses over the whole catalogue, block by block: forward and backward in one pass."""

from collections.abc import Callable

import torch
from torch import Tensor

BlockLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""(users float[b, D], items float[I, D], which states) -> the block's share of the loss."""

BLOCK_SIZE = 256
"""States scored at once: at 37k items a block of logits takes 38 MB."""


def blockwise(
    users: Tensor, items: Tensor, block_loss: BlockLoss, *, block_size: int = BLOCK_SIZE
) -> Tensor:
    """Sum a loss over blocks of states without ever holding states × items.

    The gradient of each block is taken as soon as its loss is known, so memory is one block of
    logits whatever the batch.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        block_loss: loss of a block, summed over its states.
        block_size: states in a block.

    Returns:
        float[] the sum, differentiable with respect to `users` and `items`.
    """
    total: Tensor = _Blockwise.apply(  # type: ignore[no-untyped-call]
        users, items, block_loss, block_size
    )
    return total


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        users: Tensor,
        items: Tensor,
        block_loss: BlockLoss,
        block_size: int,
    ) -> Tensor:
        needed = any(ctx.needs_input_grad[:2])  # type: ignore[attr-defined]
        free_users = users.detach().requires_grad_(needed)
        free_items = items.detach().requires_grad_(needed)
        total = users.new_zeros(())
        with torch.set_grad_enabled(needed):
            for start in range(0, len(users), block_size):
                which = slice(start, min(start + block_size, len(users)))
                loss = block_loss(free_users[which], free_items, which)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        ctx.gradients = (free_users.grad, free_items.grad)  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        users, items = ctx.gradients  # type: ignore[attr-defined]
        return _scaled(users, upstream), _scaled(items, upstream), None, None


def _scaled(gradient: Tensor | None, upstream: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * upstream
