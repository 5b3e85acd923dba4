"""The softmax over the catalogue for dot products: log-probabilities and gradients, blockwise.

Whatever a loss reads from the policy is a function of log-probabilities, and the gradient of one
of them with respect to the logits is (one-hot of the item) - (p of the whole row). So a block
needs three products: the scores, and p times the items and p' times the states for the gradient,
which is taken as soon as the block's loss is known. No states × items matrix outlives its block.

The products are in bfloat16 where the hardware has it (accumulated in float32; the softmax itself
runs in float32), and in the vectors' dtype elsewhere and for catalogues too small to gain.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from recoach.data.queries import Seen
from recoach.models.base import Embeddings
from recoach.models.distribution import BlockLoss, Distribution, Workspace
from recoach.models.products import Catalogue, padded_count, product_dtype
from recoach.models.softmax_block import BlockwiseBlock

_STATES = {"cpu": 1024, "cuda": 8192}
_LOGITS = {"cpu": 2**24, "cuda": 2**28}
"""A block holds as many states as these allow: 32 MiB of logits in bfloat16 on a CPU."""
_LEAST_STATES = 32


class BlockwiseDistribution(Catalogue, Distribution):
    """softmax(users · items / temperature + bias) with masked items.

    Args:
        vectors: float[B, D] of the states and float[I, D] of the items.
        temperature: divides the scores.
        seen: masked (state, item) pairs, sorted by state.
        bias: float[I] added to the logits: the log of how many items each one stands for, where
            the items are a sample (0 for an item that stands for itself).
        exact_products: never in bfloat16. It rounds a score by up to 1/512 of its size: nothing
            for one policy, too much for the difference of two that are close.
        workspace: memory for the blocks; a new one where None.

    Attributes:
        vectors: as given, with gradient: a loss that reads them too needs no second pass.
        users, items: the same without gradient.
    """

    def __init__(
        self,
        vectors: Embeddings,
        *,
        temperature: float = 1.0,
        seen: Seen | None = None,
        bias: Tensor | None = None,
        exact_products: bool = False,
        workspace: Workspace | None = None,
    ) -> None:
        users, items = self.vectors = vectors
        self.users = users.detach()
        product = items.dtype if exact_products else product_dtype(items)
        super().__init__(items.detach(), product, temperature, bias, seen, len(users))
        self.block_size = _block_size(len(users), len(items), items.device.type)
        self._workspace = workspace or Workspace()

    def __len__(self) -> int:
        return len(self.users)

    def blocks(self) -> Iterator[BlockwiseBlock]:
        """Yield all states block by block, see `Distribution`."""
        shape = (self.block_size, padded_count(len(self.items), self.product))
        like = self.items.new_empty(0, dtype=self.product)
        with self._workspace.borrow(like, shape[0] * shape[1]) as (logits, p):
            count = shape[0] * shape[1]
            buffers = (logits[:count].view(shape), p[:count].view(shape))
            for start in range(0, len(self.users), self.block_size):
                which = slice(start, min(start + self.block_size, len(self.users)))
                yield self._block(self.users[which], which, buffers)

    def _block(self, users: Tensor, which: slice, buffers: tuple[Tensor, Tensor]) -> BlockwiseBlock:
        return BlockwiseBlock(self, users, which, buffers)

    def loss(self, block_loss: BlockLoss, *others: Distribution) -> Tensor:
        """Sum a loss of log-probabilities over all states, see `Distribution`."""
        total: Tensor = _BlockwiseLoss.apply(*self.vectors, self, block_loss, others)  # type: ignore[no-untyped-call]
        return total


def _block_size(n_states: int, n_items: int, device_type: str) -> int:
    fitting = _LOGITS.get(device_type, 2**24) // max(1, n_items)
    most = min(_STATES.get(device_type, 512), max(_LEAST_STATES, fitting))
    n_blocks = max(1, -(-n_states // most))
    return max(1, -(-n_states // n_blocks))  # equal sizes: no last block of a few states


class _BlockwiseLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        users: Tensor,
        items: Tensor,
        distribution: BlockwiseDistribution,
        block_loss: BlockLoss,
        others: tuple[Distribution, ...],
    ) -> Tensor:
        total = users.new_zeros(())
        d_users, d_items = torch.zeros_like(users), None
        for block, *rest in zip(
            distribution.blocks(), *(other.blocks() for other in others), strict=True
        ):
            with torch.enable_grad():
                value = block_loss(block, *rest)
            total += value.detach()
            if any(ctx.needs_input_grad[:2]):  # type: ignore[attr-defined]
                d_items = block.backward(value, d_users[block.which], d_items)
        d_items = torch.zeros_like(items) if d_items is None else d_items
        if torch.compiler.is_compiling():  # a traced result may share no memory
            d_users, d_items = d_users.clone(), d_items.clone()
        # Saved, and not kept as attributes, so that autograd may add to them in place.
        ctx.save_for_backward(d_users, d_items)
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        d_users, d_items = ctx.saved_tensors  # type: ignore[attr-defined]
        if torch.compiler.is_compiling():  # a compiler plans the memory itself
            return d_users * upstream, d_items * upstream, None, None, None
        # In place, which spares memory of the size of the table; a second pass raises an error.
        return d_users.mul_(upstream), d_items.mul_(upstream), None, None, None
