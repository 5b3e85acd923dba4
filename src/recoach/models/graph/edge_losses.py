"""Losses of graph models, which learn from (user, item) pairs."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach import distributed
from recoach.data.queries import Seen, states_on_host
from recoach.data.transfer import to_device
from recoach.models.base import Embeddings, TrainingBatch
from recoach.models.distribution import Block, Workspace
from recoach.models.losses import bpr
from recoach.models.popularity_sampler import PopularitySampler
from recoach.models.sharded_softmax import distribution_over_items

EdgeLoss = Literal["bpr", "ce", "sampled_ce"]
"""BPR with one uniform negative for each interaction, or cross-entropy over the catalogue, or over
a sample of it (`sample_items`)."""


class DistinctUsers(NamedTuple):
    """The users of a batch, of whom each has one state, and its interactions by user."""

    user_ids: Tensor
    """int64[U], sorted."""
    states: Tensor
    """int64[B], place of the user of each interaction in `user_ids`, sorted."""
    order: Tensor
    """int64[B], the interaction that each of `states` belongs to."""
    host_states: np.ndarray
    """`states` on the host."""

    def to(self, device: torch.device) -> "DistinctUsers":
        """Return the same users on a device."""
        user_ids, states, order = (to_device(part, device) for part in self[:3])
        return DistinctUsers(user_ids, states, order, self.host_states)


class Edges(NamedTuple):
    """Interactions of a batch."""

    user_ids: Tensor
    """int64[B]."""
    item_ids: Tensor
    """int64[B], or int64[2 B]: the items, and then a negative item for each."""
    users: DistinctUsers | None = None
    """The users of the batch, where they are known."""


def distinct_users(user_ids: Tensor) -> DistinctUsers:
    """Return the distinct users of int64[B] interactions."""
    distinct, states = torch.unique(user_ids, return_inverse=True)
    order = states.argsort(stable=True)
    states = states[order]
    return DistinctUsers(distinct, states, order, states_on_host(states, None))


def batch_edges(batch: TrainingBatch, model: str) -> Edges:
    """Return the interactions of a batch; ValueError if it has none."""
    queries, _, item_ids, _ = batch.part("edges", model)
    users = queries.prepared
    return Edges(queries.state_users, item_ids, users if isinstance(users, DistinctUsers) else None)


def with_negatives(edges: Edges, negatives: Tensor) -> Edges:
    """Return the same interactions with a negative item for each, int64[B]."""
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
        item_ids: int64[B], the items of this rank's interactions, on the host, as the sample is.
        count: number of draws, with replacement.
        generator: on the CPU, in the same state on all ranks, which get the same sample.
    """
    batch_items = distributed.all_gather(item_ids)
    items = torch.unique(torch.cat([batch_items, sampler.draw(count, generator)]))
    log_absent = torch.zeros(len(items))
    tables = (len(batch_items), sampler.host_log_shares), (count, sampler.host_log_p)
    for draws, log_p in tables:
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
    users = distinct_users(edges.user_ids) if edges.users is None else edges.users
    items, item_ids, bias = vectors.items, edges.item_ids[users.order], None
    if sample is not None:
        items, bias = items[sample.items], sample.log_weights.to(items.dtype)
        item_ids = torch.searchsorted(sample.items, item_ids)
    targets = Seen(users.states, item_ids, users.host_states)

    def loss(block: Block) -> Tensor:
        inside = targets
        if not block.covers_all:
            inside = targets.between(block.which.start, block.which.stop)
        log_p = block.log_p(inside.states, inside.items)
        if bias is not None:
            # From weight exp(bias) of the target to weight 1: exp(log_p) is its part of the sum.
            weights = bias[inside.items]
            log_p = log_p - weights - torch.log1p(log_p.exp() * torch.expm1(-weights))
        return -log_p.sum()

    states_and_items = Embeddings(vectors.users[users.user_ids], items)
    distribution = distribution_over_items(states_and_items)(
        states_and_items, bias=bias, workspace=workspace
    )
    return distribution.loss(loss) / distributed.data_sum(len(users.order))
