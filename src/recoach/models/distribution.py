"""The contract of a policy: a distribution over the catalogue for each of B states.

A loss asks a block of states for log-probabilities, KL, entropy or expectations; it never sees a
matrix of states × items. Two implementations keep the contract: `softmax` computes dot products
and their gradient in closed form, `dense_softmax` takes any model that scores.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

from recoach.models.sampling import (
    draw_distinct_items,
    draw_items,
    draw_ranked_lists,
    draws_per_list,
)

BlockLoss = Callable[..., Tensor]
"""(block, *blocks of the same states under other distributions) -> float[], summed over states."""


class Block(ABC):
    """The policy of some of the states; valid until the next block is requested."""

    which: slice
    """The position of these states among all states."""
    covers_all: bool
    """Whether these are all states of the distribution."""

    def __len__(self) -> int:
        return len(self.p)

    @property
    @abstractmethod
    def p(self) -> Tensor:
        """float[b, I] probabilities, 0 for masked items, without gradient."""

    @abstractmethod
    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs.

        Args:
            states: int64[n] states within the block, sorted.
            items: int64[n].
        """

    @abstractmethod
    def log_p_of(self, items: Tensor) -> Tensor:
        """Return float[b, G], the log-probabilities of G items of each state.

        Args:
            items: int64[b, G].
        """

    @abstractmethod
    def kl(self, other: Self) -> Tensor:
        """Return float[b], KL(this || other) of each state, summed over the catalogue.

        Args:
            other: the same states, masked items and bias under another policy of the same kind; it
                gets no gradient.
        """

    @abstractmethod
    def cross_entropy(self, other: Self) -> Tensor:
        """Return float[b], -log p of this policy averaged over the other's, for each state.

        The gradient with respect to the logits is p minus that of the other.

        Args:
            other: see `kl`.
        """

    @abstractmethod
    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean of a value of items under each state's policy.

        Args:
            values: float[I].
        """

    @abstractmethod
    def mean_log_p(self) -> Tensor:
        """Return float[b], log p averaged over the items of each state that are not masked.

        It is 0 for a state whose items are all masked. The gradient with respect to the logits of
        these items is 1 over their number, minus p.
        """

    @abstractmethod
    def entropies(self) -> Tensor:
        """Return float[b], the entropy of each state's policy."""

    @abstractmethod
    def entropy(self, states: int) -> Tensor:
        """Return float[n], the entropies of the first `states` states, without gradient."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw int64[b, count] items from each state's policy, with replacement, sorted."""
        return draw_items(self._copy_of_p(), count, generator)

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw int64[b, count] different items from each state's policy, sorted."""
        return draw_distinct_items(self._copy_of_p(), count, generator)

    def draw_lists(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw int64[b, count, length] lists of different items, best first (Plackett-Luce)."""
        items = self.draw(count * draws_per_list(length), generator)
        return draw_ranked_lists(self.p, items, (count, length), generator)

    def _copy_of_p(self) -> Tensor:
        return self.p.to(torch.promote_types(self.p.dtype, torch.float32), copy=True)


class Distribution(ABC):
    """The policy of all states of a batch, computed block by block."""

    block_size: int
    """The largest number of states of a block."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of states."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all states block by block; each block is valid until the next is requested."""

    @abstractmethod
    def loss(self, block_loss: BlockLoss, *others: "Distribution") -> Tensor:
        """Sum a loss of log-probabilities over all states.

        Args:
            block_loss: called with each block, and with the same states' blocks of `others`.
            others: distributions of the same states over the same items, such as a reference;
                they get no gradient.

        Returns:
            float[], differentiable with respect to what this distribution was computed from.
        """


class Workspace:
    """Memory for the logits and probabilities of one block, reused from step to step.

    Fresh memory costs as much as the product that is written into it. A copy of a workspace is
    empty: copies of a model do not share it.
    """

    def __init__(self) -> None:
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __reduce__(self) -> tuple[type["Workspace"], tuple[()]]:
        return Workspace, ()

    @contextmanager
    def borrow(self, like: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Lend two uninitialised buffers of at least `count` elements.

        Args:
            like: gives their dtype and device.
            count: elements of each.
        """
        if torch.compiler.is_compiling():  # a compiler plans the memory itself
            yield like.new_empty(count), like.new_empty(count)
            return
        buffers, self._buffers = self._buffers, None  # a second borrower gets memory of its own
        if buffers is None or not _fits(buffers[0], like, count):
            size = count + count // 8  # batches differ a little in their numbers of states
            buffers = (like.new_empty(size), like.new_empty(size))
        try:
            yield buffers
        finally:
            self._buffers = buffers


def _fits(buffer: Tensor, like: Tensor, count: int) -> bool:
    return count <= len(buffer) <= 2 * count and (buffer.dtype, buffer.device) == (
        like.dtype,
        like.device,
    )
