"""Logs and states that are written as lists of items."""

import numpy as np
import polars as pl
import torch

from recoach.data.dataset import RaggedArray
from recoach.data.queries import Queries, gather_windows
from recoach.models.registry import MODELS


def rows_of(rows, **columns):
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    values = np.array([item for row in rows for item in row], dtype=np.int32)
    return RaggedArray.from_lengths(lengths, values, {n: pl.Series(v) for n, v in columns.items()})


def model_of(name, rows, n_items, *, times=None, **settings):
    columns = {} if times is None else {"timestamp": times}
    entry = MODELS[name]
    return entry.model(entry.config(**settings), rows_of(rows, **columns), n_items).eval()


def queries_of(histories, n_items, users=None):
    rows = rows_of(histories)
    lengths = torch.from_numpy(rows.lengths)
    return Queries(
        users=torch.tensor(users or [-1] * len(histories)),
        history=gather_windows(rows.values, rows.offsets[:-1], rows.offsets[1:], n_items),
        lengths=lengths,
        rows=torch.arange(len(histories)),
        ends=lengths,
    )


def scores_of(model, *histories, users=None):
    return model.score(queries_of(histories, model.n_items, users))
