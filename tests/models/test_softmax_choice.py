"""Which softmax over the catalogue computes the loss of which vectors."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from recoach.models.base import Embeddings
from recoach.models.sharded_softmax import (
    ShardedDistribution,
    distribution_over_items,
    has_fused_kernels,
)
from recoach.models.softmax import BlockwiseDistribution


def vectors(device, *, dim=64, dtype=torch.float32):
    with FakeTensorMode():  # a device without its memory
        return Embeddings(*(torch.empty(n, dim, device=device, dtype=dtype) for n in (4, 9)))


def set_shared_memory(monkeypatch, size):
    properties = SimpleNamespace(shared_memory_per_block_optin=size)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)


@pytest.fixture
def triton(monkeypatch):
    """Pretend to have Triton and an H100; return what takes the place of the kernels' module."""
    kernels = SimpleNamespace(FusedDistribution=object())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    set_shared_memory(monkeypatch, 232_448)
    monkeypatch.setitem(sys.modules, "recoach.models.triton_softmax", kernels)
    return kernels


def test_vectors_on_a_gpu_have_fused_kernels(triton):
    assert distribution_over_items(vectors("cuda")) is triton.FusedDistribution


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize(
    "others",
    [
        vectors("cpu"),
        vectors("cuda", dtype=torch.float64),
        vectors("cuda", dim=129),
        Embeddings(vectors("cpu").users, vectors("cuda").items),
    ],
    ids=["on the CPU", "float64", "many dimensions", "on two devices"],
)
def test_other_vectors_keep_the_blockwise_softmax(others):
    assert not has_fused_kernels(others)
    assert distribution_over_items(others) is BlockwiseDistribution


def test_without_triton_a_gpu_keeps_the_blockwise_softmax(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert distribution_over_items(vectors("cuda")) is BlockwiseDistribution


@pytest.mark.usefixtures("triton")
def test_a_gpu_with_little_shared_memory_keeps_the_blockwise_softmax(monkeypatch):
    set_shared_memory(monkeypatch, 166_912)  # an A100
    assert distribution_over_items(vectors("cuda")) is BlockwiseDistribution


@pytest.mark.usefixtures("triton")
def test_a_sharded_catalogue_keeps_its_own_softmax():
    chosen = distribution_over_items(vectors("cuda"), first_item=0)
    assert (chosen.func, chosen.keywords) == (ShardedDistribution, {"start": 0})
