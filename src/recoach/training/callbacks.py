"""Callbacks: receive every step, every evaluation and the end of a training."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from recoach.training.work import Work


class TrainResult(NamedTuple):
    """How a training ended."""

    steps: int
    seconds: float
    best_step: int
    best_value: float
    start_value: float | None
    """Validation value before the first step, where it was measured."""
    share: float | None = None
    """Position of the returned weights between the start (0) and the best (1), where weights were
    interpolated."""
    total_steps: int = 0
    """Steps over which the learning rate is scheduled: the maximum number of steps, or with the
    schedule `step` those between two changes."""
    work: Work | None = None
    """What was computed; None where a part of the training was by an earlier version or elsewhere.
    """


class Callback:
    """Receives the events of a training; override the methods you need."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def on_begin(self, total_steps: int, step: int) -> None:
        """Training starts or resumes at a step; `total_steps` is the maximum."""

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """A step is done."""

    def on_row(self, row: dict[str, float]) -> None:
        """An evaluation is done; `row` also holds the averages since the last one."""

    def on_end(self, outcome: TrainResult) -> None:
        """Training has ended and the selected weights are in the model."""

    def stops(self) -> bool:
        """Return whether training should end after this step.

        It saves a checkpoint and returns the best weights so far (without an evaluation yet, the
        present ones), without interpolation. A checkpoint resumes as if it had not been stopped.
        """
        return False


@dataclass(slots=True)
class TrainerState:
    """How far a training is, in the words of `TrainerState` in transformers."""

    global_step: int = 0
    """Number of steps taken."""
    max_steps: int = 0
    """Maximum number of steps."""
    epoch: float = 0.0
    """Number of finished epochs at the last evaluation."""
    best_metric: float | None = None
    """Best validation value so far; after the end, that of the returned weights."""
    best_global_step: int | None = None
    """The step of that value; 0 is the model before training."""
    log_history: list[dict[str, float]] = field(default_factory=list)
    """The row of each evaluation (see docs/reference/diagnostics.md), oldest first; of a resumed
    training those since it resumed."""


class StateRecorder(Callback):
    """Keeps a `TrainerState` up to date."""

    def __init__(self, state: TrainerState, metric: str) -> None:
        self._state, self._name = state, f"valid/{metric}"

    def on_begin(self, total_steps: int, step: int) -> None:
        """Record the maximum number of steps."""
        self._state.max_steps, self._state.global_step = total_steps, step

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Record the step."""
        self._state.global_step = step

    def on_row(self, row: dict[str, float]) -> None:
        """Record the row, and its value if it is the best."""
        state, value = self._state, row.get(self._name)
        state.log_history.append(dict(row))
        state.epoch = row["epoch"]
        if value is not None and (state.best_metric is None or value > state.best_metric):
            state.best_metric, state.best_global_step = value, int(row["step"])

    def on_end(self, outcome: TrainResult) -> None:
        """Record what was selected."""
        state = self._state
        state.global_step = outcome.steps
        if math.isfinite(outcome.best_value):
            state.best_metric, state.best_global_step = outcome.best_value, outcome.best_step


class CallbackList(Callback):
    """Calls several callbacks in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_begin(self, total_steps: int, step: int) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.on_begin(total_steps, step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.on_step(step, logs)

    def on_row(self, row: dict[str, float]) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.on_row(row)

    def on_end(self, outcome: TrainResult) -> None:
        """Call all."""
        for callback in self._callbacks:
            callback.on_end(outcome)

    def stops(self) -> bool:
        """Return whether any of them stops the training."""
        return any(callback.stops() for callback in self._callbacks)


_RENAMED = {"Observer": Callback, "Observers": CallbackList, "Outcome": TrainResult}
"""Names of earlier versions."""


def __getattr__(name: str) -> type:
    """Return a class by its former name, with a DeprecationWarning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{name} is now recoach.training.callbacks.{_RENAMED[name].__name__}; the old name will be "
        "removed.",
        DeprecationWarning,
        stacklevel=2,
    )
    return _RENAMED[name]
