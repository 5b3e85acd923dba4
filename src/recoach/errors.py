"""The errors that Recoach raises, each with a message that says what is wrong and what to do.

RecoachError
├── DataError     a log or a prepared dataset that cannot be used
├── ConfigError   a setting that is unknown, of the wrong type or out of range
├── ModelError    a checkpoint that does not fit its model, or a model with non-finite output
├── OffPolicyError  a log from which the value of a policy cannot be told
└── RunError      a run folder that is not one, incomplete or not writable
    └── BusyError a folder that another process works in
"""

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

_DIRECTIONS = frozenset("\u061c\u200e\u200f\ufeff") | frozenset(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
)
"""Marks, embeddings, overrides and isolates of bidirectional text, and the byte order mark."""


class RecoachError(Exception):
    """Base of all errors with a message for the user; the command line prints it and exits 2."""


class DataError(RecoachError):
    """An interaction log, a frame or a prepared dataset cannot be used as it is."""


class ConfigError(RecoachError):
    """A setting is unknown, has the wrong type or is out of range."""


class ModelError(RecoachError):
    """A checkpoint does not fit its model, or a model returns non-finite numbers."""


class OffPolicyError(RecoachError):
    """The value of a policy cannot be told from a log.

    Attributes:
        reasons: one sentence for each rule of `recoach.ope.diagnostics` that the log breaks.
    """

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(" ".join(self.reasons))


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


def escape_controls(text: str) -> str:
    r"""Return a text in one line: control characters are escaped, so that "a<newline>" is `a\n`.

    Also escaped are line separators, lone surrogates (bytes of a path that are not UTF-8) and the
    characters that change the direction of writing. All other characters stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        _escaped(character) if _is_control(character) else character for character in text
    )


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


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
