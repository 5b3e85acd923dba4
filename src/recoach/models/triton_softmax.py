"""The catalogue softmax on a GPU by fused kernels, without a matrix of states × items.

A block computes these without scores in memory: log p of pairs, means of a value of items,
entropies, the KL, and the gradients of all of them. Draws, `p` and the other answers need the
matrix; the block then computes it once, as `BlockwiseBlock` does.
"""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from recoach.models.softmax import BlockwiseDistribution
from recoach.models.softmax_block import BlockwiseBlock, PairAnswer
from recoach.models.triton_launch import Scores, Value, pack_mask


class FusedBlock(BlockwiseBlock):
    """A block whose scores are computed by each kernel and never stored."""

    def __init__(self, distribution: "FusedDistribution", users: Tensor, which: slice) -> None:
        self.which, self._catalogue = which, distribution
        self._given_users = users
        self.covers_all = len(users) == len(distribution)
        self._users = users / distribution.temperature
        mask = distribution.mask
        self._scores = Scores(
            self._users.to(distribution.product).contiguous(),
            distribution.cast.contiguous(),
            distribution.bias,
            None if mask is None else mask[which],
        )
        self._pairs: list[PairAnswer] = []
        self._means: list[tuple[Value, Tensor]] = []

    def __len__(self) -> int:
        return len(self._users)

    @cached_property
    def _log_z(self) -> Tensor:
        return self._scores.log_normaliser()

    @cached_property
    def dense(self) -> BlockwiseBlock:
        """The same block with its scores in memory."""
        shape = (len(self), len(self._catalogue.padded_cast))
        buffers = (
            self._scores.items.new_empty(shape),
            self._scores.items.new_empty(shape),
        )
        return BlockwiseBlock(self._catalogue, self._given_users, self.which, buffers)

    @property
    def p(self) -> Tensor:
        """float[b, I] probabilities, see `Block`."""
        return self.dense.p

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs, see `Block`."""
        log_p = self._scores.of_pairs(states, items) - self._log_z[states]
        log_p = log_p.clamp_(max=0).requires_grad_()
        self._pairs.append(PairAnswer(log_p, states, items))
        return log_p

    def log_p_of(self, items: Tensor) -> Tensor:
        """Return float[b, G], the log-probabilities of G items of each state, see `Block`."""
        # Where the scores are in memory, or where as many are asked for as the products of D
        # numbers cost: reading them.
        if "dense" in self.__dict__ or items.shape[1] * self._users.shape[1] >= len(
            self._catalogue.items
        ):
            return self.dense.log_p_of(items)
        states = torch.arange(len(self), device=items.device).repeat_interleave(items.shape[1])
        return self.log_p(states, items.flatten()).view_as(items)

    def kl(self, other: BlockwiseBlock) -> Tensor:
        """Return float[b], KL(this || other) of each state, see `Block`."""
        if not isinstance(other, FusedBlock):
            return self.dense.kl(other)
        return self._mean(Value(other=other._scores, other_log_z=other._log_z))

    def cross_entropy(self, other: BlockwiseBlock) -> Tensor:
        """Return float[b], the mean of -log p of this policy under the other, see `Block`."""
        return self.dense.cross_entropy(other.dense if isinstance(other, FusedBlock) else other)

    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean of a value of items under each policy, see `Block`."""
        return self._mean(Value(of_items=values.to(self._log_z.dtype).contiguous()))

    def mean_log_p(self) -> Tensor:
        """Return float[b], the mean of log p over the items that are not masked, see `Block`."""
        return self.dense.mean_log_p()

    def entropies(self) -> Tensor:
        """Return float[b], the entropy of each state's policy."""
        entropies, bias = -self._mean(Value(of_log_p=True)), self._catalogue.bias
        return entropies if bias is None else entropies + self.expectation(bias)

    def entropy(self, states: int) -> Tensor:
        """Return float[n], the entropies of the first `states` states, without gradient."""
        scores, mask = self._scores, self._scores.mask
        some = Scores(
            scores.states[:states],
            scores.items,
            scores.bias,
            None if mask is None else mask[:states],
        )
        log_z = self._log_z[:states]
        entropy = -some.mean(log_z, Value(of_log_p=True))
        return entropy if some.bias is None else entropy + some.mean(log_z, Value(False, some.bias))

    def backward(self, loss: Tensor, d_users: Tensor, d_items: Tensor | None) -> Tensor | None:
        """Add the loss's gradients to those of states and items, see `BlockwiseBlock`."""
        answers = [*(pair.answer for pair in self._pairs), *(mean for _, mean in self._means)]
        if loss.requires_grad and answers:
            slopes = torch.autograd.grad(loss, answers, allow_unused=True, retain_graph=True)
            d_items = self._add_gradients(slopes, d_users, d_items)
        dense = self.__dict__.get("dense")
        if dense is not None and dense.has_answers:
            d_items = dense.backward(loss, d_users, d_items)
        return d_items

    def _mean(self, value: Value) -> Tensor:
        mean = self._scores.mean(self._log_z, value).requires_grad_()
        self._means.append((value, mean))
        return mean

    def _add_gradients(
        self, slopes: tuple[Tensor | None, ...], d_users: Tensor, d_items: Tensor | None
    ) -> Tensor:
        n_pairs, offset = len(self._pairs), torch.zeros_like(self._log_z)
        pairs = [
            (pair.states, pair.items, slope)
            for pair, slope in zip(self._pairs, slopes, strict=False)
            if slope is not None
        ]
        for states, _, slope in pairs:
            offset.index_add_(0, states, -slope)
        # d mean / d score = p (value - mean)
        means = [
            (-slope * mean.detach(), slope, value)
            for (value, mean), slope in zip(self._means, slopes[n_pairs:], strict=True)
            if slope is not None
        ]
        zero = torch.zeros_like(offset)
        (first_offset, weight, value), *others = means or [(zero, zero, Value())]
        d_items = self._add_products_of((first_offset + offset, weight, value), d_users, d_items)
        for terms in others:
            d_items = self._add_products_of(terms, d_users, d_items)
        for pair in pairs:
            self._add_pairs(pair, d_users, d_items)
        return d_items

    def _add_products_of(
        self, terms: tuple[Tensor, Tensor, Value], d_users: Tensor, d_items: Tensor | None
    ) -> Tensor:
        gradient = self._scores.state_gradient(self._log_z, *terms)
        d_users.add_(gradient, alpha=1 / self._catalogue.temperature)
        return self._scores.item_gradient(self._log_z, *terms, d_items)


class FusedDistribution(BlockwiseDistribution):
    """softmax(users · items / temperature + bias) with masked items, by fused kernels.

    For vectors that `has_fused_kernels` accepts; the arguments are those of
    `BlockwiseDistribution`. The workspace is not used: PyTorch keeps the memory of a GPU.
    """

    @cached_property
    def mask(self) -> Tensor | None:
        """int32[B, ceil(I / 32)], a bit for each masked pair; None without any."""
        if self.seen is None:
            return None
        return pack_mask(self.seen, len(self.users), len(self.items))

    def blocks(self) -> Iterator[FusedBlock]:
        """Yield all states block by block, see `Distribution`."""
        for start in range(0, len(self.users), self.block_size):
            which = slice(start, min(start + self.block_size, len(self.users)))
            yield FusedBlock(self, self.users[which], which)
