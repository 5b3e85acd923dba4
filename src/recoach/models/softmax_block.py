"""A block of the softmax over the catalogue: what losses ask for, and its gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recoach.data import transfer
from recoach.data.queries import Seen
from recoach.models.distribution import Block
from recoach.models.divergence import weigh_gaps
from recoach.models.products import Catalogue, padded_count
from recoach.models.segments import add_segment_sums

_PROBES = 128
_LEAST_P = 1e-30
"""Below it p may have lost digits to underflow."""


class _Softmax(NamedTuple):
    """The logits and probabilities of a block's states."""

    logits: Tensor
    """[b, I], -inf for masked items."""
    padded_p: Tensor
    """[b, R], 0 for masked items and in the padding."""
    log_z: Tensor
    """float[b], the log of the normaliser."""


class PairAnswer(NamedTuple):
    """The log-probabilities of pairs of states and items."""

    answer: Tensor
    """float[n], a leaf of autograd."""
    states: Tensor
    """int64[n]."""
    items: Tensor
    """int64[n]."""


class MatrixAnswer(NamedTuple):
    """An answer for each state, with a gradient that is a matrix times a number for each state."""

    answer: Tensor
    """float[b], a leaf of autograd."""
    matrix: Tensor
    """[b, R] in the dtype of the products: minus the gradient without its multiple of p."""
    multiple_of_p: Tensor
    """float[b], what times p is subtracted from the gradient."""


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
    gradients of states and items in closed form. The softmax is computed by the first answer that
    needs it: a reference that is only compared by `kl` has none.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        users: Tensor,
        which: slice,
        buffers: tuple[Tensor, Tensor],
    ) -> None:
        self.which, self._catalogue = which, catalogue
        self.covers_all = len(users) == catalogue.n_states
        self._users = users / catalogue.temperature
        self._buffers = [buffer[: len(users)] for buffer in buffers]
        self._computed: _Softmax | None = None
        self._answers: list[PairAnswer | MatrixAnswer | RowAnswer] = []

    def __len__(self) -> int:
        return len(self._users)

    @property
    def p(self) -> Tensor:
        """float[b, I] probabilities, see `Block`."""
        return self._softmax.padded_p[:, : len(self._catalogue.items)]

    @property
    def _logits(self) -> Tensor:
        return self._softmax.logits

    @property
    def _log_z(self) -> Tensor:
        return self._softmax.log_z

    @property
    def _masked(self) -> Seen | None:
        seen, which = self._catalogue.seen, self.which
        if seen is None or self.covers_all:
            return seen
        return seen.between(which.start, which.stop)

    @property
    def _softmax(self) -> _Softmax:
        # No cached_property: its lock cannot be traced by torch.compile.
        if self._computed is None:
            self._computed = self._compute()
        return self._computed

    def _compute(self) -> _Softmax:
        catalogue, masked = self._catalogue, self._masked
        n_items = len(catalogue.items)
        padded_p, padded_logits = self._take_buffer(), self._take_buffer()
        logits = padded_logits[:, :n_items]
        users = self._users.to(catalogue.product)
        torch.mm(users, catalogue.padded_cast.T, out=padded_logits)
        padded_logits[:, n_items:] = -torch.inf
        if catalogue.bias is not None:
            logits += catalogue.bias
        if masked is not None:
            logits[masked.states, masked.items] = -torch.inf
        torch.softmax(padded_logits, 1, out=padded_p)
        return _Softmax(logits, padded_p, self._log_normaliser(logits, padded_p))

    def _take_buffer(self) -> Tensor:
        """Return [b, R] of uninitialised memory that nothing else in this block uses."""
        if self._buffers:
            return self._buffers.pop()
        catalogue = self._catalogue
        shape = len(self), padded_count(len(catalogue.items), catalogue.product)
        return catalogue.items.new_empty(shape, dtype=catalogue.product)

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs, see `Block`."""
        log_p = (self._logits[states, items] - self._log_z[states]).clamp(max=0).requires_grad_()
        self._answers.append(PairAnswer(log_p, states, items))
        return log_p

    def log_p_of(self, items: Tensor) -> Tensor:
        """Return float[b, G], the log-probabilities of G items of each state, see `Block`."""
        logits = self._logits.gather(1, items).to(self._log_z.dtype)
        log_p = logits.sub_(self._log_z[:, None]).clamp_(max=0)
        self._answers.append(
            RowAnswer(
                log_p.requires_grad_(),
                lambda into, slope: into.scatter_add_(1, items, slope),
                lambda slope: slope.sum(dim=1),
            )
        )
        return log_p

    def kl(self, other: "BlockwiseBlock") -> Tensor:
        """Return float[b], KL(this || other) of each state, see `Block`."""
        catalogue, others = self._catalogue, other._catalogue
        # (u', i') of the other minus (u, i): (u' - u) · i + u' · (i' - i), each difference of
        # vectors rounded by a fraction of itself.
        users = torch.cat([other._users - self._users, other._users], dim=1)
        gaps = other._take_buffer()
        torch.mm(users.to(catalogue.product), catalogue.table_with_gaps(others).T, out=gaps)
        sums = weigh_gaps(gaps, self._softmax.padded_p)
        total = self._sum_over_catalogue(sums.p)
        total = total.where(total > 0, 1)  # every item is masked: the KL is 0
        mean = self._sum_over_catalogue(sums.gap) / total
        # In other processes `sums.gap` is another number.
        ratio = self._sum_over_catalogue((sums.gap - mean).exp() * sums.ratio - sums.p) / total
        kl = ratio.log1p().requires_grad_()
        # d KL / d logit = p (mean - g).
        self._answers.append(MatrixAnswer(kl, gaps, -mean))
        return kl

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
        self._answers.append(
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
        self._answers.append(
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
        if self._catalogue.bias is not None:
            log_p -= self._catalogue.bias
        # d H / d logit = p (-log p - H), as for the KL.
        return self._row_sum(log_p.masked_fill_(self.p == 0, 0).mul_(self.p).neg_())

    def entropy(self, states: int) -> Tensor:
        """Return float[n], the entropies of the first `states` states, without gradient."""
        logits, p = self._logits[:states].to(self._log_z.dtype), self.p[:states]
        bias = self._catalogue.bias
        logits = logits if bias is None else logits - bias
        mean = self._sum_over_catalogue((p * logits.masked_fill(p == 0, 0)).sum(dim=1))
        return self._log_z[:states] - mean

    @property
    def has_answers(self) -> bool:
        """Whether something was asked for that has a gradient."""
        return bool(self._answers)

    def backward(self, loss: Tensor, d_users: Tensor, d_items: Tensor | None) -> Tensor | None:
        """Add the loss's gradients to those of the block's states and of all items.

        Args:
            loss: a function of this block's answers.
            d_users: float[b, D], changed in place.
            d_items: float[I, D], changed in place; None before the first block that has a gradient.

        Returns:
            `d_items` with the gradient of this block.
        """
        if not loss.requires_grad:
            return d_items
        given = [answer.answer for answer in self._answers]
        slopes = torch.autograd.grad(loss, given, allow_unused=True)
        row_slope, into = self._log_z.new_zeros(len(self)), None
        for answer, slope in zip(self._answers, slopes, strict=True):
            if slope is None:
                continue
            if isinstance(answer, PairAnswer):
                row_slope.index_add_(0, answer.states, slope)
            elif isinstance(answer, MatrixAnswer):
                row_slope += slope * answer.multiple_of_p
                d_items = self._add_products(answer.matrix, -slope, d_users, d_items)
            else:
                into = torch.zeros_like(self.p, dtype=row_slope.dtype) if into is None else into
                answer.add(into, slope)
                row_slope += answer.multiple_of_p(slope)
        d_items = self._add_products(*self._rows_times_p(row_slope, into), d_users, d_items)
        for answer, slope in zip(self._answers, slopes, strict=True):
            if isinstance(answer, PairAnswer) and slope is not None:
                self._add_pairs((answer.states, answer.items, slope), d_users, d_items)
        return d_items

    def _rows_times_p(self, row_slope: Tensor, into: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return matrix and scale of `into` (changed in place) minus p times the rows' slope."""
        if into is None:  # a row's slope scales its state: p itself is multiplied as it is
            return self._softmax.padded_p, -row_slope
        into.sub_(self.p.to(into.dtype, copy=True).mul_(row_slope[:, None]))
        return into.to(self._catalogue.product), torch.ones_like(row_slope)

    def _row_sum(self, weighted: Tensor) -> Tensor:
        """Return the rows' sums as an answer whose gradient with respect to a logit is its term."""
        total = self._sum_over_catalogue(weighted.sum(dim=1)).requires_grad_()
        self._answers.append(
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
        vectors, scale = self._catalogue.items, 1 / self._catalogue.temperature
        slope = slope.to(vectors.dtype)
        add_segment_sums(d_users, states, scale * slope, vectors, items)
        # In int32, which sorts 2.7 times as fast as int64.
        order = items.int().argsort(stable=True)
        add_segment_sums(d_items, items[order], slope[order], self._users, states[order])

    def _add_products(
        self, matrix: Tensor, scale: Tensor, d_users: Tensor, d_items: Tensor | None
    ) -> Tensor:
        """Add the gradients of states and items, given that of the logits as scale times matrix.

        Args:
            matrix: [b, I] or [b, R] in the dtype of the products.
            scale: float[b].
            d_users: see `backward`.
            d_items: see `backward`.
        """
        catalogue, scale = self._catalogue, scale[:, None]
        cast = catalogue.padded_cast[: matrix.shape[1]]
        d_users += (matrix @ cast) * (scale / catalogue.temperature)
        product = matrix.T @ (scale * self._users).to(catalogue.product)
        n_items = len(catalogue.items)
        product = product[:n_items] if len(product) > n_items else product
        if d_items is None:
            return product.to(catalogue.items.dtype)
        return d_items.add_(product)

    def _sum_over_catalogue(self, sums: Tensor) -> Tensor:
        """Return sums over the whole catalogue, given those over the items of this process."""
        return sums

    def _log_normaliser(self, logits: Tensor, padded_p: Tensor) -> Tensor:
        """Recover log Z from `logit - log p`, averaged over a few items.

        p is rounded; the average over some items reduces the rounding error (1e-4 in bfloat16).
        """
        real = torch.promote_types(padded_p.dtype, torch.float32)
        p = padded_p[:, : min(_PROBES, logits.shape[1])].to(real)
        probes = logits[:, :_PROBES].to(real)
        usable = p > _LEAST_P
        gaps = torch.where(usable, probes - p.log(), 0).sum(dim=1)
        log_z = gaps / usable.sum(dim=1)
        if not transfer.is_read_free(log_z):
            return _with_whole_rows(_Softmax(logits, padded_p, log_z), usable.any(dim=1))
        without = torch.nonzero(~usable.any(dim=1))[:, 0]
        if len(without):
            log_z[without] = logits[without].to(real).logsumexp(dim=1)
            empty = without[log_z[without] == -torch.inf]  # every item is masked: p is NaN
            padded_p[empty], log_z[empty] = 0, 0
        return log_z


def _with_whole_rows(softmax: _Softmax, is_usable: Tensor) -> Tensor:
    """Return log Z, computed from whole rows where no probe is usable, in fixed shapes."""
    logits, padded_p, log_z = softmax
    largest = logits.amax(dim=1, keepdim=True)
    is_empty = largest == -torch.inf
    largest = largest.masked_fill(is_empty, 0)
    total = (logits - largest).exp_().sum(dim=1, dtype=log_z.dtype)
    whole = largest[:, 0].to(log_z.dtype) + total.log()
    padded_p.masked_fill_(is_empty, 0)
    return torch.where(is_usable, log_z, whole).masked_fill(is_empty[:, 0], 0)
