"""One process at a time in a folder, even if processes are killed."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys

import pytest

from recoach.data.config import PrepareConfig
from recoach.data.lock import lock_folder
from recoach.data.prepared import prepare
from recoach.errors import BusyError, RunError

HOLD = """
import sys, time
from pathlib import Path
from recoach.data.lock import lock_folder
sys.argv = ["/somewhere/recoach", *sys.argv[1:]]
with lock_folder(*map(Path, sys.argv[2:])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Return a function that starts a process which locks a folder; all end with the test."""
    processes = []

    def start(*paths):
        command = [sys.executable, "-c", HOLD, "run", *map(str, paths)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_the_error_names_the_first(hold, tmp_path):
    process = hold(tmp_path)
    words = rf"is busy: process {process.pid} has worked there since 20\d\d-\d\d-\d\d [\d:]+ UTC"
    for _ in range(2):  # a refused process does not spoil the note of the owner
        with pytest.raises(BusyError, match=words) as refused, lock_folder(tmp_path):
            pytest.fail("two processes hold the lock")
        assert f"(recoach run {tmp_path})" in str(refused.value)
    assert process.poll() is None


def test_the_lock_of_a_killed_process_is_free_and_its_file_is_removed(hold, tmp_path):
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with lock_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_prepares_a_dataset(hold, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u in range(4) for i in range(5)))
    process = hold(tmp_path / "set", tmp_path / ".set.lock")
    with pytest.raises(RunError, match=rf"set is busy: process {process.pid} "):
        prepare(log, tmp_path / "set", PrepareConfig(k_core=1))
    process.kill()
    process.wait()
    prepare(log, tmp_path / "set", PrepareConfig(k_core=1))
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "set"}


def test_folders_that_stay_empty_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock_folder(tmp_path / "a" / "b"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_the_lock_can_be_taken_again_in_the_same_process(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path), pytest.raises(BusyError), lock_folder(tmp_path):
            pytest.fail("the lock is held twice")


def test_a_file_removed_between_opening_and_locking_is_not_the_lock(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def late(descriptor, operation):
        if operation & fcntl.LOCK_EX:
            calls.append(descriptor)
            if len(calls) == 1:
                (tmp_path / ".lock").unlink()  # its owner ends at this moment
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_folder(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".lock").exists()


def test_an_unreadable_note_still_means_busy(hold, tmp_path):
    hold(tmp_path)
    (tmp_path / ".lock").write_text("")
    refused = pytest.raises(BusyError, match="busy: another process works there")
    with refused, lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_raises_a_warning(tmp_path, monkeypatch, code):
    def unsupported(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match=re.escape("has no locks")), lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(RunError, match=r"file/run: cannot be written \(.*\)\. Choose a folder")
    with refused, lock_folder(tmp_path / "file/run"):
        pass
