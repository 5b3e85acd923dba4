"""Copies of tensors to a device that do not synchronise it with the host."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device.

    A tensor of the host is copied without waiting for the kernels in flight on the device; one of a
    device is copied to the host after they have finished.
    """
    is_on_host = tensor.device.type == "cpu"
    if is_on_host and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=is_on_host)


def is_read_free(tensor: Tensor) -> bool:
    """Return whether reading a tensor synchronises nothing: it is on the host, no graph is traced.

    Shapes may then depend on values, which spares work; on a device they do not.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
