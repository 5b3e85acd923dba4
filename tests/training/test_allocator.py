"""The settings of the memory allocator."""

import ctypes
from types import SimpleNamespace

import pytest

from recoach.training.allocator import keep_freed_memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""


@pytest.mark.parametrize("is_taken", [True, False])
def test_glibc_keeps_a_gigabyte_of_freed_blocks(is_taken, monkeypatch):
    settings = {}

    def mallopt(name, value):
        settings[name] = value
        return int(is_taken)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() is is_taken
    assert settings == {M_TRIM_THRESHOLD: 2**30, M_MMAP_THRESHOLD: 2**25}


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
