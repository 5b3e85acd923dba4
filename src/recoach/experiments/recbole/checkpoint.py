"""Read RecBole's `.pth` checkpoints without executing code, and rewrite them with other weights.

The file is a zip archive of one pickle and the raw numbers of the tensors. The pickle may refer to
a few harmless functions; objects of RecBole's classes become placeholders, and any other reference
is an error. `torch.load(weights_only=True)` cannot replace this reader: it does not support pickle
protocol 4, which RecBole writes, and does not tell where in the file a tensor is stored.
"""

import io
import math
import pickle
import pickletools
import re
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recoach.errors import ModelError
from recoach.models.checkpoint import write_atomically

_MAX_ENTRIES = 10_000
_MAX_PICKLE_BYTES = 2**24
"""The pickle of a RecBole checkpoint has about ten thousand bytes."""
_ENTRY_NAME = re.compile(r"(?!\.\.?/)[^/\\]+/(data\.pkl|data/[0-9]+|version|byteorder|\.[\w/]+)")
_ALLOWED_OPCODES = frozenset(
    re.findall(
        r"\w+",
        """
        PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
        BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
        EMPTY_DICT EMPTY_LIST EMPTY_TUPLE EMPTY_SET TUPLE TUPLE1 TUPLE2 TUPLE3
        APPEND APPENDS SETITEM SETITEMS ADDITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE
        GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
        """,
    )
)
"""The pickle opcodes that occur in checkpoints."""
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class Placeholder:
    """Stands for an object of a class that is not imported; holds its arguments and state."""

    path: ClassVar[str] = ""
    """Module and name of the class, such as "recbole.config.configurator.Config"."""
    arguments: tuple[object, ...] = ()
    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class StoredTensor(NamedTuple):
    """Where the numbers of a tensor are in the file: entry, offset in elements, and strides."""

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a RecBole checkpoint; tensors are read on demand.

    Attributes:
        path: the file.
        config: RecBole's final settings, a plain dict.
        state: name -> tensor of the model's state_dict.
        cached: name -> tensor that the model keeps besides its weights, such as LightGCN's
            propagated embeddings.
        best_valid_score: the validation metric of the saved epoch.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, StoredTensor]
    cached: dict[str, StoredTensor]
    best_valid_score: float

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return a copy of a tensor; ModelError if its numbers are missing or damaged."""
        with _open_archive(self.path) as archive:
            return _view(
                bytearray(_read_entry(archive, f"data/{stored.key}")), stored, self.path
            ).clone()

    def write(self, target: Path, values: Mapping[StoredTensor, Tensor]) -> None:
        """Write a copy of the file with other values in some tensors.

        All other bytes of the pickle and the storages stay as they are.
        """
        changed: dict[str, bytearray] = {}
        buffer = io.BytesIO()
        with _open_archive(self.path) as archive:
            for stored, value in values.items():
                if stored.key not in changed:
                    changed[stored.key] = bytearray(_read_entry(archive, f"data/{stored.key}"))
                _view(changed[stored.key], stored, self.path).copy_(value)
            with zipfile.ZipFile(buffer, "w") as copy:
                for info in archive.infolist():
                    key = info.filename.partition("/data/")[2]
                    content = bytes(changed[key]) if key in changed else archive.read(info)
                    copy.writestr(zipfile.ZipInfo(info.filename, info.date_time), content)
        write_atomically(target, buffer.getvalue())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of RecBole without executing code.

    Raises:
        ModelError: the file does not exist, is damaged or not in torch's zip format, or its pickle
            refers to anything but tensors, plain values and RecBole's classes.
    """
    with _open_archive(path) as archive:
        pickled = _read_entry(archive, "data.pkl")
        if f"{_root(archive)}/byteorder" in archive.namelist():
            order = _read_entry(archive, "byteorder")
            if order != b"little":
                raise ModelError(
                    f"{path} has byte order {order.decode(errors='replace')!r}; only little-endian "
                    "files are supported."
                )
    try:
        check_opcodes(pickled)
        content = _RestrictedUnpickler(io.BytesIO(pickled)).load()
        return Checkpoint(
            path,
            _final_config(content["config"]),
            _tensors(content["state_dict"]),
            _tensors(content["other_parameter"]),
            float(content["best_valid_score"]),
        )
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError),
        *(ValueError, OverflowError, RecursionError, MemoryError),
    ) as error:
        raise ModelError(
            f"{path} is not a RecBole checkpoint ({type(error).__name__}: {error}); nothing in it "
            "was executed."
        ) from error


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    size: int


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds plain values, `StoredTensor` and `Placeholder`; imports and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        path = f"{module}.{name}"
        if path in _ALLOWED_GLOBALS:
            # A new object each time, so that a pickle cannot change the function for later ones.
            return partial(_ALLOWED_GLOBALS[path])
        if module.partition(".")[0] == "recbole" or path in _PLACEHOLDER_GLOBALS:
            return type("Placeholder", (Placeholder,), {"path": path})
        raise pickle.UnpicklingError(f"it refers to {path}, which is not allowed in a checkpoint")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - pickle's signature
        kind, storage, key, _, size = pid
        dtype = _STORAGE_DTYPES.get(storage.path.rpartition(".")[2])
        if kind != "storage" or dtype is None or not re.fullmatch("[0-9]+", key):
            raise pickle.UnpicklingError(f"it has a storage of an unsupported type: {storage.path}")
        return _Storage(key, dtype, _check_size(size))


def _check_size(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise pickle.UnpicklingError(f"{number!r} is not a valid size")
    return number


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: Sequence[int], stride: Sequence[int], *_: object
) -> StoredTensor:
    sizes, steps = tuple(map(_check_size, shape)), tuple(map(_check_size, stride))
    start = _check_size(offset)
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if math.prod(sizes) > storage.size or last >= max(1, storage.size):
        raise pickle.UnpicklingError("a tensor extends beyond its storage")
    return StoredTensor(storage.key, storage.dtype, start, sizes, steps)


def _rebuild_parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    return tensor


def _ordered_dict() -> OrderedDict[object, object]:
    return OrderedDict()


def _scalar(dtype: Placeholder, content: bytes) -> float:
    code = str(dtype.arguments[0])
    if code not in ("f8", "f4", "i8", "i4") or len(content) != int(code[1]):
        raise pickle.UnpicklingError(f"it has a NumPy number of unsupported type {code!r}")
    return float(np.frombuffer(content, f"<{code}")[0])


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that pickle protocol 2 stores as text; only short ones, of numbers, occur."""
    if encoding != "latin1" or len(text) > 16:
        raise pickle.UnpicklingError(f"it has {len(text)} bytes stored as {encoding} text")
    return text.encode(encoding)


_ALLOWED_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encode,
}
_PLACEHOLDER_GLOBALS = {"torch.device", "torch.Size", "numpy.dtype", "yaml.loader.FullLoader"}
_PLACEHOLDER_GLOBALS |= {f"torch.{storage}" for storage in _STORAGE_DTYPES}


def check_opcodes(pickled: bytes) -> None:
    """Reject opcodes that no checkpoint has, and memo indices that would exhaust the memory."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name not in _ALLOWED_OPCODES:
            raise pickle.UnpicklingError(f"it has the opcode {opcode.name}, which is not allowed")
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError("its memo is larger than the pickle")


def _tensors(values: Mapping[str, object]) -> dict[str, StoredTensor]:
    return {str(name): value for name, value in values.items() if isinstance(value, StoredTensor)}


def _final_config(config: object) -> dict[str, Any]:
    """Return the `final_config_dict` of RecBole's Config object."""
    state = config.state if isinstance(config, Placeholder) else None
    final = state.get("final_config_dict") if isinstance(state, dict) else None
    if not isinstance(final, dict) or not all(isinstance(key, str) for key in final):
        raise pickle.UnpicklingError("its config is not a Config of RecBole")
    return final


def _open_archive(path: Path) -> zipfile.ZipFile:
    """Open the zip archive; ModelError if it is not one that `torch.save` could have written."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, ValueError) as error:
        raise ModelError(
            f"{path} is not in torch's zip format ({error}); load and save it once with torch 1.6 "
            "or newer."
        ) from error
    problem = _find_problem(archive, path.stat().st_size)
    if problem:
        archive.close()
        raise ModelError(
            f"{path} was not written by torch.save: {problem}; nothing in it was executed."
        )
    return archive


def _find_problem(archive: zipfile.ZipFile, file_size: int) -> str:
    """Return what makes an archive unsafe or not one of torch, or an empty text."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    links = [info.filename for info in infos if stat.S_ISLNK(info.external_attr >> 16)]
    invalid = [name for name in names if name in links or not _ENTRY_NAME.fullmatch(name)]
    if invalid:
        is_link = " that is a link" if invalid[0] in links else ""
        return f"it has an entry {invalid[0]!r}{is_link}"
    if len(set(names)) < len(names) or len(names) > _MAX_ENTRIES:
        return "it has too many entries, or two of the same name"
    if len({name.partition("/")[0] for name in names}) != 1:
        return "its entries are in several folders"
    uncompressed = all(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        for info in infos
    )
    if not uncompressed or sum(info.file_size for info in infos) > file_size:
        return "its entries are compressed"
    pickles = [info.file_size for info in infos if info.filename.endswith("/data.pkl")]
    if not pickles or pickles[0] > _MAX_PICKLE_BYTES:
        return f"its data.pkl is missing or larger than {_MAX_PICKLE_BYTES:,} bytes"
    return ""


def _root(archive: zipfile.ZipFile) -> str:
    return archive.namelist()[0].partition("/")[0]


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(f"{_root(archive)}/{name}")
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"{archive.filename} is damaged: {error}; restore the file.") from error


def _view(content: bytearray, stored: StoredTensor, path: Path) -> Tensor:
    """Return a tensor that shares memory with the bytes of its storage."""
    try:
        flat = torch.frombuffer(content, dtype=stored.dtype)
        return flat.as_strided(stored.shape, stored.stride, stored.offset)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged: a tensor lies outside its storage; restore the file."
        ) from error
