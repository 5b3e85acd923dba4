"""The session view of COTREC and the two terms that train it together with the item view.

The terms are means over the states of a batch; under torchrun
each process forms them from its own part of the batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach import distributed
from recoach.data.transfer import to_device
from recoach.models.distribution import Workspace
from recoach.models.losses import cross_entropy
from recoach.models.products import aligned_cast, product_dtype
from recoach.models.segments import segment_mean
from recoach.models.session.graph import SessionGraph
from recoach.models.unit_rows import unit_rows

_POSITIVES = 10
_NEGATIVES = 10
_BEST = 0.1
"""The part of the other items, best scores first, from which negatives are drawn."""
_CANDIDATES = 1024
"""Items of a large catalogue among which negatives are searched in a step."""
_TEMPERATURE = 0.2
_STATES = 128
"""States whose scores of all items are held at the same time: 22 MB for 43,000 items."""


class SessionView(nn.Module):
    """A graph network over the states of a batch, joined where they share items.

    Args:
        dim: dimension of the item embeddings.
        layers: number of layers, each a linear map and a weighted mean over the neighbours.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(layers))

    def forward(self, items: Tensor, graph: SessionGraph, rows: Tensor) -> Tensor:
        """Return float[B, D], the vectors of the states in this view.

        Args:
            items: float[I, D] item embeddings, not propagated.
            graph: B states.
            rows: int64[B], the history of each state.
        """
        vectors = functional.embedding(graph.node_items[graph.nodes], items)
        layer = segment_mean(vectors, graph.states, graph.n_states)
        weights = line_graph(graph, rows).to(layer.dtype)
        total = layer
        for linear in self.maps:
            layer = weights @ linear(layer)
            total = total + unit_rows(layer)
        return total / (len(self.maps) + 1)


class DistinctItems(NamedTuple):
    """The distinct items of the nodes of a batch."""

    columns: Tensor
    """int64[N], the place of the item of each node among them."""
    n_items: int

    def to(self, device: torch.device) -> "DistinctItems":
        """Return the same items on a device."""
        return DistinctItems(to_device(self.columns, device), self.n_items)


def distinct_items(graph: SessionGraph) -> DistinctItems:
    """Return the distinct items of session graphs."""
    items, columns = torch.unique(graph.node_items, return_inverse=True)
    return DistinctItems(columns, len(items))


def line_graph(graph: SessionGraph, rows: Tensor) -> Tensor:
    """Return float[B, B], the weights of the states of a batch as neighbours; rows sum to 1.

    The weight of two states is their number of shared items divided by that of the items of both,
    that of a state and itself is 1, and rows are divided by their sums. States of one history are
    not neighbours: the longer one holds the target of the shorter one.

    Args:
        graph: B states.
        rows: int64[B], the history of each state.
    """
    plan = graph.plan if isinstance(graph.plan, DistinctItems) else distinct_items(graph)
    contains = torch.zeros(graph.n_states, plan.n_items, device=rows.device)
    contains[graph.node_states, plan.columns] = 1
    shared = contains @ contains.T
    sizes = shared.diagonal()
    union = sizes[:, None] + sizes - shared
    weights = shared / union.clamp(min=1)
    weights = weights.masked_fill(rows[:, None] == rows, 0).fill_diagonal_(1)
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def propose(
    users: Tensor, items: Tensor, candidates: Tensor, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the items that one view proposes for contrast in the other.

    Args:
        users: float[B, D] states of the proposing view.
        items: float[I, D].
        candidates: int64[C] items among which negatives are searched, see `draw_proposals`.
        draws: int64[B, 10] ranks of the negatives among the best of them.

    Returns:
        int64[B, 10] items with the highest scores, fewer in a small catalogue, and int64[B, 10]
        drawn from the best tenth of the others. Of a large catalogue that is the best tenth of some
        random items, which need not be sorted with all others.
    """
    n_items = len(items)
    n_positives = max(1, min(_POSITIVES, n_items // 2))
    parts = torch.split(users, _STATES)
    positives = torch.cat([(part @ items.T).topk(n_positives, dim=1).indices for part in parts])
    is_positive = (candidates == positives[:, :, None]).any(dim=1)
    scores = (users @ items[candidates].T).masked_fill(is_positive, -torch.inf)
    best = scores.topk(_n_best(n_items, len(candidates)), dim=1).indices
    return positives, candidates[best.gather(1, draws)]


def draw_proposals(
    n_states: int, n_items: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the candidates and the ranks that `propose` takes, on the host.

    Args:
        n_states: B.
        n_items: size of the catalogue.
        generator: on the CPU.
    """
    candidates = torch.arange(n_items)
    if n_items > _CANDIDATES:
        candidates = torch.randint(n_items, (_CANDIDATES,), generator=generator)
    n_best = _n_best(n_items, len(candidates))
    return candidates, torch.randint(n_best, (n_states, _NEGATIVES), generator=generator)


def _n_best(n_items: int, n_candidates: int) -> int:
    """Return the number of candidates with the highest scores from which negatives are drawn."""
    n_positives = max(1, min(_POSITIVES, n_items // 2))
    count = max(n_positives, round(_BEST * (n_candidates - n_positives)))
    return min(count, n_candidates)


def unit_rows_of(items: Tensor, *numbers: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the unit vectors of some items, and the rows where they are found.

    All are looked up at once, because the gradient of each lookup is as large as the table.

    Args:
        items: float[I, D].
        numbers: of items, int64 tensors of any shape.

    Returns:
        float[N, D], and for each of `numbers` int64 row numbers in its shape.
    """
    rows = unit_rows(functional.embedding(torch.cat([part.flatten() for part in numbers]), items))
    places = torch.arange(len(rows), device=rows.device)
    parts = torch.split(places, [part.numel() for part in numbers])
    return rows, [part.view_as(like) for part, like in zip(parts, numbers, strict=True)]


def contrast(users: Tensor, last: Tensor, items: Tensor, proposed: tuple[Tensor, Tensor]) -> Tensor:
    """Return float[B], InfoNCE between the last item and the proposed items.

    Each item is added to its state, and the sums are compared by their cosine.

    Args:
        users: float[B, D] states, of unit length.
        last: float[B, D] vector of each state's last item, of unit length.
        items: float[I, D], of unit length.
        proposed: int64[B, P] positives and int64[B, N] negatives, see `propose`.
    """
    anchors = unit_rows(last + users)
    candidates = items[torch.cat(proposed, dim=1)] + users[:, None]
    cosines = functional.normalize(candidates, dim=2) @ anchors[:, :, None]
    logits = cosines[:, :, 0] / _TEMPERATURE
    return logits.logsumexp(dim=1) - logits[:, : proposed[0].shape[1]].logsumexp(dim=1)


def adversary(
    users: Tensor, items: Tensor, targets: Tensor, size: float, workspace: Workspace
) -> Tensor:
    """Return float[I, D], the perturbation of the items that raises a view's loss most.

    It is the gradient of the cross-entropy with respect to the item vectors, where each row is
    scaled to a length (fast gradient method, Goodfellow et al. 2015).

    Args:
        users: float[B, D] states of the view.
        items: float[I, D].
        targets: int64[B].
        size: length of each row.
        workspace: memory for the softmax.
    """
    with torch.enable_grad():
        leaf = items.detach().requires_grad_()
        loss = cross_entropy(users.detach(), leaf, targets, workspace=workspace)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return size * unit_rows(gradient)


def divergence(users: Tensor, items: Tensor, perturbation: Tensor) -> Tensor:
    """Return the mean KL divergence from the policy to that over perturbed items.

    Both policies get gradients.

    Args:
        users: float[B, D] states.
        items: float[I, D].
        perturbation: float[I, D], without gradient.
    """
    total: Tensor = _Divergence.apply(users, items, perturbation)  # type: ignore[no-untyped-call]
    return total / distributed.data_sum(len(users))


class _Divergence(torch.autograd.Function):
    """The sum of KL(p || q) over states; the gradient is computed with it, some states at a time.

    With scores s of the items and t of their perturbations, q = p exp(t) / Z and
    KL = log Z - E_p[t]; d KL / dt = q - p and d KL / ds = q - p - p (t - E_p[t]). Products are in
    bfloat16 as in the softmax over all items: the divergence depends on t, not on a difference of
    two rounded scores.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        users: Tensor,
        items: Tensor,
        perturbation: Tensor,
    ) -> Tensor:
        product, total = product_dtype(items), users.new_zeros(())
        n_items = len(items)
        cast_items = aligned_cast(items, product)
        cast_perturbation = aligned_cast(perturbation, product)
        d_users, d_items = torch.zeros_like(users), torch.zeros_like(items)
        for part, d_part in zip(
            torch.split(users, _STATES), torch.split(d_users, _STATES), strict=True
        ):
            cast = part.to(product)
            scores = cast @ cast_items.T
            scores[:, n_items:] = -torch.inf  # padding
            p = torch.softmax(scores, dim=1, dtype=users.dtype)
            shift = (cast @ cast_perturbation.T).to(users.dtype)
            mean = (p * shift).sum(dim=1, keepdim=True)
            q = p * (shift - mean).exp_()
            z = q.sum(dim=1, keepdim=True)
            total += z.log().sum()
            d_shift = q.div_(z).sub_(p).to(product)
            d_scores = p.mul_(shift.sub_(mean)).neg_().add_(d_shift).to(product)
            d_part.add_(d_scores @ cast_items).add_(d_shift @ cast_perturbation)
            d_items += (d_scores.T @ cast)[:n_items]
        ctx.save_for_backward(d_users, d_items)
        return total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        d_users, d_items = ctx.saved_tensors  # type: ignore[attr-defined]
        return d_users.mul_(upstream), d_items.mul_(upstream), None
