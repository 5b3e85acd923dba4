"""Ctrl-C and SIGTERM: a training saves after its step and ends, everything else ends at once."""

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

_RESUMED = ("demo", "finetune", "pretrain", "run")
"""Verbs that go on where they are told --resume."""
_REPEATED = ("data", "evaluate", "reproduce", "search", *_RESUMED)
"""Verbs that go on, or lose nothing, when given again."""


class _StopError(KeyboardInterrupt):
    """As KeyboardInterrupt; Python ends by SIGINT if one of those has come through C code."""


class _State:
    number: int = 0
    """The signal that has come, 0 for none."""
    training: bool = False
    """Whether a training looks at `number` after each step."""


_state = _State()


def begin_training() -> None:
    """Say that a training begins, which ends itself when it is asked to."""
    _state.training = True


def end_training() -> None:
    """Say that it is over; KeyboardInterrupt where somebody has asked to stop meanwhile."""
    _state.training = False
    if asked():
        raise KeyboardInterrupt


def asked() -> bool:
    """Return whether somebody wants the program to end."""
    return bool(_state.number)


def note() -> None:
    """Take a KeyboardInterrupt that came without a signal for one by Ctrl-C."""
    _state.number = _state.number or signal.SIGINT


def forget() -> None:
    """Take a signal for dealt with."""
    _state.number = 0


@contextmanager
def watched() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a saved end of the program.

    A training is left to end its step, evaluations included; a second signal does not wait.
    """
    _state.number, _state.training = 0, False
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, _come)) for number in numbers]
    told, sys.unraisablehook = sys.unraisablehook, _quiet(sys.unraisablehook)
    try:
        yield
    finally:
        sys.unraisablehook = told
        for number, handler in before:
            signal.signal(number, handler)


def exit_code() -> int:
    """Return 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _state.number


def farewell(words: list[str]) -> str:
    """Return what to say at the end: the command that goes on.

    Args:
        words: the command line without the program's name.
    """
    verb = words[0] if words else ""
    if verb not in _REPEATED:
        return "Interrupted."
    again = verb in _RESUMED and "--resume" not in words
    command = shlex.join(["recoach", *words, *(["--resume"] if again else [])])
    return f"Interrupted. What was finished is saved. Go on with: {command}"


def _quiet(
    told: Callable[["UnraisableHookArgs"], object],
) -> Callable[["UnraisableHookArgs"], None]:
    """Return a hook that is silent on a stop that came where Python cannot raise it.

    In a finaliser or a callback of the import system the exception is dropped; `asked` keeps it.
    """

    def hook(unraisable: "UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, _StopError):
            told(unraisable)

    return hook


def _come(number: int, frame: FrameType | None) -> None:
    del frame
    waits = _state.training and not _state.number
    _state.number = _state.number or number
    if not waits:
        raise _StopError
    errors.print("Stopping after this step; once more to stop at once.", soft_wrap=True)
    sys.stderr.flush()
