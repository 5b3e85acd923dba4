"""A small graph of users and items with its normalised matrices as dense ones."""

import numpy as np
import torch

from recoach.data.batches import EdgeBatches
from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries

ROWS = [[0, 1, 1], [1, 2, 3], [4], [], [0, 4]]
"""Items of each user: user 3 and item 5 have no edge, user 0 has item 1 twice."""
EDGES = {(user, item) for user, row in enumerate(ROWS) for item in row}
N_USERS, N_ITEMS = 5, 6


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return RaggedArray(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def dense_matrix(normalisation):
    """Return float64[11, 11], the normalised adjacency matrix; users come before items."""
    adjacency = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    for user, item in EDGES:
        adjacency[user, N_USERS + item] = adjacency[N_USERS + item, user] = 1
    if normalisation == "row":
        adjacency += torch.eye(N_USERS + N_ITEMS, dtype=torch.float64)
    degrees = adjacency.sum(dim=1, keepdim=True).clamp(min=1)
    if normalisation == "symmetric":
        return adjacency / (degrees * degrees.T).sqrt()
    return adjacency / degrees


def make_batch(size=100):
    return next(EdgeBatches(ragged(ROWS), batch_size=size).epoch(torch.Generator().manual_seed(0)))


def make_queries(users, history=(), hidden=None):
    """Return one state per user, all with the same history."""
    count, length = len(users), len(history)
    history = torch.tensor([list(history)] * count, dtype=torch.int64).reshape(count, length)
    lengths = torch.full((count,), length)
    states = (torch.tensor(users), history, lengths, torch.arange(count), lengths)
    return Queries(*states, hidden=hidden)
