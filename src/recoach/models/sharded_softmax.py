"""The catalogue's softmax where no process holds all items: each has a range of rows.

As in Megatron's vocabulary-parallel cross-entropy (Shoeybi et al. 2019): the processes hold the
same states, each computes the logits of its own items, and what is needed of the others' are the
normaliser (a maximum and a sum), the logits of single pairs and the gradient of the states (sums).
Nothing of the size of the catalogue travels.
"""

import torch
from torch import Tensor

from recoach import distributed
from recoach.data.batches import Seen
from recoach.models.softmax import Block, Catalogue


def local_rows(n_items: int) -> slice:
    """Return the range of items that this process holds; the ranges differ by one at the most."""
    number, count = distributed.rank(), distributed.world_size()
    return slice(n_items * number // count, n_items * (number + 1) // count)


class ShardedCatalogue(Catalogue):
    """The own rows of a catalogue, for states that are the same in all processes.

    A loss of it is the same in all processes; each finds the whole gradient of the states and that
    of its own items.

    Args:
        items: float[rows, D].
        n_states: number of states that will be asked for.
        start: the first own item's number.
        seen: masked (state, item) pairs, sorted by state; of any items.
        temperature: divides the scores.
        exact_products: see `Catalogue`.
    """

    def __init__(
        self,
        items: Tensor,
        n_states: int,
        *,
        start: int,
        seen: Seen | None = None,
        temperature: float = 1.0,
        exact_products: bool = False,
    ) -> None:
        self.start, self.stop = start, start + len(items)
        if seen is not None:
            here = self.holds(seen.items)
            seen = Seen(seen.states[here], seen.items[here] - start)
        super().__init__(
            items, n_states, temperature=temperature, seen=seen, exact_products=exact_products
        )
        # Blocks are gone through in step: the largest shard, which fits the fewest states, decides.
        self.block_size = -int(distributed.all_reduce_max(torch.tensor(-self.block_size)))

    def holds(self, items: Tensor) -> Tensor:
        """Return bool[n], whether items are among the own ones."""
        return (items >= self.start) & (items < self.stop)

    def states(self, users: Tensor) -> Tensor:
        """Return the states, whose gradient all processes add to."""
        everywhere: Tensor = _Everywhere.apply(users)  # type: ignore[no-untyped-call]
        return everywhere

    def block(self, users: Tensor, which: slice) -> Block:
        """Return the policy of the states `which`, see `Catalogue`."""
        seen = self.seen and self.seen.between(which.start, which.stop)
        return _ShardBlock(self, users.detach(), which, seen)


class _ShardBlock(Block):
    """A block's own columns; whatever sums over the catalogue is summed over the processes."""

    def __init__(
        self, shard: ShardedCatalogue, users: Tensor, which: slice, seen: Seen | None
    ) -> None:
        self._shard = shard
        super().__init__(shard, users, which, seen)

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs of any items."""
        here = self._shard.holds(items)
        known = states[here]
        found = self._log_z.new_zeros(len(states))
        own = self._logits[known, items[here] - self._shard.start] - self._log_z[known]
        found[here] = own.to(found.dtype)
        found = distributed.all_reduce_sum(found).clamp(max=0).requires_grad_()
        self._pairs.append((states, items, found))
        return found

    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean of a number that items have, see `Block`.

        Args:
            values: float[I], of all items.
        """
        return super().expectation(values[self._shard.start : self._shard.stop])

    def log_p_of(self, drawn: Tensor) -> Tensor:
        """Raise: what is drawn may be anybody's."""
        raise NotImplementedError("draws need the whole catalogue; enumerate it (`log_p`)")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Raise: a process knows the probabilities of its own items alone."""
        raise NotImplementedError("draws need the whole catalogue; enumerate it (`log_p`)")

    draw_distinct = draw

    def _add_picked(
        self, pairs: tuple[Tensor, Tensor, Tensor], d_users: Tensor, d_items: Tensor
    ) -> None:
        states, wanted, slope = pairs
        here = self._shard.holds(wanted)
        own = (states[here], wanted[here] - self._shard.start, slope[here])
        super()._add_picked(own, d_users, d_items)

    def _over_all(self, sums: Tensor) -> Tensor:
        return distributed.all_reduce_sum(sums)

    def _log_normaliser(self) -> Tensor:
        """Return log Z over all processes' items, and make p a part of that."""
        log_z = super()._log_normaliser()
        hidden = self.p.sum(dim=1) == 0  # none of the own items may be shown
        log_z = log_z.masked_fill(hidden, -torch.inf)
        most = distributed.all_reduce_max(log_z)
        whole = distributed.all_reduce_sum((log_z - most).exp()).log() + most
        whole = whole.nan_to_num(nan=0.0)  # nothing may be shown at all: p is 0
        self.p *= (log_z - whole).exp()[:, None]
        return whole


class _Everywhere(torch.autograd.Function):
    """States that all processes use: what each finds of their gradient is added up."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, users: Tensor) -> Tensor:
        del ctx
        return users.view_as(users)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:
        del ctx
        return distributed.all_reduce_sum(upstream)
