"""Models as files: weights in safetensors, everything else in JSON, nothing pickled.

A model's folder holds `model.json` (what to build) and any number of `NAME.safetensors`. State
that belongs to the weights (step, best value) travels in the header of the same file, so that
one rename replaces both; a checksum beside it tells damage. Without one a file is not read: a
single byte could have hidden it.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recoach import distributed
from recoach.data.split import Dataset
from recoach.errors import ConfigError, ModelError, RunError, clipped
from recoach.models.base import Recommender
from recoach.models.registry import build_from_config, model_entry, model_name

FORMAT = 1
_HEADER_KEY, _DIGEST_KEY = "recoach", "sha256"
OPTIMIZER, EXTRA_MODULE = "optimiser.", "companion."
"""What stands before the names of tensors that are not the model's own."""


class Saved(NamedTuple):
    """What a weights file holds."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, never a part.

    Of several processes only the first writes.

    Raises:
        RunError: the disk is full, the folder is missing or read-only; nothing is left behind.
    """
    if not distributed.is_main_process():
        return
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"Cannot write {path}: {reason}. Free some space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone, or the folder itself is what is wrong
            part.unlink()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and their JSON state as one safetensors file, in the first process."""
    if not distributed.is_main_process():
        return
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    metadata = {_HEADER_KEY: text, _DIGEST_KEY: _digest(plain, text)}
    write_atomically(path, save(plain, metadata=metadata))


def load_tensors(path: Path) -> Saved:
    """Read what `save_tensors` wrote; ModelError where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied, so that the file may be replaced while its numbers are in use.
            names = list(file.keys())
            tensors = {name: file.get_tensor(name).clone() for name in names}
        text = metadata.get(_HEADER_KEY, "{}")
        whole = metadata.get(_DIGEST_KEY) == _digest(tensors, text)
        state = json.loads(text)
    except (OSError, SafetensorError, struct.error, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as weights ({error}); restore it or train again."
        ) from error
    if not whole or not isinstance(state, dict):
        raise ModelError(
            f"{path} is damaged or not Recoach's: its checksum is missing or that of other "
            "content; restore it or train again."
        )
    return Saved(tensors, state)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    """Return the SHA-256 of names, types, shapes, numbers and state of a file."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_description(directory: Path, model: Recommender) -> None:
    """Write `model.json`, from which the model can be built again."""
    description = {
        "format": FORMAT,
        "model": model_name(model),
        "config": model.config.model_dump(mode="json"),
        "n_users": model.n_users,
        "n_items": model.n_items,
    }
    content = json.dumps(description, indent=2) + "\n"
    write_atomically(directory / "model.json", content.encode())


def load_model(directory: Path, dataset: Dataset, weights: str = "best") -> Recommender:
    """Build the model described in a folder and fill in its weights.

    Args:
        directory: holds `model.json` and the weights.
        dataset: the data it was trained on (graph models rebuild their graph from it).
        weights: which file, without its ending.

    Raises:
        ModelError: files are missing, damaged, of another version or of another dataset.
    """
    path = directory / "model.json"
    try:
        description = json.loads(path.read_text())
        if description["format"] != FORMAT:
            raise ModelError(
                f"{path} has format {description['format']}, this version reads {FORMAT}."
            )
        entry = model_entry(description["model"])
        config = entry.config(**description["config"])
        sizes = (description["n_users"], description["n_items"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ConfigError) as error:
        raise ModelError(f"{path} does not describe a model: {error}.") from error
    if sizes != (dataset.n_users, dataset.n_items):
        raise ModelError(
            f"{directory} was trained on {sizes[0]} users and {sizes[1]} items, the dataset has "
            f"{dataset.n_users} and {dataset.n_items}; use the data of that run."
        )
    file = directory / f"{weights}.safetensors"
    tensors = model_weights(load_tensors(file).tensors)
    _check_sizes(lambda: entry.model(config, dataset.train, dataset.n_items), tensors, path, file)
    model = build_from_config(entry, config, dataset.train, dataset.n_items, seed=0)
    model.load_state_dict(tensors)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ModelError(f"{file} holds non-finite weights; train again from an earlier one.")
    return model.eval()


def model_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file that are the model's own."""
    return {n: t for n, t in tensors.items() if not n.startswith((OPTIMIZER, EXTRA_MODULE))}


def _check_sizes(
    build: Callable[[], Recommender], tensors: Mapping[str, Tensor], path: Path, file: Path
) -> None:
    """Refuse a description of other tables than the file holds, before they take memory.

    Args:
        build: makes the model; here on a device where a tensor is a shape and nothing else.
        tensors: the weights.
        path: of the description.
        file: of the weights.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            asked = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = clipped(str(error).splitlines()[0])
        raise ModelError(f"{path} does not describe a model: {reason}.") from error
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(asked.keys() | held.keys()):
        if asked.get(name) != held.get(name):
            raise ModelError(
                f"{file} holds the weights of another model than {path.name} describes: {name} is "
                f"{held.get(name, 'missing')}, not {asked.get(name, 'there')}."
            )
