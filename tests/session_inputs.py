"""Small inputs for tests of session-graph models."""

import numpy as np
import torch
from torch import nn

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries
from recoach.models.base import Recommender
from recoach.models.registry import MODELS


def session_queries(*histories: list[int], n_items: int = 10) -> Queries:
    """Return queries of unknown users with one row for each history."""
    width = max(len(history) for history in histories)
    rows = [history + [n_items] * (width - len(history)) for history in histories]
    lengths = torch.tensor([len(history) for history in histories])
    return Queries(
        users=torch.full((len(rows),), -1),
        history=torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width),
        lengths=lengths,
        rows=torch.arange(len(rows)),
        ends=lengths,
    )


def sessions(*rows: list[int]) -> RaggedArray:
    """Return training sessions."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return RaggedArray.from_lengths(lengths, np.concatenate(rows).astype(np.int32))


def session_model(name: str, train: RaggedArray, n_items: int = 10, **settings) -> Recommender:
    """Return a model in evaluation mode whose weights are standard normal."""
    entry = MODELS[name]
    model = entry.model(entry.config(**settings), train, n_items).eval()
    random_weights(model)
    return model


def random_weights(module: nn.Module, seed: int = 0) -> None:
    """Draw all weights from a standard normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
