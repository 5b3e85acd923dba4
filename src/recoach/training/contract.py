"""What the training loop runs."""

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from recoach.data.queries import Queries
from recoach.models.base import Recommender
from recoach.training.work import StepWork

Batch = TypeVar("Batch")
Logs = Mapping[str, float | Tensor]
"""Numbers to log by name; those of a device are float[] tensors, read once at the end of a step."""


class Trainer(Protocol[Batch]):
    """What the loop runs: batches, and a step that updates the weights."""

    model: Recommender
    optimiser: torch.optim.Optimizer

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch."""

    def step(self, batch: Batch, generator: torch.Generator) -> Logs:
        """Update the weights on a batch and return what to log, including `loss`.

        Nothing is read from the device of the weights, so that the host never waits for it.
        """

    def work(self, batch: Batch) -> StepWork:
        """Return what the step on this batch has computed; called after the step."""

    def users(self, batch: Batch) -> list[str]:
        """Return the ids of the first users of a batch, for messages."""

    def before_step(self, step: int) -> None:
        """Called before the next step, after `step` steps; a resumed run calls it once too."""

    def checkpointed_modules(self) -> Mapping[str, nn.Module]:
        """Return the modules beside the model that change in training, under stable names."""

    def diagnostics(self) -> dict[str, float]:
        """Return what to log at each evaluation."""

    def __len__(self) -> int:
        """Return the approximate number of batches in an epoch, for a progress bar."""


def read_logs(logs: Logs) -> dict[str, float]:
    """Return logs as numbers of Python, read from their device in one transfer."""
    tensors = {name: value for name, value in logs.items() if isinstance(value, Tensor)}
    if not tensors:
        return {name: float(value) for name, value in logs.items()}
    numbers = torch.stack([value.detach().double() for value in tensors.values()]).tolist()
    read = dict(zip(tensors, numbers, strict=True))
    return {name: read[name] if name in read else float(value) for name, value in logs.items()}


def encoded_histories(model: Recommender, queries: Queries) -> int:
    """Return the number of histories that a model encodes for these states."""
    return len(queries.history) if model.history_length else 0
