"""One process at a time in a folder: a lock of the operating system, gone with its process.

The lock is on a file, not the file itself: what a killed process leaves behind locks nothing.
"""

import contextlib
import errno
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recoach import distributed
from recoach.errors import BusyError, RunError

LOCK = ".lock"
"""The file in a folder that is being worked in."""
_BUSY = {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
_FAR = 1 << 30
"""Where Windows locks a byte: elsewhere than where others read who it is."""

if sys.platform == "win32":
    import msvcrt

    def _claim(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _claim(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def alone(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Work in a folder while no other process does.

    Args:
        folder: what is worked in.
        lock: the file to lock, where it cannot lie in the folder. Its folder is made if it is not
            there, and taken away if it is empty at the end.

    Raises:
        BusyError: another process works there, named with its command and since when.
        RunError: the folder cannot be written.
    """
    if not distributed.is_main_process():  # of processes that work together the first holds it
        yield
        return
    path = lock or folder / LOCK
    made = _make(path.parent)
    try:
        descriptor = _locked(path, folder)
        try:
            yield
        finally:
            if sys.platform != "win32":  # there, an open file cannot be removed
                path.unlink(missing_ok=True)
            os.close(descriptor)
            if sys.platform == "win32":
                with contextlib.suppress(OSError):  # the next one has it already
                    path.unlink(missing_ok=True)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # no longer empty: it stays
                parent.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and return what had to be made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return missing


def _locked(path: Path, folder: Path) -> int:
    """Return the open descriptor of a lock file that nobody else holds."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            _claim(descriptor)
        except OSError as error:
            if error.errno in _BUSY:
                os.close(descriptor)
                raise BusyError(folder, _owner(path)) from None
            warnings.warn(
                f"{folder}: this file system knows no locks ({error.strerror}); let no other "
                "process work there.",
                stacklevel=3,
            )
            return descriptor
        if _is(path, descriptor):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)  # its owner took the file away between the opening and the lock


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write down who works here; a full disk spoils the note, not the lock."""
    owner = {
        "pid": os.getpid(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(owner).encode())


def _owner(path: Path) -> str:
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
        return (
            f"process {owner['pid']} has worked there since {owner['since']} ({owner['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process works there"


def _unwritable(folder: Path, error: OSError) -> RunError:
    reason = error.strerror or error
    return RunError(f"Cannot write in {folder}: {reason}. Choose a folder you may write to.")
