"""Losses of graph models, which learn from (user, item) pairs."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from recoach import distributed
from recoach.data.queries import Seen
from recoach.models.base import Embeddings, TrainingBatch, draw_negatives
from recoach.models.distribution import Block, Workspace
from recoach.models.losses import bpr
from recoach.models.popularity_sampler import PopularitySampler
from recoach.models.sharded_softmax import distribution_over_items

EdgeLoss = Literal["bpr", "ce", "sampled_ce"]
"""BPR with one uniform negative for each interaction, or cross-entropy over the catalogue, or over
a sample of it (`sample_items`)."""


class Edges(NamedTuple):
    """Interactions of a batch."""

    user_ids: Tensor
    """int64[B]."""
    item_ids: Tensor
    """int64[B], or int64[2 B]: the items, and then a negative item for each."""


def batch_edges(batch: TrainingBatch, model: str) -> Edges:
    """Return the interactions of a batch; ValueError if it has none."""
    queries, _, item_ids, _ = batch.part("edges", model)
    return Edges(queries.state_users, item_ids)


def with_negatives(
    edges: Edges, train_pairs: Tensor, n_items: int, generator: torch.Generator
) -> Edges:
    """Return the same interactions with one uniform negative for each (`draw_negatives`)."""
    negatives = draw_negatives(train_pairs, edges.user_ids, n_items, 1, generator)[:, 0]
    return Edges(edges.user_ids, torch.cat([edges.item_ids, negatives]))


def lookup(edges: Edges, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
    """Return the vectors of the users, the items and, if there are any, the negatives.

    Args:
        edges: of B interactions.
        users: float[U, D].
        items: float[I, D].

    Returns:
        Two or three times float[B, D].
    """
    # One lookup for both: the gradient of each lookup is as large as the table.
    vectors = items[edges.item_ids]
    n_parts = max(1, len(edges.item_ids) // max(1, len(edges.user_ids)))
    return users[edges.user_ids], *vectors.chunk(n_parts)


def distinct_rows(edges: Edges) -> tuple[tuple[Tensor, Tensor], Edges]:
    """Return the distinct users and items of a batch, and its edges with their positions there."""
    user_ids, users = torch.unique(edges.user_ids, return_inverse=True)
    item_ids, items = torch.unique(edges.item_ids, return_inverse=True)
    return (user_ids, item_ids), Edges(users, items)


def bpr_of_vectors(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the BPR loss of the dot products of vectors, each float[B, D]."""
    return bpr((users * positives).sum(dim=1), (users * negatives).sum(dim=1))


def half_squared_norm(vectors: tuple[Tensor, ...]) -> Tensor:
    """Return half the squared norm of vectors, each float[B, D], divided by B (He et al. 2020)."""
    norms = torch.stack([part.norm() for part in vectors])
    return norms.square().sum() / (2 * distributed.data_sum(len(vectors[0])))


class ItemSample(NamedTuple):
    """Items that stand for the catalogue in one step."""

    items: Tensor
    """int64[S], distinct, sorted."""
    log_weights: Tensor
    """float[S], minus the log of the probability that an item is in the sample."""


def sample_items(
    sampler: PopularitySampler, item_ids: Tensor, count: int, generator: torch.Generator
) -> ItemSample:
    """Sample the catalogue for a batch: the items of its interactions, and drawn ones.

    An item is weighted by the inverse of its probability of being in the sample, so that the sum
    over the sample estimates the sum over the catalogue (logQ correction).

    Args:
        sampler: draws the items.
        item_ids: int64[B], the items of this rank's interactions.
        count: number of draws, with replacement.
        generator: on the CPU, in the same state on all ranks, which get the same sample.
    """
    batch_items = distributed.all_gather(item_ids)
    items = torch.unique(torch.cat([batch_items, sampler.draw(count, generator)]))
    log_absent = torch.zeros(len(items), device=items.device)
    for draws, log_p in ((len(batch_items), sampler.log_shares), (count, sampler.log_p)):
        log_absent += draws * torch.log1p(-log_p[items].exp().clamp(max=1 - 1e-6))
    return ItemSample(items, -torch.log1p(-log_absent.exp()))


def edge_cross_entropy(
    edges: Edges, vectors: Embeddings, workspace: Workspace, sample: ItemSample | None = None
) -> Tensor:
    """Return the mean cross-entropy of interactions under the softmax over all items.

    The softmax of a user with several interactions in the batch is computed once.

    Args:
        edges: without negatives.
        vectors: float[U, D] of all users and float[I, D] of all items.
        workspace: memory for the blocks of logits.
        sample: the items that the softmax is over, the interactions' among them; None: all. The
            item of an interaction is in its own sample for certain and has weight 1 there.
    """
    user_ids, states = torch.unique(edges.user_ids, return_inverse=True)
    order = states.argsort(stable=True)
    items, item_ids, bias = vectors.items, edges.item_ids[order], None
    if sample is not None:
        items, bias = items[sample.items], sample.log_weights.to(items.dtype)
        item_ids = torch.searchsorted(sample.items, item_ids)
    targets = Seen(states[order], item_ids)

    def loss(block: Block) -> Tensor:
        inside = targets.between(block.which.start, block.which.stop)
        log_p = block.log_p(inside.states, inside.items)
        if bias is not None:
            # From weight exp(bias) of the target to weight 1: exp(log_p) is its part of the sum.
            weights = bias[inside.items]
            log_p = log_p - weights - torch.log1p(log_p.exp() * torch.expm1(-weights))
        return -log_p.sum()

    states_and_items = Embeddings(vectors.users[user_ids], items)
    distribution = distribution_over_items(states_and_items)(
        states_and_items, bias=bias, workspace=workspace
    )
    return distribution.loss(loss) / distributed.data_sum(len(order))
