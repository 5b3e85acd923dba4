"""Lock a folder, so that one process at a time works in it.

The operating system holds the lock and releases it with the process: the lock file of a killed
process blocks nobody. The file says which process holds the lock.
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

from filelock import FileLock, Timeout

from recoach import distributed
from recoach.errors import BusyError, RunError

LOCK_FILE = ".lock"
"""The lock file in a folder that a process works in."""
_TIMEOUT, _POLL_INTERVAL = 0.1, 0.02
"""Seconds; long enough to retry when the owner removes its lock file at this moment."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of file systems without locks."""
_OWNER_OFFSET = 1
"""Windows denies reading the first byte of the file, which is the one that is locked."""


@contextmanager
def lock_folder(folder: Path, lock_file: Path | None = None) -> Iterator[None]:
    """Hold the lock of a folder. Under torchrun only the main process locks.

    The file to lock is `LOCK_FILE` in the folder unless another one is given. Its missing parent
    folders are made, and removed in the end if they are empty.

    Raises:
        BusyError: another process holds the lock; the message names its command and its start.
        RunError: the folder is not writable.
    """
    if not distributed.is_main_process():
        yield
        return
    path = lock_file or folder / LOCK_FILE
    made_folders = _make_folders(path.parent)
    try:
        lock = _acquire(path, folder)
        try:
            yield
        finally:
            _release(lock, path)
    finally:
        for parent in made_folders:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents and return those that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return missing


def _acquire(path: Path, folder: Path) -> FileLock:
    lock = FileLock(path, timeout=_TIMEOUT, poll_interval=_POLL_INTERVAL, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(folder, _read_owner(path)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise _not_writable(folder, error) from error
        warnings.warn(
            f"{folder}: this file system has no locks ({error.strerror}). Let no other process "
            "work there.",
            stacklevel=4,
        )
    _write_owner(path)
    return lock


def _release(lock: FileLock, path: Path) -> None:
    """Remove the lock file while the lock is held; a process that waits for it notices."""
    if sys.platform == "win32":  # an open file cannot be removed
        lock.release()
        with contextlib.suppress(OSError):  # the next process has opened it already
            path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
        lock.release()


def _write_owner(path: Path) -> None:
    """Write which process holds the lock; on a full disk the lock still works."""
    owner = {
        "pid": os.getpid(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
        file.truncate(_OWNER_OFFSET)
        file.seek(_OWNER_OFFSET)
        file.write(json.dumps(owner).encode())


def _read_owner(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(_OWNER_OFFSET)
            owner: dict[str, Any] = json.loads(file.read())
        return (
            f"process {owner['pid']} has worked there since {owner['since']} ({owner['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process works there"


def _not_writable(folder: Path, error: OSError) -> RunError:
    reason = error.strerror or error
    return RunError(f"{folder}: cannot be written ({reason}). Choose a folder you may write to.")
