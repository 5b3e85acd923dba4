"""Read the ids as RecBole numbered them: from its saved dataset, or from a JSON file.

RecBole writes its dataset as a pickle if `save_dataset` is set. Of that pickle nothing is executed:
objects become placeholders, of which the names and the numbers of the arrays are read. The JSON
file has "users" and "items", lists of ids in RecBole's order without the padding, and "rows", pairs
of RecBole's numbers of user and item.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.errors import DataError
from recoach.experiments.recbole.checkpoint import Placeholder, check_opcodes
from recoach.experiments.recbole.log import SavedIds

_MODULES = ("recbole", "numpy", "pandas", "pyarrow", "torch", "yaml", "logging")
"""The packages whose classes RecBole's saved dataset refers to."""
_PICKLE_ERRORS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError),
    *(ValueError, OverflowError, RecursionError, MemoryError),
)


def read_ids(path: Path) -> SavedIds:
    """Return the ids of RecBole's saved dataset (`.pth`) or of a JSON file (any other suffix).

    Raises:
        DataError: the file cannot be read, refers to code, or does not hold ids.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        ids = _of_pickle(content) if path.suffix == ".pth" else _of_json(content)
        _check(ids)
    except _PICKLE_ERRORS as error:
        raise DataError(
            f"{path} holds no ids of RecBole ({type(error).__name__}: {error}); nothing in it was "
            "executed. Give the dataset that RecBole saved (save_dataset), or the JSON file that "
            "the script of the documentation writes."
        ) from error
    return ids


class _Unpickler(pickle.Unpickler):
    """Builds plain values and placeholders; imports and calls nothing."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        path = f"{module}.{name}"
        if module.partition(".")[0] in _MODULES or path == "builtins.slice":
            return type("Placeholder", (Placeholder,), {"path": path})
        raise pickle.UnpicklingError(f"it refers to {path}, which is not allowed")


def _of_pickle(content: bytes) -> SavedIds:
    check_opcodes(content)
    dataset = _Unpickler(io.BytesIO(content)).load()
    state = dataset.state
    fields = [_text(state[key]) for key in ("uid_field", "iid_field")]
    known = {_text(name): array for name, array in state["field2id_token"].items()}
    users, items = (
        pl.Series(_array(known[field])[1:].tolist(), dtype=pl.String) for field in fields
    )
    try:
        rows = np.stack([_column(state["inter_feat"], field) for field in fields], axis=1) - 1
    except _PICKLE_ERRORS:  # written by another version of pandas
        return SavedIds(users, items)
    return SavedIds(users, items, rows.astype(np.int64))


def _array(placeholder: Placeholder) -> npt.NDArray[Any]:
    """Return the array that a pickled NumPy array of numbers or fixed-length text holds."""
    _, shape, dtype, is_fortran, content = _tuple(placeholder.state)
    code = str(dtype.arguments[0])
    if not isinstance(content, bytes) or code[0] not in "Uif":
        raise pickle.UnpicklingError(f"it has an array of the unsupported type {code}")
    flat = np.frombuffer(content, f"<{code}")
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _column(frame: Placeholder, name: str) -> npt.NDArray[Any]:
    """Return a column of a pickled DataFrame of pandas 2."""
    state: Any = frame.state
    blocks, axes = state["_mgr"].arguments
    names = [_text(column) for column in axes[0].arguments[1]["data"].state[4]]
    place = names.index(name)
    for block in blocks:
        values, places, _ = block.arguments
        span = places.arguments if "slice" in places.path else None
        covered = list(range(*span)) if span else _array(places).tolist()
        if place in covered:
            column: npt.NDArray[Any] = _array(values)[covered.index(place)]
            return column
    raise KeyError(name)


def _text(value: object) -> str:
    """Return a text, which may be a NumPy scalar."""
    if not isinstance(value, Placeholder):
        return str(value)
    _, content = value.arguments
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("it has a field whose name is no text")
    return content.decode("utf-32-le")


def _tuple(value: object) -> Any:  # noqa: ANN401 - the state of an array
    if not isinstance(value, tuple):
        raise pickle.UnpicklingError("it has an array without content")
    return value


def _of_json(content: bytes) -> SavedIds:
    value = json.loads(content)
    users, items = (pl.Series([str(token) for token in value[key]]) for key in ("users", "items"))
    if "rows" not in value:
        return SavedIds(users, items)
    rows = np.asarray(value["rows"], dtype=np.int64).reshape(-1, 2)
    return SavedIds(users, items, rows - 1)


def _check(ids: SavedIds) -> None:
    for name, known in (("users", ids.users), ("items", ids.items)):
        if known.is_empty() or known.n_unique() < len(known):
            raise ValueError(f"its {name} are empty or repeated")
    limits = np.array([len(ids.users), len(ids.items)])
    if ids.rows is not None and ((ids.rows < 0) | (ids.rows >= limits)).any():
        raise ValueError("its rows have numbers without an id")
