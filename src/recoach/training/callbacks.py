"""Who watches a training: every step, every evaluation, its end."""

from collections.abc import Iterable
from typing import NamedTuple


class TrainResult(NamedTuple):
    """How a training ended."""

    steps: int
    seconds: float
    best_step: int
    best_value: float
    start_value: float | None
    """Validation value before the first step, where that was measured."""
    share: float | None = None
    """How far from the start to the best the returned weights lie, where that was looked for."""


class Callback:
    """Receives what happens in training; every method may be overridden, none has to be."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def on_begin(self, total_steps: int, step: int) -> None:
        """Training starts or resumes at a step; `total_steps` is the most it can take."""

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Follow every step."""

    def on_row(self, row: dict[str, float]) -> None:
        """Follow every evaluation, with the averages since the last one."""

    def on_end(self, outcome: TrainResult) -> None:
        """Training has ended and the selected weights are in the model."""

    def stops(self) -> bool:
        """Return whether the training should save after this step and raise KeyboardInterrupt."""
        return False


class CallbackList(Callback):
    """Several as one, told in their order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._all = tuple(callbacks)

    def on_begin(self, total_steps: int, step: int) -> None:
        """Tell all."""
        for one in self._all:
            one.on_begin(total_steps, step)

    def on_step(self, step: int, logs: dict[str, float]) -> None:
        """Tell all."""
        for one in self._all:
            one.on_step(step, logs)

    def on_row(self, row: dict[str, float]) -> None:
        """Tell all."""
        for one in self._all:
            one.on_row(row)

    def on_end(self, outcome: TrainResult) -> None:
        """Tell all."""
        for one in self._all:
            one.on_end(outcome)

    def stops(self) -> bool:
        """Return whether one wants to stop."""
        return any(one.stops() for one in self._all)
