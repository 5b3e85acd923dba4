"""The catalogue softmax where every process holds a range of the items.

As in Megatron's vocabulary-parallel cross-entropy (Shoeybi et al. 2019): all processes hold the
same states, each computes the logits of its local items, and the only values exchanged are the
normaliser (a maximum and a sum), the logits of single pairs and the gradient of the states (sums).
Nothing of the size of the catalogue is communicated.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor

from recoach import distributed
from recoach.data.queries import Seen
from recoach.models.base import Embeddings
from recoach.models.distribution import Workspace
from recoach.models.softmax import BlockwiseDistribution
from recoach.models.softmax_block import BlockwiseBlock, PairAnswer

_MAX_FUSED_DIM: Final = 128
"""Dimensions of the vectors beyond which a tile of gradients does not fit a GPU's registers."""
_FUSED_SHARED_MEMORY: Final = 180 * 1024
"""Bytes that the largest kernel needs (a KL of 128 dimensions in float32: 173 KB)."""


def local_rows(n_items: int) -> slice:
    """Return the range of items that this process holds; ranges differ in length by at most one."""
    rank, world_size = distributed.rank(), distributed.world_size()
    return slice(n_items * rank // world_size, n_items * (rank + 1) // world_size)


def distribution_over_items(
    vectors: Embeddings, first_item: int | None = None
) -> Callable[..., BlockwiseDistribution]:
    """Return the class of distributions for vectors of all items, or of a range of them.

    All items on a GPU have fused kernels where Triton is installed, as it is with PyTorch for CUDA.

    Args:
        vectors: float[B, D] of the states and float[I, D] of the items.
        first_item: number of the first local item where other processes hold the rest; None where
            this process holds all items.
    """
    if first_item is not None:
        return partial(ShardedDistribution, start=first_item)
    if has_fused_kernels(vectors):
        # Imports Triton, which PyTorch for CPUs does not bring.
        from recoach.models.triton_softmax import FusedDistribution  # noqa: PLC0415

        return FusedDistribution
    return BlockwiseDistribution


def has_fused_kernels(vectors: Embeddings) -> bool:
    """Return whether the kernels of `triton_softmax` take these vectors and can run here.

    They take float32 vectors of up to 128 dimensions on a GPU whose processors have 180 KiB of
    shared memory: compute capability 9.0 and 10, such as H100, H200 and B200.
    """
    users, items = vectors
    return (
        users.device.type == items.device.type == "cuda"
        and users.dtype == items.dtype == torch.float32
        and items.shape[1] <= _MAX_FUSED_DIM
        and importlib.util.find_spec("triton") is not None
        and _shared_memory(items.device) >= _FUSED_SHARED_MEMORY
    )


def _shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a kernel may have; 0 where PyTorch does not say."""
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 0))


class ShardedDistribution(BlockwiseDistribution):
    """The policy of states that are the same in all processes, over all processes' items.

    The loss is the same in all processes; each process gets the whole gradient of the states and
    that of its local items.

    Args:
        vectors: float[B, D] of the states and float[rows, D] of the local items.
        start: number of the first local item.
        seen: masked (state, item) pairs, sorted by state; of any items.
        temperature: divides the scores.
        exact_products: see `BlockwiseDistribution`.
        workspace: see `BlockwiseDistribution`.
    """

    def __init__(
        self,
        vectors: Embeddings,
        *,
        start: int,
        seen: Seen | None = None,
        temperature: float = 1.0,
        exact_products: bool = False,
        workspace: Workspace | None = None,
    ) -> None:
        self.start, self.stop = start, start + len(vectors.items)
        if seen is not None:
            local = self.is_local(seen.items)
            seen = Seen(seen.states[local], seen.items[local] - start)
        replicated: Tensor = _ReplicatedStates.apply(vectors.users)  # type: ignore[no-untyped-call]
        super().__init__(
            Embeddings(replicated, vectors.items),
            temperature=temperature,
            seen=seen,
            exact_products=exact_products,
            workspace=workspace,
        )
        # All processes step through the same blocks: the largest shard fits the fewest states.
        self.block_size = -int(distributed.all_reduce_max(torch.tensor(-self.block_size)))

    def is_local(self, items: Tensor) -> Tensor:
        """Return bool[n], whether this process holds the items."""
        return (items >= self.start) & (items < self.stop)

    def _block(self, users: Tensor, which: slice, buffers: tuple[Tensor, Tensor]) -> BlockwiseBlock:
        return _ShardedBlock(self, users, which, buffers)


class _ShardedBlock(BlockwiseBlock):
    """A block's local columns; sums over the catalogue are all-reduced."""

    def __init__(
        self,
        shard: ShardedDistribution,
        users: Tensor,
        which: slice,
        buffers: tuple[Tensor, Tensor],
    ) -> None:
        self._shard = shard
        super().__init__(shard, users, which, buffers)

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs of any items."""
        local = self._shard.is_local(items)
        local_states = states[local]
        log_p = self._log_z.new_zeros(len(states))
        logits = self._logits[local_states, items[local] - self._shard.start]
        log_p[local] = (logits - self._log_z[local_states]).to(log_p.dtype)
        log_p = distributed.all_reduce_sum(log_p).clamp(max=0).requires_grad_()
        self._answers.append(PairAnswer(log_p, states, items))
        return log_p

    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean of a value of items under each policy, see `Block`.

        Args:
            values: float[I], of all items.
        """
        return super().expectation(values[self._shard.start : self._shard.stop])

    def log_p_of(self, items: Tensor) -> Tensor:
        """Raise NotImplementedError: any process may hold the sampled items."""
        raise NotImplementedError("sampling needs the whole catalogue; enumerate it (`log_p`)")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Raise NotImplementedError: a process has the probabilities of its local items only."""
        raise NotImplementedError("sampling needs the whole catalogue; enumerate it (`log_p`)")

    draw_distinct = draw

    def _add_pairs(
        self, pairs: tuple[Tensor, Tensor, Tensor], d_users: Tensor, d_items: Tensor
    ) -> None:
        states, items, slope = pairs
        local = self._shard.is_local(items)
        local_pairs = (states[local], items[local] - self._shard.start, slope[local])
        super()._add_pairs(local_pairs, d_users, d_items)

    def _sum_over_catalogue(self, sums: Tensor) -> Tensor:
        return distributed.all_reduce_sum(sums)

    def _log_normaliser(self, logits: Tensor, padded_p: Tensor) -> Tensor:
        """Return log Z over all processes' items, and rescale p to it."""
        log_z = super()._log_normaliser(logits, padded_p)
        empty = padded_p.sum(dim=1) == 0  # every local item is masked
        log_z = log_z.masked_fill(empty, -torch.inf)
        highest = distributed.all_reduce_max(log_z)
        total = distributed.all_reduce_sum((log_z - highest).exp()).log() + highest
        total = total.nan_to_num(nan=0.0)  # every item is masked: p is 0
        padded_p *= (log_z - total).exp()[:, None]
        return total


class _ReplicatedStates(torch.autograd.Function):
    """States that all processes use: their gradient is the sum over the processes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, users: Tensor) -> Tensor:
        del ctx
        return users.view_as(users)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:
        del ctx
        return distributed.all_reduce_sum(upstream)
