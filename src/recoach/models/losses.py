"""Supervised losses as pure functions of vectors and scores.

Under torchrun each data-parallel rank returns its contribution; their sum is the loss.
"""

import torch
from torch import Tensor
from torch.nn import functional

from recoach import distributed
from recoach.models.base import Embeddings
from recoach.models.distribution import Block, Workspace
from recoach.models.products import product_dtype
from recoach.models.sharded_softmax import distribution_over_items


def cross_entropy(
    users: Tensor,
    items: Tensor,
    targets: Tensor,
    first_item: int | None = None,
    workspace: Workspace | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of the targets under the softmax over all items.

    Args:
        users: float[B, D].
        items: float[I, D]; only this rank's rows where the item embedding is sharded.
        targets: int64[B].
        first_item: item index of the first row of `items` where they are sharded; None where
            `items` has all rows.
        workspace: memory for the blocks of logits; a new one where None.
        weights: float[B] weights of the states, whose mean is 1 (`Batch.weights`); None for 1.
    """

    def loss(block: Block) -> Tensor:
        states = torch.arange(len(block), device=users.device)
        log_p = block.log_p(states, targets[block.which])
        return -(log_p if weights is None else weights[block.which] * log_p).sum()

    vectors = Embeddings(users, items)
    distribution = distribution_over_items(vectors, first_item)(vectors, workspace=workspace)
    return distribution.loss(loss) / distributed.data_sum(len(users))


def binary_cross_entropy(
    positive: Tensor, negative: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return binary cross-entropy of targets and negatives (SASRec, Kang & McAuley 2018).

    Args:
        positive: float[B] scores of the targets.
        negative: float[B, N] scores of negative items.
        weights: of the states, see `cross_entropy`.
    """
    losses = functional.softplus(-positive) + functional.softplus(negative).sum(dim=1)
    return _mean(losses, weights)


def sampled_cross_entropy(
    positive: Tensor, negative: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return cross-entropy over the target and sampled negatives, uncorrected (Klenitskiy 2023).

    Args:
        positive: float[B] scores of the targets.
        negative: float[B, N] scores of negative items.
        weights: of the states, see `cross_entropy`.
    """
    losses: Tensor = _SampledCrossEntropy.apply(positive, negative)  # type: ignore[no-untyped-call]
    return _mean(losses, weights)


def bpr(positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the BPR loss -log sigmoid(positive - negative) (Rendle et al. 2009).

    Args:
        positive: float[B] scores of positive items.
        negative: float[B] scores of negative items.
        weights: of the states, see `cross_entropy`.
    """
    return _mean(functional.softplus(negative - positive), weights)


def bpr_max(
    positive: Tensor, negative: Tensor, regularisation: float, weights: Tensor | None = None
) -> Tensor:
    """Return the BPR-max loss (Hidasi & Karatzoglou 2018).

    -log sum_j s_j sigmoid(positive - negative_j) + regularisation * sum_j s_j negative_j², with s
    the softmax over the negatives, averaged over states.

    Args:
        positive: float[B] scores of the targets.
        negative: float[B, N] scores of negative items; -inf for one that is left out. Each state
            needs one that is not.
        regularisation: weight of the squared scores.
        weights: of the states, see `cross_entropy`.

    Departure from the official code: the logarithm of the sum is computed from logarithms, so that
    nothing is added to the sum for the case that it is 0.
    """
    losses: Tensor = _BPRMax.apply(positive, negative, regularisation)  # type: ignore[no-untyped-call]
    return _mean(losses, weights)


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean loss of the states, with weights whose mean is 1."""
    return distributed.mean_contribution(losses if weights is None else weights * losses)


def alignment(left: Tensor, right: Tensor) -> Tensor:
    """Return the mean squared distance of paired vectors after normalisation, 2 - 2 cos (DirectAU).

    Args:
        left: float[B, D], normalised here.
        right: float[B, D], normalised here.
    """
    cosine = functional.cosine_similarity(left, right, dim=1)
    return distributed.mean_contribution(2 - 2 * cosine)


def uniformity(vectors: Tensor) -> Tensor:
    """Return log of the mean of exp(-2 d²) over all unordered pairs of vectors (DirectAU).

    Args:
        vectors: float[B, D], normalised here. With fewer than two vectors there is no pair and
            the loss is 0.
    """
    vectors = distributed.all_gather_with_grad(vectors)
    if len(vectors) < 2:
        return vectors.sum() * 0.0
    loss: Tensor = _Uniformity.apply(functional.normalize(vectors, dim=1))  # type: ignore[no-untyped-call]
    return distributed.scale_replicated(loss)


def cross_uniformity(left: Tensor, right: Tensor, shift: int) -> Tensor:
    """Return log of the mean of exp(-2 d²) between rows that do not belong together (GSAU).

    Args:
        left: float[B, D], normalised here.
        right: float[B, D], normalised here.
        shift: in 1..B-1; `right` is rolled by it, so that no row is paired with its partner.
    """
    left, right = distributed.all_gather_with_grad(left), distributed.all_gather_with_grad(right)
    if len(left) < 2:
        return left.sum() * 0.0
    cosine = functional.cosine_similarity(left, right.roll(shift, dims=0), dim=1)
    return distributed.scale_replicated((4 * cosine - 4).exp().mean().log())


class _SampledCrossEntropy(torch.autograd.Function):
    """Cross-entropy of each state; the forward pass keeps its gradient, the probabilities."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, positive: Tensor, negative: Tensor
    ) -> Tensor:
        top = torch.maximum(positive, negative.amax(dim=1))
        own, others = (positive - top).exp_(), (negative - top[:, None]).exp_()
        total = own + others.sum(dim=1)
        ctx.save_for_backward(own / total - 1, others.div_(total[:, None]))
        return total.log() + top - positive

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, Tensor]:
        d_positive, d_negative = ctx.saved_tensors  # type: ignore[attr-defined]
        return d_positive * upstream, d_negative * upstream[:, None]


class _BPRMax(torch.autograd.Function):
    """BPR-max of each state with the gradient computed in the forward pass.

    With weights s, wins w_j = sigmoid(positive - n_j), the sum W = sum_j s_j w_j and the penalty
    P = sum_j s_j n_j², the gradient is s_j - s_j w_j² / W + regularisation s_j (n_j² + 2 n_j - P)
    for n_j, and sum_j s_j w_j² / W - 1 for the target.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        positive: Tensor,
        negative: Tensor,
        regularisation: float,
    ) -> Tensor:
        log_weights = negative.log_softmax(dim=1)
        log_wins = functional.logsigmoid(positive[:, None] - negative)
        log_products = log_weights + log_wins
        log_sum = log_products.logsumexp(dim=1, keepdim=True)
        weights, shares = log_weights.exp_(), log_products.sub_(log_sum).add_(log_wins).exp_()
        scores = negative.masked_fill(negative == -torch.inf, 0)
        penalty = (weights * scores).mul_(scores).sum(dim=1, keepdim=True)
        slopes = scores.add(2).mul_(scores).sub_(penalty).mul_(regularisation).add_(1)
        slopes = slopes.mul_(weights).sub_(shares)
        ctx.save_for_backward(shares.sum(dim=1) - 1, slopes)
        return (regularisation * penalty - log_sum)[:, 0]

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        d_positive, d_negative = ctx.saved_tensors  # type: ignore[attr-defined]
        return d_positive * upstream, d_negative * upstream[:, None], None


class _Uniformity(torch.autograd.Function):
    """Uniformity with the gradient computed in the forward pass.

    The kernel matrix of all pairs is symmetric, so that its product with the vectors is the whole
    gradient, and the matrix need not be saved for the backward pass. Products are in bfloat16
    where that is faster, as in the softmax over all items.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, unit: Tensor) -> Tensor:
        cast, count = unit.to(product_dtype(unit)), len(unit)
        # d² = 2 - 2 cos, so that the kernel is exp(4 cos - 4); a vector is no pair with itself.
        kernel = torch.addmm(cast.new_tensor(-4.0), cast, cast.T, alpha=4).exp_()
        kernel.fill_diagonal_(0)
        total = kernel.sum(dtype=unit.dtype)
        ctx.gradient = (kernel @ cast).to(unit.dtype) * (8 / total)  # type: ignore[attr-defined]
        return (total / (count * (count - 1))).log()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:
        gradient: Tensor = ctx.gradient * upstream  # type: ignore[attr-defined]
        return gradient
