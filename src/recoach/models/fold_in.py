"""Vectors of users who are not in the training data."""

import torch
from torch import Tensor

from recoach.data.queries import Queries


def fold_in(queries: Queries, user_vectors: Tensor, item_vectors: Tensor) -> Tensor:
    """Return the vectors of users; an unknown user gets the mean over the items of their history.

    Args:
        queries: B states; the user of a state is -1 if not in the training data.
        user_vectors: float[U, D].
        item_vectors: float[I, D].

    Returns:
        float[B, D]; zero for an unknown user without history.
    """
    users = queries.state_users
    vectors = user_vectors[users.clamp(min=0)]
    if not queries.has_new_users:
        return vectors
    history, ends = queries.history[queries.rows], queries.ends
    in_history = torch.arange(history.shape[1], device=history.device) < ends[:, None]
    items = item_vectors[history.clamp(max=len(item_vectors) - 1)] * in_history[..., None]
    mean = items.sum(dim=1) / in_history.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where((users >= 0)[:, None], vectors, mean)
