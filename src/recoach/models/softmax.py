"""The softmax over the catalogue for dot products: log-probabilities and gradients, blockwise.

Whatever a loss reads from the policy is a function of log-probabilities, and the gradient of one
of them with respect to the logits is (one-hot of the item) - (p of the whole row). So a block
needs three products: the scores, and p times the items and p' times the states for the gradient,
which is taken as soon as the block's loss is known. No states × items matrix outlives its block.

The products are in bfloat16 where the hardware has it (accumulated in float32; the softmax itself
runs in float32), and in the vectors' dtype elsewhere and for catalogues too small to gain.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recoach.data import transfer
from recoach.data.queries import Seen
from recoach.models.base import Embeddings
from recoach.models.distribution import Block, BlockLoss, Distribution, Workspace
from recoach.models.products import aligned_cast, product_dtype
from recoach.models.segments import add_segment_sums

_STATES = {"cpu": 1024, "cuda": 8192}
_LOGITS = {"cpu": 2**24, "cuda": 2**28}
"""A block holds as many states as these allow: 32 MiB of logits in bfloat16 on a CPU."""
_LEAST_STATES = 32
_PROBES = 128
_LEAST_P = 1e-30
"""Below it p may have lost digits to underflow."""


class RowAnswer(NamedTuple):
    """An answer for each state and its gradient with respect to the state's logits."""

    answer: Tensor
    """float[b] or float[b, G], a leaf of autograd."""
    add: Callable[[Tensor, Tensor], Tensor]
    """(float[b, I], slope of the loss with respect to the answer) -> the first, to which the
    gradient without its multiple of p was added in place."""
    multiple_of_p: Callable[[Tensor], Tensor]
    """slope -> float[b], what times p is subtracted from the gradient."""


class BlockwiseBlock(Block):
    """A block of dot products.

    Every answer is a leaf of autograd: `backward` reads how the loss depends on it and adds the
    gradients of states and items in closed form.
    """

    def __init__(
        self,
        distribution: "BlockwiseDistribution",
        users: Tensor,
        which: slice,
        buffers: tuple[Tensor, Tensor],
    ) -> None:
        self.which, self._distribution = which, distribution
        self._users = users / distribution.temperature
        self._cast = self._users.to(distribution.product)
        n_items = len(distribution.items)
        padded_logits, self._padded_p = (buffer[: len(users)] for buffer in buffers)
        self._logits, self.p = padded_logits[:, :n_items], self._padded_p[:, :n_items]
        torch.mm(self._cast, distribution.padded_cast.T, out=padded_logits)
        padded_logits[:, n_items:] = -torch.inf
        if distribution.bias is not None:
            self._logits += distribution.bias
        self.covers_all, seen = len(users) == len(distribution), distribution.seen
        self._masked = seen
        if seen is not None and not self.covers_all:
            self._masked = seen.between(which.start, which.stop)
        if self._masked is not None:
            self._logits[self._masked.states, self._masked.items] = -torch.inf
        torch.softmax(padded_logits, 1, out=self._padded_p)
        self._log_z = self._log_normaliser()
        self._pair_answers: list[tuple[Tensor, Tensor, Tensor]] = []
        self._row_answers: list[RowAnswer] = []

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs, see `Block`."""
        log_p = (self._logits[states, items] - self._log_z[states]).clamp(max=0).requires_grad_()
        self._pair_answers.append((states, items, log_p))
        return log_p

    def log_p_of(self, items: Tensor) -> Tensor:
        """Return float[b, G], the log-probabilities of G items of each state, see `Block`."""
        logits = self._logits.gather(1, items).to(self._log_z.dtype)
        log_p = logits.sub_(self._log_z[:, None]).clamp_(max=0)
        self._row_answers.append(
            RowAnswer(
                log_p.requires_grad_(),
                lambda into, slope: into.scatter_add_(1, items, slope),
                lambda slope: slope.sum(dim=1),
            )
        )
        return log_p

    def kl(self, other: "BlockwiseBlock") -> Tensor:
        """Return float[b], KL(this || other) of each state, see `Block`."""
        log_z = (self._log_z - other._log_z)[:, None]
        # Masked items are replaced before the product: -inf minus -inf is no number.
        gap = self._logits.to(log_z.dtype, copy=True).sub_(other._logits).sub_(log_z)
        weighted = gap.masked_fill_(self.p == 0, 0).mul_(self.p)
        # d KL / d logit = p (gap - KL); the -p KL is part of the row's term, added for all rows.
        return self._row_sum(weighted)

    def cross_entropy(self, other: "BlockwiseBlock") -> Tensor:
        """Return float[b], the mean of -log p of this policy under the other, see `Block`."""
        masked = self._masked
        if masked is not None:  # 0 times -inf is no number
            self._logits[masked.states, masked.items] = 0
        dtype = self._log_z.dtype
        means = torch.linalg.vecdot(self._logits.to(dtype), other.p.to(dtype))
        if masked is not None:
            self._logits[masked.states, masked.items] = -torch.inf
        total = (self._log_z - self._sum_over_catalogue(means)).requires_grad_()
        # d H / d logit = p - p of the other.
        self._row_answers.append(
            RowAnswer(
                total,
                lambda into, slope: into.addcmul_(other.p.to(into.dtype), -slope[:, None]),
                lambda slope: -slope,
            )
        )
        return total

    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean of a value of items under each policy, see `Block`."""
        weighted = self.p.to(self._log_z.dtype, copy=True).mul_(values)
        # d E / d logit = p (value - E), as for the KL.
        return self._row_sum(weighted)

    def mean_log_p(self) -> Tensor:
        """Return float[b], the mean of log p over the items that are not masked, see `Block`."""
        is_shown = (self._logits > -torch.inf).to(self._log_z.dtype)
        count = self._sum_over_catalogue(is_shown.sum(dim=1))
        shown = self._logits.to(is_shown.dtype).masked_fill(is_shown == 0, 0)
        mean = self._sum_over_catalogue(shown.sum(dim=1)) / count.clamp(min=1)
        total = torch.where(count > 0, mean - self._log_z, 0).requires_grad_()
        # d mean log p / d logit = 1 / count - p.
        self._row_answers.append(
            RowAnswer(
                total,
                lambda into, slope: into.addcmul_(is_shown, (slope / count.clamp(min=1))[:, None]),
                lambda slope: slope,
            )
        )
        return total

    def entropies(self) -> Tensor:
        """Return float[b], the entropy of each state's policy."""
        log_p = self._logits.to(self._log_z.dtype, copy=True).sub_(self._log_z[:, None])
        if self._distribution.bias is not None:
            log_p -= self._distribution.bias
        # d H / d logit = p (-log p - H), as for the KL.
        return self._row_sum(log_p.masked_fill_(self.p == 0, 0).mul_(self.p).neg_())

    def entropy(self, states: int) -> Tensor:
        """Return float[n], the entropies of the first `states` states, without gradient."""
        logits, p = self._logits[:states].to(self._log_z.dtype), self.p[:states]
        bias = self._distribution.bias
        logits = logits if bias is None else logits - bias
        mean = self._sum_over_catalogue((p * logits.masked_fill(p == 0, 0)).sum(dim=1))
        return self._log_z[:states] - mean

    @property
    def has_answers(self) -> bool:
        """Whether something was asked for that has a gradient."""
        return bool(self._pair_answers or self._row_answers)

    def backward(self, loss: Tensor, d_users: Tensor, d_items: Tensor | None) -> Tensor | None:
        """Add the loss's gradients to those of the block's states and of all items.

        Args:
            loss: a function of this block's answers.
            d_users: float[b, D], changed in place.
            d_items: float[I, D], changed in place; None before the first block that has a gradient.

        Returns:
            `d_items` with the gradient of this block.
        """
        answers = [
            *(pair[-1] for pair in self._pair_answers),
            *(row.answer for row in self._row_answers),
        ]
        if not loss.requires_grad:
            return d_items
        slopes = torch.autograd.grad(loss, answers, allow_unused=True)
        row_slope, into = self._log_z.new_zeros(len(self)), None
        n_pairs = len(self._pair_answers)
        for (states, _, _), slope in zip(self._pair_answers, slopes, strict=False):
            if slope is not None:
                row_slope.index_add_(0, states, slope)
        for row, slope in zip(self._row_answers, slopes[n_pairs:], strict=True):
            if slope is not None:
                into = torch.zeros_like(self.p, dtype=row_slope.dtype) if into is None else into
                row.add(into, slope)
                row_slope += row.multiple_of_p(slope)
        d_items = self._add_products(row_slope[:, None], into, d_users, d_items)
        for (states, items, _), slope in zip(self._pair_answers, slopes, strict=False):
            if slope is not None:
                self._add_pairs((states, items, slope), d_users, d_items)
        return d_items

    def _row_sum(self, weighted: Tensor) -> Tensor:
        """Return the rows' sums as an answer whose gradient with respect to a logit is its term."""
        total = self._sum_over_catalogue(weighted.sum(dim=1)).requires_grad_()
        self._row_answers.append(
            RowAnswer(
                total,
                lambda into, slope: into.addcmul_(weighted, slope[:, None]),
                lambda slope: slope * total.detach(),
            )
        )
        return total

    def _add_pairs(
        self, pairs: tuple[Tensor, Tensor, Tensor], d_users: Tensor, d_items: Tensor
    ) -> None:
        states, items, slope = pairs
        vectors, scale = self._distribution.items, 1 / self._distribution.temperature
        slope = slope.to(vectors.dtype)
        add_segment_sums(d_users, states, scale * slope, vectors, items)
        items, order = items.sort(stable=True)
        add_segment_sums(d_items, items, slope[order], self._users, states[order])

    def _add_products(
        self, row_slope: Tensor, into: Tensor | None, d_users: Tensor, d_items: Tensor | None
    ) -> Tensor:
        distribution = self._distribution
        n_items = len(distribution.items)
        if into is None:  # a row's slope scales its state: p itself is multiplied as it is
            matrix, cast, left = self._padded_p, distribution.padded_cast, -row_slope
            right = (-row_slope * self._users).to(distribution.product)
        else:
            matrix = into.sub_(self.p.to(into.dtype, copy=True).mul_(row_slope))
            matrix, cast = matrix.to(distribution.product), distribution.cast
            left, right = torch.ones_like(row_slope), self._cast
        d_users += (matrix @ cast) * (left / distribution.temperature)
        product = matrix.T @ right
        product = product[:n_items] if len(product) > n_items else product
        if d_items is None:
            return product.to(distribution.items.dtype)
        return d_items.add_(product)

    def _sum_over_catalogue(self, sums: Tensor) -> Tensor:
        """Return sums over the whole catalogue, given those over the items of this process."""
        return sums

    def _log_normaliser(self) -> Tensor:
        """Recover log Z from `logit - log p`, averaged over a few items.

        p is rounded; the average over some items reduces the rounding error (1e-4 in bfloat16).
        """
        real = torch.promote_types(self.p.dtype, torch.float32)
        p, logits = self.p[:, :_PROBES].to(real), self._logits[:, :_PROBES].to(real)
        usable = p > _LEAST_P
        gaps = torch.where(usable, logits - p.log(), 0).sum(dim=1)
        log_z = gaps / usable.sum(dim=1)
        if not transfer.is_read_free(log_z):
            return self._with_whole_rows(log_z, usable.any(dim=1))
        without = torch.nonzero(~usable.any(dim=1))[:, 0]
        if len(without):
            log_z[without] = self._logits[without].to(real).logsumexp(dim=1)
            empty = without[log_z[without] == -torch.inf]  # every item is masked: p is NaN
            self._padded_p[empty], log_z[empty] = 0, 0
        return log_z

    def _with_whole_rows(self, log_z: Tensor, is_usable: Tensor) -> Tensor:
        """Return log Z, computed from whole rows where no probe is usable, in fixed shapes."""
        largest = self._logits.amax(dim=1, keepdim=True)
        is_empty = largest == -torch.inf
        largest = largest.masked_fill(is_empty, 0)
        total = (self._logits - largest).exp_().sum(dim=1, dtype=log_z.dtype)
        whole = largest[:, 0].to(log_z.dtype) + total.log()
        self._padded_p.masked_fill_(is_empty, 0)
        return torch.where(is_usable, log_z, whole).masked_fill(is_empty[:, 0], 0)


class BlockwiseDistribution(Distribution):
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
        self.users, self.items = users.detach(), items.detach()
        self.temperature, self.seen, self.bias = temperature, seen, bias
        self.product = items.dtype if exact_products else product_dtype(items)
        self.padded_cast = aligned_cast(self.items, self.product)
        self.cast = self.padded_cast[: len(self.items)]
        self.block_size = _block_size(len(users), len(items), items.device.type)
        self._workspace = workspace or Workspace()

    def __len__(self) -> int:
        return len(self.users)

    def blocks(self) -> Iterator[BlockwiseBlock]:
        """Yield all states block by block, see `Distribution`."""
        shape = (self.block_size, len(self.padded_cast))
        with self._workspace.borrow(self.cast, shape[0] * shape[1]) as (logits, p):
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
