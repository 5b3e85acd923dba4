"""What all tests share."""

import os

import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and threads that wait for a busy core stall.
torch.set_num_threads(1)

# What is tried is the same in every run, so that a change is judged by what it changed;
# HYPOTHESIS_PROFILE=default looks for what nobody has met yet.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
