"""Convert weights between RecBole's models and ours, in both directions.

RecBole's embedding tables have the padding in row 0, ours have it in the last row or not at all, so
rows are shifted by one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from recoach.errors import ModelError
from recoach.experiments.recbole.checkpoint import Checkpoint, StoredTensor
from recoach.models.base import Recommender
from recoach.models.graph.lightgcn import LightGCN

_EMBEDDINGS = ("users.weight", "items.weight")
"""Our names of the tensors with a row per user or item."""
_BLOCK = {
    "attention.query": "multi_head_attention.query",
    "attention.key": "multi_head_attention.key",
    "attention.value": "multi_head_attention.value",
    "output": "multi_head_attention.dense",
    "attention_norm": "multi_head_attention.LayerNorm",
    "up": "feed_forward.dense_1",
    "down": "feed_forward.dense_2",
    "forward_norm": "feed_forward.LayerNorm",
}
"""Modules of a transformer block: our name -> RecBole's."""


def load_weights(model: Recommender, checkpoint: Checkpoint, name: str) -> None:
    """Load the weights of a checkpoint of RecBole's model `name` into a model of the same sizes.

    Raises:
        ModelError: a tensor is missing, unexpected, of another shape, or not finite.
    """
    state = model.state_dict()
    for key, stored in _match_tensors(model, checkpoint, name):
        tensor = checkpoint.tensor(stored)
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{checkpoint.path} has non-finite numbers in {key}; take a checkpoint from before "
                "the training diverged."
            )
        if key in _EMBEDDINGS:
            state[key][: len(tensor) - 1] = tensor[1:]
        else:
            state[key].copy_(tensor)
    model.load_state_dict(state)


def to_recbole(model: Recommender, checkpoint: Checkpoint, name: str) -> dict[StoredTensor, Tensor]:
    """Return the weights of a model of ours as tensors of a RecBole checkpoint.

    LightGCN's propagated embeddings, which RecBole caches besides the weights, are recomputed.
    Padding rows keep the values of the checkpoint.
    """
    state, values = model.state_dict(), {}
    for key, stored in _match_tensors(model, checkpoint, name):
        is_embedding = key in _EMBEDDINGS
        tensor = state[key]
        values[stored] = _with_padding(checkpoint, stored, tensor) if is_embedding else tensor
    if isinstance(model, LightGCN):
        with torch.no_grad():
            users, items = model.propagate()
        for key, table in {"restore_user_e": users, "restore_item_e": items}.items():
            if key in checkpoint.cached:
                stored = checkpoint.cached[key]
                values[stored] = _with_padding(checkpoint, stored, table)
    return values


def _with_padding(checkpoint: Checkpoint, stored: StoredTensor, rows: Tensor) -> Tensor:
    """Return rows of ours after the padding row of a tensor of the checkpoint."""
    table = checkpoint.tensor(stored)
    table[1:] = rows[: len(table) - 1]
    return table


def _match_tensors(
    model: Recommender, checkpoint: Checkpoint, name: str
) -> Iterator[tuple[str, StoredTensor]]:
    """Yield our name and the stored tensor; all are matched and have the expected shape."""
    state, unmatched = model.state_dict(), dict(checkpoint.state)
    for key, recbole_key in _match_names(name, state):
        if recbole_key not in unmatched:
            raise ModelError(
                f"{checkpoint.path} lacks the tensor {recbole_key} of RecBole's {name}; modified "
                "models cannot be imported."
            )
        stored = unmatched.pop(recbole_key)
        shape = _recbole_shape(key, state[key], model)
        if stored.shape != shape:
            raise ModelError(_shape_error(checkpoint, recbole_key, stored.shape, shape))
        yield key, stored
    if unmatched:
        raise ModelError(
            f"{checkpoint.path} has the tensor {next(iter(unmatched))}, which is not part of "
            f"RecBole's {name}; modified models cannot be imported."
        )


def _shape_error(
    checkpoint: Checkpoint, name: str, stored: tuple[int, ...], expected: tuple[int, ...]
) -> str:
    message = (
        f"{checkpoint.path}: {name} has the shape {list(stored)}, but by the log and the stored "
        f"settings it must be {list(expected)}"
    )
    if stored[1:] == expected[1:] and name.endswith(
        ("user_embedding.weight", "item_embedding.weight")
    ):
        message += (
            "; give the log it was trained on (ids that occur only in a .user or .item file are "
            "not supported)"
        )
    return f"{message}."


def _recbole_shape(key: str, tensor: Tensor, model: Recommender) -> tuple[int, ...]:
    if key not in _EMBEDDINGS:
        return tuple(tensor.shape)
    n_rows = model.n_users if key.startswith("users") else model.n_items
    return (1 + n_rows, *tensor.shape[1:])


def _match_names(name: str, state: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield our names with RecBole's; one of ours may have several, which share a storage."""
    for key in state:
        if name == "GSAU":
            yield from ((key, recbole_key) for recbole_key in _gsau_names(key))
        elif key.startswith("encoder.gru."):
            yield key, key.replace("encoder.gru.", "gru_layers.")
        elif key.startswith("encoder.output."):
            yield key, key.replace("encoder.output.", "dense.")
        elif key.startswith("encoder."):
            yield key, _transformer_name(key)
        else:
            yield key, key.replace("s.weight", "_embedding.weight")


def _gsau_names(key: str) -> list[str]:
    if key.startswith("encoder."):
        return [f"sequential_encoder.{_transformer_name(key)}"]
    embedding = key.replace("s.weight", "_embedding.weight")
    shared = [f"embedding_layer.{embedding}", f"graph_encoder.embedding_layer.{embedding}"]
    return [*shared, f"sequential_encoder.{embedding}"] if key == "items.weight" else shared


def _transformer_name(key: str) -> str:
    if key == "encoder.position":
        return "position_embedding.weight"
    if key.startswith("encoder.norm."):
        return key.replace("encoder.norm", "LayerNorm")
    _, _, layer, rest = key.split(".", 3)
    module, parameter = rest.rsplit(".", 1)
    return f"trm_encoder.layer.{layer}.{_BLOCK[module]}.{parameter}"
