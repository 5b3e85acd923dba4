"""RecBole's `.pth`: read without running anything in it, rewritten with other numbers.

The file is a zip of one pickle and of raw numbers. The pickle may name a dozen harmless things;
what RecBole itself put there becomes an inert stand-in, and anything else is refused by name.
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

_MOST_ENTRIES = 10_000
_MOST_PICKLE = 2**24
"""Bytes of the pickle; RecBole's has some ten thousand."""
_ENTRY = re.compile(r"(?!\.\.?/)[^/\\]+/(data\.pkl|data/[0-9]+|version|byteorder|\.[\w/]+)")
_OPERATIONS = frozenset(
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
"""What a pickle of a checkpoint is made of."""
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class Inert:
    """What stands for an object of a class that is not imported: what it was given, no more."""

    path: ClassVar[str] = ""
    """Where the class is said to be, like "recbole.config.configurator.Config"."""
    arguments: tuple[object, ...] = ()
    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class Stored(NamedTuple):
    """A tensor that still lies in the file."""

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A RecBole checkpoint: plain values, and tensors read when they are asked for.

    Attributes:
        path: the file.
        config: RecBole's final settings, a plain dict.
        state: name -> tensor of the model.
        cached: name -> tensor that the model keeps beside its weights, such as LightGCN's sums.
        best_valid_score: the validation value it was saved for.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, Stored]
    cached: dict[str, Stored]
    best_valid_score: float

    def tensor(self, stored: Stored) -> Tensor:
        """Return a tensor, in memory of its own; ModelError where the file has no such numbers."""
        with _opened(self.path) as archive:
            return _view(bytearray(_read(archive, f"data/{stored.key}")), stored, self.path).clone()

    def write(self, target: Path, values: Mapping[Stored, Tensor]) -> None:
        """Write the file again with other numbers in some tensors; all else stays byte for byte."""
        changed: dict[str, bytearray] = {}
        buffer = io.BytesIO()
        with _opened(self.path) as archive:
            for stored, value in values.items():
                if stored.key not in changed:
                    changed[stored.key] = bytearray(_read(archive, f"data/{stored.key}"))
                _view(changed[stored.key], stored, self.path).copy_(value)
            with zipfile.ZipFile(buffer, "w") as copy:
                for info in archive.infolist():
                    key = info.filename.partition("/data/")[2]
                    content = bytes(changed[key]) if key in changed else archive.read(info)
                    copy.writestr(zipfile.ZipInfo(info.filename, info.date_time), content)
        write_atomically(target, buffer.getvalue())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of RecBole without executing anything in it.

    Raises:
        ModelError: no such file, not torch's zip format, damaged, or a pickle that names anything
            but tensors, plain values and RecBole's own classes.
    """
    with _opened(path) as archive:
        pickled = _read(archive, "data.pkl")
        if f"{_root(archive)}/byteorder" in archive.namelist():
            order = _read(archive, "byteorder")
            if order != b"little":
                raise ModelError(f"{path} was written on a machine that stores numbers backwards.")
    try:
        _check_operations(pickled)
        content = _Reader(io.BytesIO(pickled)).load()
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
            f"{path} is no checkpoint of RecBole ({type(error).__name__}: {error}); nothing in it "
            "was executed."
        ) from error


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    size: int


class _Reader(pickle.Unpickler):
    """Builds plain values, `Stored` tensors and `Inert` objects; no import, no call of theirs."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        path = f"{module}.{name}"
        if path in _KNOWN:
            return partial(_KNOWN[path])  # a new one: whatever is done to it is done to it alone
        if module.partition(".")[0] == "recbole" or path in _INERT:
            return type("Inert", (Inert,), {"path": path})
        raise pickle.UnpicklingError(f"it names {path}, which a checkpoint has no use for")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - pickle's signature
        kind, storage, key, _, size = pid
        dtype = _DTYPES.get(storage.path.rpartition(".")[2])
        if kind != "storage" or dtype is None or not re.fullmatch("[0-9]+", key):
            raise pickle.UnpicklingError(f"it holds a storage that is not known: {storage.path}")
        return _Storage(key, dtype, _count(size))


def _count(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise pickle.UnpicklingError(f"{number!r} is no size")
    return number


def _rebuilt_tensor(
    storage: _Storage, offset: int, shape: Sequence[int], stride: Sequence[int], *_: object
) -> Stored:
    sizes, steps = tuple(map(_count, shape)), tuple(map(_count, stride))
    start = _count(offset)
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if math.prod(sizes) > storage.size or last >= max(1, storage.size):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return Stored(storage.key, storage.dtype, start, sizes, steps)


def _rebuilt_parameter(tensor: Stored, *_: object) -> Stored:
    return tensor


def _ordered() -> OrderedDict[object, object]:
    return OrderedDict()


def _scalar(dtype: Inert, content: bytes) -> float:
    code = str(dtype.arguments[0])
    if code not in ("f8", "f4", "i8", "i4") or len(content) != int(code[1]):
        raise pickle.UnpicklingError(f"a NumPy number of type {code!r}")
    return float(np.frombuffer(content, f"<{code}")[0])


def _encoded(text: str, encoding: str) -> bytes:
    """Return bytes, which pickles of protocol 2 write as text; short: only numbers need it."""
    if encoding != "latin1" or len(text) > 16:
        raise pickle.UnpicklingError(f"{len(text)} bytes written as {encoding} text")
    return text.encode(encoding)


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor_v2": _rebuilt_tensor,
    "torch._utils._rebuild_parameter": _rebuilt_parameter,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
}
_INERT = {"torch.device", "torch.Size", "numpy.dtype", "yaml.loader.FullLoader"}
_INERT |= {f"torch.{storage}" for storage in _DTYPES}


def _check_operations(pickled: bytes) -> None:
    """Refuse what no checkpoint needs, and the one operation that claims memory by a number."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if operation.name not in _OPERATIONS:
            raise pickle.UnpicklingError(f"the operation {operation.name}")
        if operation.name == "LONG_BINPUT" and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError("a memo far larger than the pickle")


def _tensors(values: Mapping[str, object]) -> dict[str, Stored]:
    return {str(name): value for name, value in values.items() if isinstance(value, Stored)}


def _final_config(config: object) -> dict[str, Any]:
    """Return the settings that RecBole's Config object came to."""
    state = config.state if isinstance(config, Inert) else None
    final = state.get("final_config_dict") if isinstance(state, dict) else None
    if not isinstance(final, dict) or not all(isinstance(key, str) for key in final):
        raise pickle.UnpicklingError("its config is not RecBole's")
    return final


def _opened(path: Path) -> zipfile.ZipFile:
    """Open torch's zip; ModelError for anything that torch would not have written."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, ValueError) as error:
        raise ModelError(
            f"{path} is not in torch's zip format ({error}); load and save it once with torch 1.6 "
            "or newer."
        ) from error
    problem = _problem(archive, path.stat().st_size)
    if problem:
        archive.close()
        raise ModelError(f"{path} is no checkpoint written by torch: {problem}.")
    return archive


def _problem(archive: zipfile.ZipFile, room: int) -> str:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    links = [info.filename for info in infos if stat.S_ISLNK(info.external_attr >> 16)]
    odd = next((name for name in names if name in links or not _ENTRY.fullmatch(name)), None)
    if odd is not None:
        return f"it has an entry {odd!r}{' that is a link' if odd in links else ''}"
    if len(set(names)) < len(names) or len(names) > _MOST_ENTRIES:
        return "its entries are too many or not distinct"
    if len({name.partition("/")[0] for name in names}) != 1:
        return "its entries lie in several folders"
    plain = all(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        for info in infos
    )
    if not plain or sum(info.file_size for info in infos) > room:
        return "its entries are compressed, torch's are not"
    pickles = [info.file_size for info in infos if info.filename.endswith("/data.pkl")]
    if not pickles or pickles[0] > _MOST_PICKLE:
        return f"its data.pkl is missing or larger than {_MOST_PICKLE:,} bytes"
    return ""


def _root(archive: zipfile.ZipFile) -> str:
    return archive.namelist()[0].partition("/")[0]


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(f"{_root(archive)}/{name}")
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"{archive.filename} is damaged: {error}; restore it.") from error


def _view(content: bytearray, stored: Stored, path: Path) -> Tensor:
    """Return a tensor over bytes of its storage; writing into it writes the bytes."""
    try:
        flat = torch.frombuffer(content, dtype=stored.dtype)
        return flat.as_strided(stored.shape, stored.stride, stored.offset)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is damaged: a tensor lies outside its storage.") from error
