"""The softmax over the whole catalogue: log-probabilities and their gradient, block by block.

Whatever a loss asks of the policy is a function of log-probabilities, and the gradient of one
with respect to the logits is (picked) - (p of the whole row). So three products a block are all
there is: scores, and p times the items and p' times the states for the gradient, which is taken
as soon as the block's loss is known. Nothing of states × items outlives its block.

The products are in bfloat16 where the hardware has it (accumulated in float32; the softmax runs
in float32 inside), and float32 elsewhere and for catalogues too small to gain.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recoach.data.batches import Seen
from recoach.models.segment_sum import add_segment_sums

_STATES = {"cpu": 1024, "cuda": 8192}
_LOGITS = {"cpu": 2**24, "cuda": 2**28}
"""A block holds as many states as these allow: 32 MiB of logits in bfloat16 on a CPU."""
_LEAST_STATES = 32
_SMALL = 1024
"""Items below which the conversion to bfloat16 costs what it saves."""
_PROBES = 128
_SHORT_AT_ONCE = 256
"""Lists that are finished at once, each with a row of the catalogue."""
_SPARE = 3
"""Draws for each place of a list, so that enough of them differ."""
_LEAST_P = 1e-30
"""Below it p may have lost digits to underflow."""


class Block:
    """The policy of one block of states; a loss asks it for log-probabilities.

    Every answer is a leaf of autograd: `backward` reads how the loss depends on it and adds the
    gradients of states and items in closed form.
    """

    def __init__(
        self, catalogue: "Catalogue", users: Tensor, which: slice, seen: Seen | None
    ) -> None:
        self.which, self._catalogue = which, catalogue
        self._users = users / catalogue.temperature
        self._cast = self._users.to(catalogue.product)
        self._logits, self.p = (room[: len(users)] for room in catalogue.rooms)
        torch.mm(self._cast, catalogue.cast.T, out=self._logits)
        if catalogue.bias is not None:
            self._logits += catalogue.bias
        if seen is not None:
            self._logits[seen.states, seen.items] = -torch.inf
        torch.softmax(self._logits, 1, out=self.p)
        self._log_z = self._log_normaliser()
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._dense: list[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]] = []

    def __len__(self) -> int:
        return len(self.p)

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs.

        Args:
            states: int64[n] state within the block, sorted.
            items: int64[n].
        """
        found = (self._logits[states, items] - self._log_z[states]).clamp(max=0).requires_grad_()
        self._pairs.append((states, items, found))
        return found

    def log_p_of(self, drawn: Tensor) -> Tensor:
        """Return float[b, G], the log-probabilities of G items of each state.

        Args:
            drawn: int64[b, G].
        """
        logits = self._logits.gather(1, drawn).to(self._log_z.dtype)
        found = logits.sub_(self._log_z[:, None]).clamp_(max=0)
        self._dense.append(
            (found.requires_grad_(), lambda into, slope: into.scatter_add_(1, drawn, slope))
        )
        return found

    def kl(self, other: "Block") -> Tensor:
        """Return float[b], KL(this || other) of each state, summed over the catalogue.

        Args:
            other: the same states and the same seen items under another policy.
        """
        log_z = (self._log_z - other._log_z)[:, None]
        # Masked items are replaced before the product: -inf minus -inf is no number.
        gap = self._logits.to(log_z.dtype, copy=True).sub_(other._logits).sub_(log_z)
        weighted = gap.masked_fill_(self.p == 0, 0).mul_(self.p)
        found = self._over_all(weighted.sum(dim=1)).requires_grad_()
        # d KL / d logit = p (gap - KL); the -p KL is the row's share, taken with everybody's.
        self._dense.append((found, lambda into, slope: into.addcmul_(weighted, slope[:, None])))
        return found

    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean under each state's policy of a number that items have.

        Args:
            values: float[I].
        """
        weighted = self.p.to(self._log_z.dtype, copy=True).mul_(values)
        found = self._over_all(weighted.sum(dim=1)).requires_grad_()
        # d E / d logit = p (value - E); the -p E is the row's share, taken with everybody's.
        self._dense.append((found, lambda into, slope: into.addcmul_(weighted, slope[:, None])))
        return found

    def entropies(self) -> Tensor:
        """Return float[b], the entropy of each state's policy."""
        real = self._log_z.dtype
        log_p = self._logits.to(real, copy=True).sub_(self._log_z[:, None])
        if self._catalogue.bias is not None:
            log_p -= self._catalogue.bias
        weighted = log_p.masked_fill_(self.p == 0, 0).mul_(self.p).neg_()
        found = self._over_all(weighted.sum(dim=1)).requires_grad_()
        # d H / d logit = p (-log p - H), as above.
        self._dense.append((found, lambda into, slope: into.addcmul_(weighted, slope[:, None])))
        return found

    def entropy(self, states: int) -> Tensor:
        """Return float[n], the entropies of the first `states` states, without gradient."""
        logits, p = self._logits[:states].to(self._log_z.dtype), self.p[:states]
        logits = logits if self._catalogue.bias is None else logits - self._catalogue.bias
        mean = self._over_all((p * logits.masked_fill(p == 0, 0)).sum(dim=1))
        return self._log_z[:states] - mean

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw int64[b, count] items from each state's policy, with replacement, sorted.

        The uniforms are made in order (sums of exponentials), so that the search through the
        cumulated probabilities and all later gathers walk forward through memory.
        """
        mass = self.p.to(self._log_z.dtype, copy=True).cumsum_(dim=1)
        shape = (len(self), count + 1)
        # Twice as fast as exponential_; 1 - rand is never 0.
        gaps = 1 - torch.rand(shape, generator=generator, dtype=mass.dtype, device=mass.device)
        points = gaps.log_().cumsum_(dim=1)
        uniform = points[:, :-1] * (mass[:, -1:] / points[:, -1:])
        highest = torch.nextafter(mass[:, -1:], mass.new_zeros(()))
        return torch.searchsorted(mass, uniform.clamp_(max=highest), right=True)

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw int64[b, count] different items from each state's policy, sorted.

        An exponential race: the first `count` arrivals at rates p are a draw without replacement.
        """
        arrivals = _arrivals(self.p.to(self._log_z.dtype, copy=True), generator)
        return arrivals.topk(count, dim=1, sorted=False).indices.sort(dim=1).values

    def draw_lists(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw int64[b, count, length] lists of different items, best first (Plackett-Luce).

        Draws with replacement, in the order they come and without those that come again, are such
        a list. Where too few differ, the rest is drawn from what is left.
        """
        more = _SPARE * length
        drawn = self.draw(count * more, generator)
        rand = torch.rand(drawn.shape, generator=generator, device=drawn.device)
        lists = drawn.gather(1, rand.argsort(dim=1)).view(len(self), count, more)
        order = lists.argsort(dim=2, stable=True)
        ranked = lists.gather(2, order)
        again = torch.zeros_like(ranked, dtype=torch.bool)
        again[:, :, 1:] = ranked[:, :, 1:] == ranked[:, :, :-1]
        repeated = torch.zeros_like(again).scatter_(2, order, again)
        fresh = repeated.byte().argsort(dim=2, stable=True)[:, :, :length]
        found = (~repeated).sum(dim=2)
        lists = lists.gather(2, fresh)
        for short in torch.split(torch.nonzero(found < length), _SHORT_AT_ONCE):
            rows, numbers = short.T
            begun, known = lists[rows, numbers], found[rows, numbers][:, None]
            places = torch.arange(length, device=begun.device)
            left = self.p[rows].to(self._log_z.dtype)
            left.scatter_(1, torch.where(places < known, begun, begun[:, :1]), 0)
            rest = _arrivals(left, generator).topk(length, dim=1).indices
            rest = rest.gather(1, (places - known).clamp(min=0))
            lists[rows, numbers] = torch.where(places < known, begun, rest)
        return lists

    def backward(self, loss: Tensor, d_users: Tensor, d_items: Tensor) -> None:
        """Add the loss's gradients to those of the block's states and of all items.

        Args:
            loss: a function of what the block was asked for.
            d_users: float[b, D].
            d_items: float[I, D].
        """
        asked = [*(pair[-1] for pair in self._pairs), *(found for found, _ in self._dense)]
        if not loss.requires_grad:
            return
        slopes = torch.autograd.grad(loss, asked, allow_unused=True)
        share, into = self._log_z.new_zeros(len(self)), None
        for (states, wanted, _), slope in zip(self._pairs, slopes, strict=False):
            if slope is not None:
                share.index_add_(0, states, slope)
                self._add_picked((states, wanted, slope), d_users, d_items)
        for (found, add), slope in zip(self._dense, slopes[len(self._pairs) :], strict=True):
            if slope is not None:
                into = torch.zeros_like(self.p, dtype=share.dtype) if into is None else into
                add(into, slope)
                share += slope.sum(dim=1) if found.ndim > 1 else slope * found.detach()
        self._add_products(share[:, None], into, d_users, d_items)

    def _add_picked(
        self, pairs: tuple[Tensor, Tensor, Tensor], d_users: Tensor, d_items: Tensor
    ) -> None:
        states, wanted, slope = pairs
        items, scale = self._catalogue.items, 1 / self._catalogue.temperature
        slope = slope.to(items.dtype)
        add_segment_sums(d_users, states, scale * slope, items, wanted)
        wanted, order = wanted.sort(stable=True)
        add_segment_sums(d_items, wanted, slope[order], self._users, states[order])

    def _add_products(
        self, share: Tensor, into: Tensor | None, d_users: Tensor, d_items: Tensor
    ) -> None:
        catalogue = self._catalogue
        if into is None:  # a row's share scales its state: p itself is multiplied as it is
            matrix, left = self.p, -share
            right = (-share * self._users).to(catalogue.product)
        else:
            matrix = into.sub_(self.p.to(into.dtype, copy=True).mul_(share)).to(catalogue.product)
            left, right = torch.ones_like(share), self._cast
        d_users += (matrix @ catalogue.cast) * (left / catalogue.temperature)
        d_items += matrix.T @ right

    def _over_all(self, sums: Tensor) -> Tensor:
        """Return sums over the whole catalogue, given those over the items that are here."""
        return sums

    def _log_normaliser(self) -> Tensor:
        """Return log Z, of which softmax keeps silent: logit - log p for each and every item.

        p is rounded; over some items the error averages out (1e-4 in bfloat16).
        """
        real = torch.promote_types(self.p.dtype, torch.float32)
        p, logits = self.p[:, :_PROBES].to(real), self._logits[:, :_PROBES].to(real)
        known = p > _LEAST_P
        gaps = torch.where(known, logits - p.log(), 0).sum(dim=1)
        log_z = gaps / known.sum(dim=1)
        hidden = torch.nonzero(~known.any(dim=1))[:, 0]
        if len(hidden):
            log_z[hidden] = self._logits[hidden].to(real).logsumexp(dim=1)
            empty = hidden[log_z[hidden] == -torch.inf]  # nothing may be shown: p is NaN
            self.p[empty], log_z[empty] = 0, 0
        return log_z


def _arrivals(p: Tensor, generator: torch.Generator) -> Tensor:
    """Return the inverse arrival times of a race in which each item runs at rate p, in its room."""
    rand = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=p.device)
    return p.div_((1 - rand).log_().neg_().clamp_(min=1e-37))  # 1 - rand is never 0


class Catalogue:
    """The items a softmax runs over, and room for one block.

    Args:
        items: float[I, D].
        n_states: number of states that will be asked for.
        temperature: divides the scores.
        seen: masked (state, item) pairs, sorted by state.
        bias: float[I] added to the scores over temperature: the log of how many items each one
            stands for, where the items are a sample (0 for what stands for itself).
        exact_products: never in bfloat16. It rounds a score by up to 1/512 of itself: nothing for
            one policy, too much for the difference of two that are close.
    """

    def __init__(
        self,
        items: Tensor,
        n_states: int,
        *,
        temperature: float = 1.0,
        seen: Seen | None = None,
        bias: Tensor | None = None,
        exact_products: bool = False,
    ) -> None:
        self.items, self.temperature, self.seen = items.detach(), temperature, seen
        self.bias = bias
        self.product = items.dtype if exact_products else product_dtype(items)
        self.cast = self.items.to(self.product)
        kind = items.device.type
        fitting = _LOGITS.get(kind, 2**24) // max(1, len(items))
        most = min(_STATES.get(kind, 512), max(_LEAST_STATES, fitting))
        n_blocks = max(1, -(-n_states // most))
        self.block_size = max(1, -(-n_states // n_blocks))  # all alike: no last block of a few
        self._kept = tuple(_take(self.cast, self.block_size * len(items)) for _ in range(2))
        shape = (self.block_size, len(items))
        self.rooms = tuple(room[: math.prod(shape)].view(shape) for room in self._kept)

    def __del__(self) -> None:
        """Leave the rooms to the next catalogue of the same size."""
        _ROOMS.extend(getattr(self, "_kept", ())[: max(0, _MOST_ROOMS - len(_ROOMS))])

    def states(self, users: Tensor) -> Tensor:
        """Return the states as a loss of this catalogue takes them."""
        return users

    def block(self, users: Tensor, which: slice) -> Block:
        """Return the policy of the states `which`; it is valid until the next one is asked for.

        Args:
            users: float[b, D] those states.
            which: where they stand among all states.
        """
        seen = self.seen and self.seen.between(which.start, which.stop)
        return Block(self, users.detach(), which, seen)

    def blocks(self, users: Tensor) -> Iterator[Block]:
        """Yield all states block by block."""
        for start in range(0, len(users), self.block_size):
            which = slice(start, min(start + self.block_size, len(users)))
            yield self.block(users[which], which)


_ROOMS: list[Tensor] = []
_MOST_ROOMS = 4
"""Two catalogues' worth: a policy and its reference."""


def _take(like: Tensor, count: int) -> Tensor:
    """Return uninitialised memory, used before if possible: fresh pages cost like a product."""
    for place, room in enumerate(_ROOMS):
        fits = count <= len(room) <= 2 * count
        if fits and (room.dtype, room.device) == (like.dtype, like.device):
            return _ROOMS.pop(place)
    _ROOMS.clear()  # sizes have changed
    return like.new_empty(count + count // 8)  # batches differ a little in their states


def softmax_loss(
    users: Tensor,
    items: Tensor,
    loss: Callable[[Block], Tensor],
    catalogue: Catalogue | None = None,
) -> Tensor:
    """Sum a loss of log-probabilities over all states without ever holding states × items.

    Args:
        users: float[B, D] state vectors.
        items: float[I, D] item vectors.
        loss: loss of a block, summed over its states.
        catalogue: of these items for these states; without one nothing is masked, at temperature 1.

    Returns:
        float[] the sum, differentiable with respect to `users` and `items`.
    """
    catalogue = catalogue or Catalogue(items, len(users))
    states = catalogue.states(users)
    total: Tensor = _SoftmaxLoss.apply(states, items, catalogue, loss)  # type: ignore[no-untyped-call]
    return total


def product_dtype(vectors: Tensor) -> torch.dtype:
    """Return what the products with these items are computed in.

    bfloat16 for float32 vectors of a catalogue of some size, where it is faster; else their own.
    """
    if vectors.dtype != torch.float32 or len(vectors) < _SMALL:
        return vectors.dtype
    if vectors.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = vectors.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        users: Tensor,
        items: Tensor,
        catalogue: Catalogue,
        loss: Callable[[Block], Tensor],
    ) -> Tensor:
        total = users.new_zeros(())
        d_users, d_items = torch.zeros_like(users), torch.zeros_like(items)
        for block in catalogue.blocks(users):
            with torch.enable_grad():
                value = loss(block)
            total += value.detach()
            if any(ctx.needs_input_grad[:2]):  # type: ignore[attr-defined]
                block.backward(value, d_users[block.which], d_items)
        ctx.gradients = (d_users, d_items)  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        users, items = ctx.gradients  # type: ignore[attr-defined]
        return users * upstream, items * upstream, None, None
