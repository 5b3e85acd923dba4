"""Callbacks: receive every step, every evaluation and the end of a training."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple


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
        """Return whether training should save after this step and raise KeyboardInterrupt."""
        return False


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
