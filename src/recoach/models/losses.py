"""Supervised losses as pure functions of vectors."""

import torch
from torch import Tensor
from torch.nn import functional

from recoach import distributed
from recoach.models.sharded_softmax import ShardedCatalogue
from recoach.models.softmax import Block, product_dtype, softmax_loss


def cross_entropy(
    users: Tensor, items: Tensor, targets: Tensor, first_item: int | None = None
) -> Tensor:
    """Return the mean cross-entropy of the targets under a softmax over the whole catalogue.

    Args:
        users: float[B, D].
        items: float[I, D], or some rows of it.
        targets: int64[B].
        first_item: the first row's number where others have the rest; None for all of them.
    """

    def loss(block: Block) -> Tensor:
        states = torch.arange(len(block), device=users.device)
        return -block.log_p(states, targets[block.which]).sum()

    catalogue = (
        None if first_item is None else ShardedCatalogue(items, len(users), start=first_item)
    )
    return softmax_loss(users, items, loss, catalogue) / distributed.data_sum(len(users))


def binary_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Return SASRec's original loss: logistic on the target and on its negatives.

    Args:
        positive: float[B] scores of the targets.
        negative: float[B, N] scores of items never taken.
    """
    each = functional.softplus(-positive) + functional.softplus(negative).sum(dim=1)
    return distributed.mean_contribution(each)


def sampled_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Return cross-entropy against sampled negatives, without correction (Klenitskiy 2023).

    Args:
        positive: float[B] scores of the targets.
        negative: float[B, N] scores of items never taken.
    """
    logits = torch.cat([positive[:, None], negative], dim=1)
    return distributed.mean_contribution(logits.logsumexp(dim=1) - positive)


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the Bayesian personalised ranking loss, -log sigmoid of the margin.

    Args:
        positive: float[B] scores of the items taken.
        negative: float[B] scores of items not taken.
    """
    return distributed.mean_contribution(functional.softplus(negative - positive))


def alignment(left: Tensor, right: Tensor) -> Tensor:
    """Return the mean squared distance of paired unit vectors, 2 - 2 cos (DirectAU).

    Args:
        left: float[B, D], any length.
        right: float[B, D], any length.
    """
    cosine = functional.cosine_similarity(left, right, dim=1)
    return distributed.mean_contribution(2 - 2 * cosine)


def uniformity(vectors: Tensor) -> Tensor:
    """Return log of the mean of exp(-2 d²) over all unordered pairs of unit vectors.

    Args:
        vectors: float[B, D], any length. Fewer than two have no pair: the loss is 0.
    """
    vectors = distributed.all_gather_with_grad(vectors)
    if len(vectors) < 2:
        return vectors.sum() * 0.0
    loss: Tensor = _Uniformity.apply(functional.normalize(vectors, dim=1))  # type: ignore[no-untyped-call]
    return distributed.scale_replicated(loss)


def cross_uniformity(left: Tensor, right: Tensor, shift: int) -> Tensor:
    """Return log of the mean of exp(-2 d²) between each row and another's partner (GSAU).

    Args:
        left: float[B, D], any length.
        right: float[B, D], any length.
        shift: rotation that pairs row b with row b + shift; 1..B-1, so no row meets its own.
    """
    left, right = distributed.all_gather_with_grad(left), distributed.all_gather_with_grad(right)
    if len(left) < 2:
        return left.sum() * 0.0
    cosine = functional.cosine_similarity(left, right.roll(shift, dims=0), dim=1)
    return distributed.scale_replicated((4 * cosine - 4).exp().mean().log())


class _Uniformity(torch.autograd.Function):
    """The kernel of all pairs is symmetric: its product with the vectors is all of the gradient.

    Both products are those of the catalogue softmax, in bfloat16 where that is faster, and the
    pairs are gone when the forward pass ends.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, unit: Tensor) -> Tensor:
        cast, count = unit.to(product_dtype(unit)), len(unit)
        # d² = 2 - 2 cos, so that the kernel is exp(4 cos - 4); nobody is a pair with themselves.
        kernel = torch.addmm(cast.new_tensor(-4.0), cast, cast.T, alpha=4).exp_()
        kernel.fill_diagonal_(0)
        total = kernel.sum(dtype=unit.dtype)
        ctx.gradient = (kernel @ cast).to(unit.dtype) * (8 / total)  # type: ignore[attr-defined]
        return (total / (count * (count - 1))).log()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:
        gradient: Tensor = ctx.gradient * upstream  # type: ignore[attr-defined]
        return gradient
