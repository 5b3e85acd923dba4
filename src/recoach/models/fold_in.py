"""Vectors of users who are not in the training data."""

import torch
from torch import Tensor


def fold_in(
    users: Tensor, user_vectors: Tensor, item_vectors: Tensor, history: Tensor, ends: Tensor
) -> Tensor:
    """Return the vectors of users; an unknown user gets the mean over the items of their history.

    Args:
        users: int64[B] user of each state, -1 if not in the training data.
        user_vectors: float[U, D].
        item_vectors: float[I, D].
        history: int64[B, T] items of each state's row, padded with I.
        ends: int64[B] number of items of the row that belong to the state's history.

    Returns:
        float[B, D]; zero for an unknown user without history.
    """
    vectors = user_vectors[users.clamp(min=0)]
    if bool((users >= 0).all()):
        return vectors
    in_history = torch.arange(history.shape[1], device=history.device) < ends[:, None]
    items = item_vectors[history.clamp(max=len(item_vectors) - 1)] * in_history[..., None]
    mean = items.sum(dim=1) / in_history.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where((users >= 0)[:, None], vectors, mean)
