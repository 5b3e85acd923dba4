"""The errors that Recoach raises, each with a message that says what is wrong and what to do.

RecoachError
├── DataError     a log or a prepared dataset that cannot be used
├── ConfigError   a setting that is unknown, of the wrong type or out of range
├── ModelError    a checkpoint that does not fit its model, or a model with non-finite output
└── RunError      a run folder that is not one, incomplete or not writable
    └── BusyError a folder that another process works in
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class RecoachError(Exception):
    """Base of all errors with a message for the user; the command line prints it and exits 2."""


class DataError(RecoachError):
    """An interaction log, a frame or a prepared dataset cannot be used as it is."""


class ConfigError(RecoachError):
    """A setting is unknown, has the wrong type or is out of range."""


class ModelError(RecoachError):
    """A checkpoint does not fit its model, or a model returns non-finite numbers."""


class RunError(RecoachError):
    """A folder is not a run folder, has another version, is incomplete or is not writable."""


class BusyError(RunError):
    """Another process works in a folder.

    Attributes:
        owner: which process, since when and with which command, where this is known.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(
            f"{folder} is busy: {owner}. Wait for it, stop it, or choose another folder."
        )
        self.owner = owner


def clipped(text: str, length: int = 200) -> str:
    """Return a text for an error message, cut after `length` characters."""
    return text if len(text) <= length else f"{text[:length]}..."


def suggestion(name: str, valid_names: Iterable[str]) -> str:
    """Return a sentence that follows an unknown name: the closest valid name, or else all."""
    by_lower_case = {valid.lower(): valid for valid in valid_names}
    closest = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    if closest:
        return f"Did you mean {clipped(repr(by_lower_case[closest[0]]))}?"
    return f"Choose one of {listed(sorted(by_lower_case.values()))}."


def listed(names: Iterable[str]) -> str:
    """Return names separated by commas on one line, cut if they are long or very many."""
    printable = (name if name.isprintable() else repr(name) for name in names)
    return clipped(", ".join(clipped(name, 80) for name in printable), 600)
