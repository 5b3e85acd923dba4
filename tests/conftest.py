"""What all tests share."""

import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Before anything imports Triton: its kernels then run on tensors of the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Small tensors gain nothing from threads, and threads that wait for a busy core stall.
torch.set_num_threads(1)

# What is tried is the same in every run, so that a change is judged by what it changed;
# HYPOTHESIS_PROFILE=default looks for what nobody has met yet.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

_LONG = ("test_soak.py", "test_docs_notebooks.py")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no process waits for one at the end."""
    items.sort(key=lambda item: item.path.name not in _LONG)
