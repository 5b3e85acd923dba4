"""Losses of graph models, which learn from (user, item) pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from recoach import distributed
from recoach.data.queries import Seen
from recoach.models.base import Embeddings, TrainingBatch, draw_negatives
from recoach.models.distribution import Block, Workspace
from recoach.models.losses import bpr
from recoach.models.softmax import BlockwiseDistribution


class Edges(NamedTuple):
    """Interactions of a batch."""

    user_ids: Tensor
    """int64[B]."""
    item_ids: Tensor
    """int64[B], or int64[2 B]: the items, and then a negative item for each."""


def batch_edges(batch: TrainingBatch, model: str) -> Edges:
    """Return the interactions of a batch; ValueError if it has none."""
    if batch.edges is None:
        raise ValueError(f"{model} learns from edges; the batch has none.")
    return Edges(batch.edges.queries.state_users, batch.edges.targets)


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


def bpr_of_vectors(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the BPR loss of the dot products of vectors, each float[B, D]."""
    return bpr((users * positives).sum(dim=1), (users * negatives).sum(dim=1))


def half_squared_norm(vectors: tuple[Tensor, ...]) -> Tensor:
    """Return half the squared norm of vectors, each float[B, D], divided by B (He et al. 2020)."""
    norms = torch.stack([part.norm() for part in vectors])
    return norms.square().sum() / (2 * distributed.data_sum(len(vectors[0])))


def edge_cross_entropy(edges: Edges, vectors: Embeddings, workspace: Workspace) -> Tensor:
    """Return the mean cross-entropy of interactions under the softmax over all items.

    The softmax of a user with several interactions in the batch is computed once.

    Args:
        edges: without negatives.
        vectors: float[U, D] of all users and float[I, D] of all items.
        workspace: memory for the blocks of logits.
    """
    user_ids, states = torch.unique(edges.user_ids, return_inverse=True)
    order = states.argsort(stable=True)
    targets = Seen(states[order], edges.item_ids[order])

    def loss(block: Block) -> Tensor:
        inside = targets.between(block.which.start, block.which.stop)
        return -block.log_p(inside.states, inside.items).sum()

    states_and_items = Embeddings(vectors.users[user_ids], vectors.items)
    distribution = BlockwiseDistribution(states_and_items, workspace=workspace)
    return distribution.loss(loss) / distributed.data_sum(len(order))
