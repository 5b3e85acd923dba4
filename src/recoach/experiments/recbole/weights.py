"""Which tensor of RecBole's is which of ours, and both ways between them.

RecBole's row 0 stands for padding, ours is the last one or none: rows move by one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from recoach.errors import ModelError
from recoach.experiments.recbole.checkpoint import Checkpoint, Stored
from recoach.models.base import Recommender
from recoach.models.graph.lightgcn import LightGCN

_TABLES = ("users.weight", "items.weight")
"""Our names of what has a row for each user or item."""
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
"""A transformer block, ours and theirs."""


def load_weights(model: Recommender, checkpoint: Checkpoint, name: str) -> None:
    """Fill a model of ours with the weights of a checkpoint.

    Args:
        model: of the right kind and sizes.
        checkpoint: what RecBole saved.
        name: what RecBole calls the model, like "SASRec".

    Raises:
        ModelError: tensors are missing, too many, or of other sizes.
    """
    state = model.state_dict()
    for own, stored in _pairs(model, checkpoint, name):
        theirs = checkpoint.tensor(stored)
        if not bool(torch.isfinite(theirs).all()):
            raise ModelError(f"{checkpoint.path} holds non-finite numbers in {own}.")
        if own in _TABLES:
            state[own][: len(theirs) - 1] = theirs[1:]
        else:
            state[own].copy_(theirs)
    model.load_state_dict(state)


def to_recbole(model: Recommender, checkpoint: Checkpoint, name: str) -> dict[Stored, Tensor]:
    """Return the tensors of a checkpoint with the weights of a model of ours in them.

    What RecBole caches beside the weights (LightGCN's propagated tables) is made anew; the rows of
    padding stay.
    """
    state, values = model.state_dict(), {}
    for own, stored in _pairs(model, checkpoint, name):
        values[stored] = _rows(checkpoint, stored, state[own]) if own in _TABLES else state[own]
    if isinstance(model, LightGCN):
        with torch.no_grad():
            users, items = model.propagate()
        for key, table in {"restore_user_e": users, "restore_item_e": items}.items():
            if key in checkpoint.cached:
                stored = checkpoint.cached[key]
                values[stored] = _rows(checkpoint, stored, table)
    return values


def _rows(checkpoint: Checkpoint, stored: Stored, own: Tensor) -> Tensor:
    table = checkpoint.tensor(stored)
    table[1:] = own[: len(table) - 1]
    return table


def _pairs(model: Recommender, checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, Stored]]:
    """Yield every tensor under our name; sizes agree, none is left over."""
    ours, left = model.state_dict(), dict(checkpoint.state)
    for own, theirs in _names(name, ours):
        if theirs not in left:
            raise ModelError(f"{checkpoint.path} lacks the tensor {theirs} of RecBole's {name}.")
        stored = left.pop(theirs)
        shape = _shape(own, ours[own], model)
        if stored.shape != shape:
            raise ModelError(_mismatch(checkpoint, theirs, stored.shape, shape))
        yield own, stored
    if left:
        raise ModelError(
            f"{checkpoint.path} holds the tensor {next(iter(left))}, which RecBole's {name} has "
            "not; is it another model under that name?"
        )


def _mismatch(
    checkpoint: Checkpoint, name: str, found: tuple[int, ...], wanted: tuple[int, ...]
) -> str:
    said = f"{checkpoint.path}: {name} has the sizes {list(found)}, the log and the stored settings"
    said += f" make it {list(wanted)}"
    if found[1:] == wanted[1:] and name.endswith(
        ("user_embedding.weight", "item_embedding.weight")
    ):
        said += (
            "; give the log it was trained on (ids that stand only in a .user or .item file are "
            "not supported)"
        )
    return f"{said}."


def _shape(own: str, tensor: Tensor, model: Recommender) -> tuple[int, ...]:
    if own not in _TABLES:
        return tuple(tensor.shape)
    return (1 + (model.n_users if own.startswith("users") else model.n_items), *tensor.shape[1:])


def _names(name: str, ours: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield our names with RecBole's; one of ours may have several, which share their numbers."""
    for own in ours:
        if name == "GSAU":
            yield from ((own, theirs) for theirs in _of_gsau(own))
        elif own.startswith("encoder.gru."):
            yield own, own.replace("encoder.gru.", "gru_layers.")
        elif own.startswith("encoder.output."):
            yield own, own.replace("encoder.output.", "dense.")
        elif own.startswith("encoder."):
            yield own, _of_transformer(own)
        else:
            yield own, own.replace("s.weight", "_embedding.weight")


def _of_gsau(own: str) -> list[str]:
    if own.startswith("encoder."):
        return [f"sequential_encoder.{_of_transformer(own)}"]
    table = own.replace("s.weight", "_embedding.weight")
    shared = [f"embedding_layer.{table}", f"graph_encoder.embedding_layer.{table}"]
    return [*shared, f"sequential_encoder.{table}"] if own == "items.weight" else shared


def _of_transformer(own: str) -> str:
    if own == "encoder.position":
        return "position_embedding.weight"
    if own.startswith("encoder.norm."):
        return own.replace("encoder.norm", "LayerNorm")
    _, _, number, rest = own.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"trm_encoder.layer.{number}.{_BLOCK[part]}.{kind}"
