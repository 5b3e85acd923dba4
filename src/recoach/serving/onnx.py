"""The query encoder of a model as ONNX, for runtimes without PyTorch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recoach.data.batches import Queries, histories, user_queries
from recoach.data.split import Dataset
from recoach.errors import ConfigError, ModelError
from recoach.models.base import Recommender, frozen_copy
from recoach.models.checkpoint import write_atomically

_CHECKED = 256
_TOLERANCE = 1e-4
_INSTEAD = "use `recoach export vectors`"


class _Encoder(nn.Module):
    """Histories to vectors: the one way through a model that a graph can hold."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        queries = Queries(
            users=torch.full_like(length, -1),
            history=history,
            lengths=length,
            rows=torch.arange(history.shape[0]),
            ends=length,
        )
        return self.model.embed(queries).users


@torch.no_grad()
def export_onnx(model: Recommender, dataset: Dataset, directory: Path) -> tuple[Path, float]:
    """Write query.onnx: the last items of a history in, the vector of its state out.

    Inputs are `history`, int64[B, T] numbers of items (rows of items.parquet), oldest first, padded
    on the right with n_items, T the length the model reads; and `length`, int64[B] from 1. Output
    is `vector`, float[B, D]; its products with the vectors of items.parquet are the scores. The
    file is run by onnxruntime on histories of the dataset and compared before it takes its name.

    Args:
        model: reads histories, and nothing else of a user.
        dataset: gives histories to check with.
        directory: made where it is not there.

    Returns:
        The file and the largest difference found in a vector.

    Raises:
        ConfigError: the extra is missing, or the model reads no history, or not it alone.
        ModelError: ONNX and PyTorch disagree.
        RunError: the file cannot be written.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
        import onnxscript  # noqa: F401, PLC0415 - what torch writes ONNX with
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs {error.name}; install it with pip install 'recoach[onnx]'."
        ) from error
    name = type(model).__name__
    if not model.history_length:
        raise ConfigError(f"{name} reads no history: its users are rows of a table; {_INSTEAD}.")
    encoder = _Encoder(frozen_copy(model).cpu()).eval()
    queries = _full_width(encoder.model, dataset)
    history, length = queries.history, queries.lengths
    wanted = encoder.model.embed(queries).users
    if not torch.allclose(encoder(history, length), wanted, atol=_TOLERANCE):
        raise ConfigError(
            f"the vectors of this {name} depend on who asks, not on the history alone; {_INSTEAD}."
        )
    content = _exported(encoder, (history[:2], length[:2]))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"history": history.numpy(), "length": length.numpy()})
    difference = float(np.abs(found - wanted.numpy()).max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"onnxruntime and PyTorch differ by {difference:.2g} for {name}; {_INSTEAD}."
        )
    path = directory / "query.onnx"
    write_atomically(path, content)
    return path, difference


def _full_width(model: Recommender, dataset: Dataset) -> Queries:
    """Return known users after all of their past, padded to what the model reads."""
    past = histories(dataset, "future")
    users = np.flatnonzero(past.lengths)[:_CHECKED]
    queries = user_queries(past, users, model.history_length, model.n_items, mask_seen=False)
    width = model.history_length - queries.history.shape[1]
    history = nn.functional.pad(queries.history, (0, width), value=model.n_items)
    return Queries(queries.users, history, queries.lengths, queries.rows, queries.ends)


def _exported(encoder: _Encoder, example: tuple[Tensor, Tensor]) -> bytes:
    batch = torch.export.Dim.DYNAMIC
    with _quiet():
        program: Any = torch.onnx.export(
            encoder,
            example,
            input_names=["history", "length"],
            output_names=["vector"],
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: batch}, {0: batch}),
        )
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter tells of its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
