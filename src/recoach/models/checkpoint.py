"""Save and load models: weights in safetensors, everything else in JSON, nothing pickled.

The folder of a model holds `model.json` (name, settings and sizes) and any number of
`NAME.safetensors`. The training state of the weights (step, best value) is stored in the header of
the same file, so that both are replaced by one rename. The header also holds a checksum. A file
without one is refused, because a single damaged byte can hide it.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recoach import distributed
from recoach.data.dataset import Dataset, IdsFingerprint
from recoach.errors import ConfigError, ModelError, RunError, clipped
from recoach.models.base import Recommender
from recoach.models.external import BuilderEntry, Entry
from recoach.models.registry import MODELS, build_from_config, model_entry, origin_of

FORMAT = 1
_HEADER_KEY, _IDS_KEY, _DIGEST_KEY = "recoach", "ids", "sha256"
OPTIMIZER, EXTRA_MODULE = "optimiser.", "companion."
"""Prefixes of the names of tensors in a file that are not weights of the model."""


class Checkpoint(NamedTuple):
    """The content of a safetensors file."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    ids: IdsFingerprint | None = None
    """The users and items that the weights belong to; None in files of version 0.1."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file to a temporary name and rename it, so that no reader sees part of it.

    Only the main process writes.

    Raises:
        RunError: the file cannot be written (disk full, folder read-only). The old file, if any,
            is unchanged and no temporary file remains.
    """
    if not distributed.is_main_process():
        return
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"Cannot write {path}: {reason}. Free some space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed already, or the folder does not exist
            temporary.unlink()


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    ids: IdsFingerprint | None = None,
) -> None:
    """Write tensors, JSON state and the ids they belong to into one safetensors file.

    Only the main process writes.

    Raises:
        RunError: the file cannot be written.
    """
    if not distributed.is_main_process():
        return
    cpu_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    ids_text = "" if ids is None else json.dumps(ids)
    metadata = {_HEADER_KEY: text, _DIGEST_KEY: _digest(cpu_tensors, text + ids_text)}
    if ids is not None:
        metadata[_IDS_KEY] = ids_text
    write_atomically(path, save(cpu_tensors, metadata=metadata))


def load_tensors(path: Path) -> Checkpoint:
    """Read a file written by `save_tensors`.

    Raises:
        ModelError: the file is missing, damaged or not written by Recoach.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned, because the file may be replaced while the tensors are in use.
            names = list(file.keys())
            tensors = {name: file.get_tensor(name).clone() for name in names}
        text, ids_text = metadata.get(_HEADER_KEY, "{}"), metadata.get(_IDS_KEY, "")
        is_intact = metadata.get(_DIGEST_KEY) == _digest(tensors, text + ids_text)
        state = json.loads(text)
        ids = IdsFingerprint(*json.loads(ids_text)) if ids_text and is_intact else None
    except (OSError, SafetensorError, struct.error, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as weights ({error}). Restore the file or train again."
        ) from error
    if not is_intact or not isinstance(state, dict):
        raise ModelError(
            f"{path} is damaged or was not written by Recoach: its checksum is missing or does not "
            "match the content. Restore the file or train again."
        )
    return Checkpoint(tensors, state, ids)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and values of tensors and of the state."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_description(directory: Path, model: Recommender) -> None:
    """Write `model.json`: the name, settings and sizes from which the model can be rebuilt.

    Raises:
        ConfigError: nothing tells how to build the model again, see `origin_of`.
    """
    name, config = origin_of(model)
    description = {
        "format": FORMAT,
        "model": name,
        "config": config.model_dump(mode="json"),
        "n_users": model.n_users,
        "n_items": model.n_items,
    }
    content = json.dumps(description, indent=2) + "\n"
    write_atomically(directory / "model.json", content.encode())


def load_model(directory: Path, dataset: Dataset, weights: str = "best") -> Recommender:
    """Build the model described in a folder, load its weights and return it in evaluation mode.

    Args:
        directory: holds `model.json` and the weights.
        dataset: the dataset it was trained on (graph models rebuild their graph from it).
        weights: name of the weights file without `.safetensors`, such as "best" or "last".

    Raises:
        ModelError: a file is missing, damaged or of another format version, or the model was
            trained on another dataset.
    """
    path = directory / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise ModelError(
                f"{path} has format {description['format']}, but this version of Recoach reads "
                f"format {FORMAT}. Load it with the version that wrote it."
            )
        name, settings = str(description["model"]), dict(description["config"])
        sizes = (description["n_users"], description["n_items"])
        config = _entry(name, path).config(**settings)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ConfigError) as error:
        raise ModelError(
            f"{path} does not describe a model: {error}. Restore the file or train again."
        ) from error
    if sizes != (dataset.n_users, dataset.n_items):
        raise ModelError(
            f"{directory} was trained on {sizes[0]} users and {sizes[1]} items, but the dataset "
            f"has {dataset.n_users} and {dataset.n_items}. Use the dataset of that run."
        )
    file = directory / f"{weights}.safetensors"
    tensors, _, ids = load_tensors(file)
    if ids not in (None, dataset.ids):
        raise ModelError(
            f"{file} was trained on other users or items than those of the dataset, or on the same "
            "in another order: their numbers stand for other ids. Restore the dataset of that run."
        )
    tensors = model_weights(tensors)
    if name in MODELS:
        entry = MODELS[name]
        build = partial(entry.model, config, dataset.train, dataset.n_items)
        _check_shapes(_shapes_without_memory(build, path), tensors, path, file)
    model = build_from_config(name, config, dataset, seed=0, pretrained=False)
    if name not in MODELS:
        _check_shapes(_shapes(model.state_dict()), tensors, path, file)
    model.load_state_dict(tensors)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ModelError(
            f"{file} holds non-finite weights: training had diverged. Train again, from an earlier "
            "checkpoint or with a lower learning rate."
        )
    return model.eval()


def _entry(name: str, path: Path) -> Entry | BuilderEntry:
    try:
        return model_entry(name)
    except ConfigError as error:
        raise ModelError(f"{path}: {error}") from error


def model_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file that are weights of the model."""
    prefixes = (OPTIMIZER, EXTRA_MODULE)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _shapes_without_memory(
    build: Callable[[], Recommender], path: Path
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights; it is built on the meta device, without storage.

    Raises:
        ModelError: the model cannot be built from the description at `path`.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return _shapes(build().state_dict())
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = clipped(str(error).splitlines()[0])
        raise ModelError(
            f"{path} does not describe a model: {reason}. Restore the file or train again."
        ) from error


def _check_shapes(
    expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], path: Path, file: Path
) -> None:
    """Check that a file has the shapes of the described model.

    Args:
        expected: the shapes of the model.
        tensors: the weights in the file.
        path: path of the description.
        file: path of the weights.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape.
    """
    actual = _shapes(tensors)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ModelError(
                f"{file} holds the weights of another model than {path.name} describes: {name} is "
                f"{actual.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}. "
                "Restore both files from the same run."
            )
