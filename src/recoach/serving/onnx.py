"""Export of a model's history encoder as ONNX, for runtimes without PyTorch."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recoach.data.dataset import Dataset
from recoach.data.queries import Queries, histories, user_queries
from recoach.errors import ConfigError, ModelError
from recoach.models.base import (
    DotProductRecommender,
    Recommender,
    check_ids,
    dot_product,
    frozen_copy,
)
from recoach.models.checkpoint import write_atomically

_N_CHECKED_USERS = 256
_TOLERANCE = 1e-4
_ALTERNATIVE = "Use `recoach export vectors`."


class _Encoder(nn.Module):
    """Maps histories to state vectors; the part of a model that ONNX can represent."""

    def __init__(self, model: DotProductRecommender) -> None:
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
    """Write query.onnx, which maps the last items of a history to the vector of its state.

    Inputs are `history`, int64[B, T] item indices (rows of items.parquet), oldest first, padded on
    the right with n_items, T the length the model reads; and `length`, int64[B], at least 1. The
    output is `vector`, float[B, D]; its dot products with the vectors of items.parquet are the
    scores. onnxruntime runs the model on histories of the dataset, and the file is written only if
    the vectors agree with those of PyTorch.

    Args:
        model: a model whose state vectors depend on the history alone.
        dataset: has the histories for the check.
        directory: created if it does not exist.

    Returns:
        The path of the file and the largest absolute difference between two vectors.

    Raises:
        ConfigError: the `onnx` extra is missing, the scores of the model are not dot products, or
            its state vectors do not depend on the history alone, or ONNX cannot represent how
            they are computed (the graphs of session models).
        ModelError: ONNX and PyTorch disagree.
        RunError: the file cannot be written.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
        import onnxscript  # noqa: F401, PLC0415 - torch.onnx imports it
    except ImportError as error:
        raise ConfigError(
            f"The ONNX export needs {error.name}. Install it with pip install 'recoach[onnx]'."
        ) from error
    check_ids(model, dataset)
    model = dot_product(model, "The ONNX export")
    name = type(model).__name__
    if not model.history_length:
        raise ConfigError(f"{name} reads no history, so it has no history encoder. {_ALTERNATIVE}")
    if model.reads:
        raise ConfigError(
            f"This {name} reads {' and '.join(model.reads)} beside the items of a history, and the "
            f"exported encoder has no input for it. {_ALTERNATIVE}"
        )
    encoder = _Encoder(frozen_copy(model).cpu()).eval()
    queries = _padded_queries(encoder.model, dataset)
    history, length = queries.history, queries.lengths
    expected = encoder.model.embed(queries).users
    if not torch.allclose(encoder(history, length), expected, atol=_TOLERANCE):
        raise ConfigError(
            f"The vectors of this {name} depend on the user, not on the history alone. "
            f"{_ALTERNATIVE}"
        )
    try:
        content = _export_program(encoder, (history[:2], length[:2]))
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            f"ONNX cannot represent the history encoder of {name}, whose shapes depend on the "
            f"items of a history. {_ALTERNATIVE}"
        ) from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {"history": history.numpy(), "length": length.numpy()})
    difference = float(np.abs(vectors - expected.numpy()).max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"onnxruntime and PyTorch differ by {difference:.2g} for {name}. {_ALTERNATIVE}"
        )
    path = directory / "query.onnx"
    write_atomically(path, content)
    return path, difference


def _padded_queries(model: DotProductRecommender, dataset: Dataset) -> Queries:
    """Return users of the dataset with whole histories, padded to the length the model reads."""
    past = histories(dataset, "all")
    users = np.flatnonzero(past.lengths)[:_N_CHECKED_USERS]
    queries = user_queries(past, users, model.history_length, model.n_items, mask_seen=False)
    padding = model.history_length - queries.history.shape[1]
    history = nn.functional.pad(queries.history, (0, padding), value=model.n_items)
    return Queries(queries.users, history, queries.lengths, queries.rows, queries.ends)


def _export_program(encoder: _Encoder, example: tuple[Tensor, Tensor]) -> bytes:
    batch_size = torch.export.Dim.DYNAMIC
    with _suppress_exporter_output():
        program: Any = torch.onnx.export(
            encoder,
            example,
            input_names=["history", "length"],
            output_names=["vector"],
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: batch_size}, {0: batch_size}),
        )
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextmanager
def _suppress_exporter_output() -> Iterator[None]:
    """Silence the log messages, warnings and printed graphs of the exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
