"""Ctrl-C and SIGTERM: training saves a checkpoint and stops, other commands stop at once."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from recoach.cli.console import errors

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_RESUMABLE = ("demo", "finetune", "pretrain", "run")
"""Commands that continue with --resume."""
_REPEATABLE = ("data", "evaluate", "reproduce", "search", *_RESUMABLE)
"""Commands that continue, or lose no finished work, if they are run again."""


class _StopError(KeyboardInterrupt):
    """Raised by the signal handler.

    A subclass, because Python ends by SIGINT if a plain KeyboardInterrupt comes out of C code.
    """


class _State:
    signal_number: int = 0
    """The first signal received, 0 if there was none."""
    training: bool = False
    """Whether a training loop checks `stop_requested` after each step."""


_state = _State()


def begin_training() -> None:
    """Let the training loop handle the next signal: it stops after its current step."""
    _state.training = True


def end_training() -> None:
    """Let signals stop the program at once again.

    Raises:
        KeyboardInterrupt: a signal arrived during training.
    """
    _state.training = False
    if stop_requested():
        raise KeyboardInterrupt


def stop_requested() -> bool:
    """Return whether Ctrl-C or SIGTERM was received."""
    return bool(_state.signal_number)


def record_keyboard_interrupt() -> None:
    """Treat a KeyboardInterrupt that was raised without a signal like Ctrl-C."""
    _state.signal_number = _state.signal_number or signal.SIGINT


def clear_stop_request() -> None:
    """Forget the signal, so that the program ends with exit code 0."""
    _state.signal_number = 0


@contextmanager
def handle_signals() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM in the `with` block.

    A first signal lets training finish its step, with its evaluation; a second one stops at once.
    """
    _state.signal_number, _state.training = 0, False
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [(number, signal.signal(number, _on_signal)) for number in numbers]
    previous_hook = sys.unraisablehook
    sys.unraisablehook = _ignore_stop_errors(previous_hook)
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        for number, handler in previous:
            signal.signal(number, handler)


def exit_code() -> int:
    """Return 130 after Ctrl-C and 143 after SIGTERM."""
    return 128 + _state.signal_number


def interrupt_message(arguments: list[str]) -> str:
    """Return the last message of an interrupted command, with the command that continues it.

    Args:
        arguments: the command line without the name of the program.
    """
    verb = arguments[0] if arguments else ""
    if verb not in _REPEATABLE:
        return "Interrupted."
    resume = ["--resume"] if verb in _RESUMABLE and "--resume" not in arguments else []
    command = shlex.join(["recoach", *arguments, *resume])
    return f"Interrupted. Finished work is saved. Continue with: {command}"


def _ignore_stop_errors(
    previous_hook: Callable[["UnraisableHookArgs"], object],
) -> Callable[["UnraisableHookArgs"], None]:
    """Return a hook for unraisable exceptions that ignores `_StopError`.

    Python drops exceptions raised in a finaliser or in a callback of the import system;
    `stop_requested` still reports the signal.
    """

    def hook(unraisable: "UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, _StopError):
            previous_hook(unraisable)

    return hook


def _on_signal(number: int, frame: FrameType | None) -> None:
    del frame
    finish_step = _state.training and not _state.signal_number
    _state.signal_number = _state.signal_number or number
    if not finish_step:
        raise _StopError
    errors.print("Stopping after this step; press again to stop at once.")
    sys.stderr.flush()
