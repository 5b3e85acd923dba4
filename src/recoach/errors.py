"""The errors a user can meet, each a sentence that says what to do.

RecoachError
├── DataError     a log or a prepared set that cannot be used
├── ConfigError   a setting that is unknown, of the wrong type or out of range
├── ModelError    a checkpoint that does not fit, or a model that has diverged
└── RunError      a run folder that is foreign or cannot be written
    └── BusyError one that another process works in
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class RecoachError(Exception):
    """Base of all errors raised for the user's sake; the command line prints it and exits 2."""


class DataError(RecoachError):
    """An interaction log, a frame or a prepared folder cannot be used as it is."""


class ConfigError(RecoachError):
    """A setting is unknown, has the wrong type or lies out of range."""


class ModelError(RecoachError):
    """A checkpoint does not fit its model, or a model yields non-finite numbers."""


class RunError(RecoachError):
    """A run folder is foreign, of another version, incomplete or not writable."""


class BusyError(RunError):
    """Another process works in a folder; `who` says which."""

    def __init__(self, folder: Path, who: str) -> None:
        super().__init__(
            f"{folder} is busy: {who}. Wait for it, stop it, or choose another folder."
        )
        self.who = who


def clipped(text: str, length: int = 200) -> str:
    """Return a text for a message, cut where it is long."""
    return text if len(text) <= length else f"{text[:length]}..."


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return how to go on after an unknown word: the nearest known one, or else all of them."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    if near:
        return f"did you mean {clipped(repr(names[near[0]]))}?"
    return f"there are {listed(sorted(names.values()))}."


def listed(names: Iterable[str]) -> str:
    """Return names for a message on one line, cut where they are long or very many."""
    shown = (name if name.isprintable() else repr(name) for name in names)
    return clipped(", ".join(clipped(name, 80) for name in shown), 600)
