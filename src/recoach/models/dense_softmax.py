"""The softmax over the catalogue for any model that scores, by autograd and recomputation.

A block's logits are computed without a graph, chunk of items by chunk of items; the loss of the
block gives their gradient; then each chunk is scored once more, with a graph, to carry that
gradient into the weights (gradient caching, Gao et al. 2021). Memory holds the logits of one block
and what `score` keeps for one chunk, whatever the catalogue; a step costs two forward passes and
one backward pass of the model.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from recoach.data.queries import Queries
from recoach.models.base import Recommender
from recoach.models.distribution import Block, BlockLoss, Distribution

_LOGITS = 2**22
"""Logits of a block, 16 MiB in float32."""


def score_chunks(
    model: Recommender, queries: Queries, items: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (columns, scores float[B, c]) of all items, or of candidates, a chunk at a time.

    Args:
        model: any recommender.
        queries: B states.
        items: int64[C] candidates; None scores the catalogue.
    """
    count = model.n_items if items is None else len(items)
    width = max(1, model.scores_at_once // max(1, len(queries)))
    if items is None and width >= count:
        yield slice(0, count), model.score(queries)
        return
    every = torch.arange(count, device=queries.rows.device) if items is None else items
    for start in range(0, count, width):
        columns = slice(start, min(start + width, count))
        yield columns, model.score(queries, every[columns])


@torch.no_grad()
def catalogue_scores(model: Recommender, queries: Queries, items: Tensor | None = None) -> Tensor:
    """Return float[B, I] or float[B, C], the scores without a graph; memory holds one chunk."""
    return torch.cat([scores for _, scores in score_chunks(model, queries, items)], dim=1)


class DenseBlock(Block):
    """A block whose log-probabilities are a matrix of autograd."""

    def __init__(self, distribution: "DenseDistribution", logits: Tensor, which: slice) -> None:
        self.which = which
        self._bias = distribution.bias
        self.covers_all = len(logits) == len(distribution)
        seen = distribution.queries.seen
        if seen is not None:
            seen = seen if self.covers_all else seen.between(which.start, which.stop)
            minus_infinity = logits.new_full((), -torch.inf)
            logits = logits.index_put((seen.states, seen.items), minus_infinity)
        empty = (logits.detach() == -torch.inf).all(dim=1, keepdim=True)
        # Where every item is masked the softmax is NaN; there p is 0 and log p is -inf.
        log_p = logits.masked_fill(empty, 0.0).log_softmax(dim=1)
        self._log_p = log_p.masked_fill(empty, -torch.inf)
        self._p = self._log_p.detach().exp()

    @property
    def p(self) -> Tensor:
        """float[b, I] probabilities, see `Block`."""
        return self._p

    def log_p(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float[n], the log-probabilities of pairs, see `Block`."""
        return self._log_p[states, items]

    def log_p_of(self, items: Tensor) -> Tensor:
        """Return float[b, G], the log-probabilities of G items of each state, see `Block`."""
        return self._log_p.gather(1, items)

    def kl(self, other: "DenseBlock") -> Tensor:
        """Return float[b], KL(this || other) of each state, see `Block`."""
        gap = self._finite(self._log_p) - self._finite(other._log_p.detach())
        return (self._log_p.exp() * gap).sum(dim=1)

    def cross_entropy(self, other: "DenseBlock") -> Tensor:
        """Return float[b], the mean of -log p of this policy under the other, see `Block`."""
        log_p = self._log_p.masked_fill(self._log_p == -torch.inf, 0.0)
        return -(other.p * log_p).sum(dim=1)

    def expectation(self, values: Tensor) -> Tensor:
        """Return float[b], the mean of a value of items under each policy, see `Block`."""
        return (self._log_p.exp() * values).sum(dim=1)

    def mean_log_p(self) -> Tensor:
        """Return float[b], the mean of log p over the items that are not masked, see `Block`."""
        is_shown = self._log_p.detach() > -torch.inf
        total = self._log_p.masked_fill(~is_shown, 0.0).sum(dim=1)
        return total / is_shown.sum(dim=1).clamp(min=1)

    def entropies(self) -> Tensor:
        """Return float[b], the entropy of each state's policy."""
        log_p = self._log_p if self._bias is None else self._log_p - self._bias
        return -(self._log_p.exp() * self._finite(log_p)).sum(dim=1)

    def entropy(self, states: int) -> Tensor:
        """Return float[n], the entropies of the first `states` states, without gradient."""
        return self.entropies()[:states].detach()

    def _finite(self, log_p: Tensor) -> Tensor:
        return log_p.masked_fill(self.p == 0, 0.0)


class DenseDistribution(Distribution):
    """softmax(score / temperature + bias) of any recommender, with masked items.

    Args:
        model: any recommender; the loss is differentiable with respect to its weights.
        queries: B states; their seen items are masked, numbered within `items` where given.
        items: int64[C] candidates that replace the catalogue; None for all of it.
        temperature: divides the scores.
        bias: float[C], see `BlockwiseDistribution`.
        dropout_seed: seeds the global random state before each call of a model in training mode,
            so that both passes, and all policies that share the seed, have the same dropout masks;
            None draws a seed from the global random state. All chunks of a block have the same
            masks, wherever `score` drops elements of tensors of the same shape.
    """

    def __init__(
        self,
        model: Recommender,
        queries: Queries,
        *,
        items: Tensor | None = None,
        temperature: float = 1.0,
        bias: Tensor | None = None,
        dropout_seed: int | None = None,
    ) -> None:
        self.model, self.queries, self.items = model, queries, items
        self.temperature, self.bias = temperature, bias
        if dropout_seed is None and model.training:
            dropout_seed = int(torch.randint(2**62, ()))
        self._seed = dropout_seed if model.training else None
        n_items = model.n_items if items is None else len(items)
        self.block_size = max(1, _LOGITS // max(1, n_items))

    def __len__(self) -> int:
        return len(self.queries)

    def blocks(self) -> Iterator[DenseBlock]:
        """Yield all states block by block, without gradients, see `Distribution`."""
        for which, states in self._state_blocks():
            with torch.no_grad():  # not while suspended: the caller has its own gradient mode
                block = DenseBlock(self, self._logits(states), which)
            yield block

    def loss(self, block_loss: BlockLoss, *others: Distribution) -> Tensor:
        """Sum a loss of log-probabilities over all states, see `Distribution`."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        total: Tensor = _DenseLoss.apply(self, block_loss, others, *weights)  # type: ignore[no-untyped-call]
        return total

    def _state_blocks(self) -> Iterator[tuple[slice, Queries]]:
        for start in range(0, len(self.queries), self.block_size):
            which = slice(start, min(start + self.block_size, len(self.queries)))
            yield which, self.queries.select(which)

    def _logits(self, states: Queries) -> Tensor:
        parts = [scores for _, scores in self._chunks(states)]
        logits = torch.cat(parts, dim=1).div_(self.temperature)
        return logits if self.bias is None else logits.add_(self.bias)

    def _chunks(self, states: Queries) -> Iterator[tuple[slice, Tensor]]:
        """Yield the scores of all chunks, each under the same dropout masks."""
        self._reset_dropout()
        for chunk in score_chunks(self.model, states, self.items):
            yield chunk
            self._reset_dropout()

    def _reset_dropout(self) -> None:
        if self._seed is not None:
            torch.manual_seed(self._seed)


class _DenseLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        distribution: DenseDistribution,
        block_loss: BlockLoss,
        others: tuple[Distribution, ...],
        *weights: Tensor,
    ) -> Tensor:
        gradients = [torch.zeros_like(weight) for weight in weights]
        total = torch.zeros((), device=distribution.queries.rows.device)
        for (which, states), *other_blocks in zip(
            distribution._state_blocks(), *(other.blocks() for other in others), strict=True
        ):
            logits = distribution._logits(states).requires_grad_()
            with torch.enable_grad():
                value = block_loss(DenseBlock(distribution, logits, which), *other_blocks)
            total = total + value.detach()
            if weights and value.requires_grad:
                (slope,) = torch.autograd.grad(value, logits, allow_unused=True)
                if slope is not None:
                    slope = slope / distribution.temperature
                    _add_gradients(distribution, states, slope, weights, gradients)
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients = [gradient * upstream for gradient in ctx.gradients]  # type: ignore[attr-defined]
        return None, None, None, *gradients


def _add_gradients(
    distribution: DenseDistribution,
    states: Queries,
    slope: Tensor,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
) -> None:
    """Score a block's states once more, with a graph, and add the gradients of the weights.

    Args:
        distribution: scores the chunks.
        states: the block's states.
        slope: float[b, I] gradient of the loss with respect to the scores.
        weights: what the model's scores are computed from.
        gradients: changed in place.
    """
    with torch.enable_grad():
        for columns, scores in distribution._chunks(states):
            if not scores.requires_grad:  # the scores do not depend on the trained weights
                continue
            parts = torch.autograd.grad(scores, weights, slope[:, columns], allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                if part is not None:
                    gradient.add_(part)
