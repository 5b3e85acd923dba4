"""Counts the operations of a training step that would stop a GPU, on a CPU.

A read of a device tensor on the host waits for all kernels in flight. On a CPU nothing waits, so
`DeviceReads` tracks which tensors would be on the device: the weights, whatever `.to(device)`
returns, tensors that are made with a device, and all results of operations on those. Tensors that
the host makes for itself (draws from a generator on the CPU, arrays of numpy) may be read.
"""

from collections import Counter

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
_READS = {
    _ATEN._local_scalar_dense,
    _ATEN.item,
    _ATEN.is_nonzero,
    _ATEN.equal,
    _ATEN.nonzero,
    _ATEN.masked_select,
    _ATEN._unique,
    _ATEN._unique2,
    _ATEN.unique_dim,
    _ATEN.unique_consecutive,
    _ATEN.unique_dim_consecutive,
    _ATEN.bincount,  # reads its largest value
    _ATEN.isin,  # sorts distinct values
    _ATEN._coalesce,
}
"""Operations that read a device tensor on the host, or whose shapes depend on its values."""
_TO_HOST = ("tolist", "numpy", "cpu", "__array__")
"""Methods of tensors that read without an operation."""


class DeviceReads(TorchDispatchMode):
    """Within this context, counts in `reads` the operations that would stop a device.

    Args:
        tensors: those that are on the device from the start, such as the weights of a model.
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._functions = _Methods(self)
        for tensor in tensors:
            self.mark(tensor)

    def __enter__(self):
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._functions.__exit__(*error)

    def mark(self, value: object) -> None:
        """Note that a tensor is on the device."""
        for storage in _storages(value):
            self._storages[storage.data_ptr()] = storage  # kept: its address is not used again

    def is_on_device(self, value: object) -> bool:
        return any(storage.data_ptr() in self._storages for storage in _storages(value))

    def count(self, name: str) -> None:
        self.reads[name] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_device = any(self.is_on_device(leaf) for leaf in leaves)
        if is_device and _reads(func, args, kwargs):
            self.count(str(func))
        result = func(*args, **kwargs)
        if is_device:
            for leaf in tree_leaves(result):
                self.mark(leaf)
        return result


class _Methods(TorchFunctionMode):
    """Sees what no dispatch shows: reads by methods of tensors, and moves between devices."""

    def __init__(self, reads: DeviceReads) -> None:
        self._reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _TO_HOST and args and self._reads.is_on_device(args[0]):
            self._reads.count(name)
        target = kwargs.get("device") or next(
            (arg for arg in args[1:] if isinstance(arg, torch.device)), None
        )
        if name == "to" and isinstance(target, torch.device):
            if not kwargs.get("non_blocking") and not self._reads.is_on_device(args[0]):
                self._reads.count("to(device) that waits")
            result = args[0].clone()
            self._reads.mark(result)
            return result
        result = func(*args, **kwargs)
        if isinstance(target, torch.device):  # arange(..., device=x.device) and the like
            self._reads.mark(result)
        return result


def _reads(func, args, kwargs) -> bool:
    packet = func.overloadpacket
    if packet in _READS:
        return True
    if packet is _ATEN.repeat_interleave:
        return kwargs.get("output_size") is None
    if packet in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_):
        is_mask = any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        # A single number that replaces masked elements is written without their positions.
        return is_mask and not (packet is not _ATEN.index and args[2].numel() == 1)
    return False


def _storages(value: object) -> list[torch.UntypedStorage]:
    if not isinstance(value, Tensor):
        return []
    if value.is_sparse:
        return _storages(value._indices()) + _storages(value._values())
    storage = value.untyped_storage()
    return [storage] if storage.data_ptr() else []
