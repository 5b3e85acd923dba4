"""One process at a time in a folder, whatever becomes of the processes."""

import os
import re
import signal
import subprocess
import sys

import pytest

from recoach.data.lock import alone
from recoach.data.prepared import PrepareConfig, prepare
from recoach.errors import RunError

HOLD = """
import sys, time
from pathlib import Path
from recoach.data.lock import alone
sys.argv = ["/somewhere/recoach", *sys.argv[1:]]
with alone(*map(Path, sys.argv[2:])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Return a function that has another process work in a folder; all end with the test."""
    held = []

    def start(*paths):
        command = [sys.executable, "-c", HOLD, "run", *map(str, paths)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        held.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in held:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_is_refused_and_told_by_whom_and_since_when(hold, tmp_path):
    process = hold(tmp_path)
    words = rf"is busy: process {process.pid} has worked there since 20\d\d-\d\d-\d\d [\d:]+ UTC"
    with pytest.raises(RunError, match=words) as refused, alone(tmp_path):
        pytest.fail("both are in")
    assert f"(recoach run {tmp_path})" in str(refused.value)
    assert process.poll() is None


def test_a_killed_process_locks_nobody_out_and_the_next_one_takes_its_file_away(hold, tmp_path):
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with alone(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_set_is_made_by_one_at_a_time(hold, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u in range(4) for i in range(5)))
    process = hold(tmp_path / "set", tmp_path / ".set.lock")
    with pytest.raises(RunError, match=rf"set is busy: process {process.pid} "):
        prepare(log, tmp_path / "set", PrepareConfig(k_core=1))
    process.kill()
    process.wait()
    prepare(log, tmp_path / "set", PrepareConfig(k_core=1))
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "set"}


def test_folders_made_for_nothing_are_taken_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), alone(tmp_path / "a" / "b"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_file_taken_away_between_opening_and_locking_is_not_the_lock(tmp_path, monkeypatch):
    from recoach.data import lock

    plain, calls = lock._claim, []

    def late(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()  # its owner ends just now
        plain(descriptor)

    monkeypatch.setattr(lock, "_claim", late)
    with alone(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".lock").exists()


def test_a_note_that_cannot_be_read_is_not_needed(hold, tmp_path):
    hold(tmp_path)
    (tmp_path / ".lock").write_text("")
    with pytest.raises(RunError, match="busy: another process works there"), alone(tmp_path):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    from recoach.data import lock

    def unknown(_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "_claim", unknown)
    with pytest.warns(UserWarning, match=re.escape("knows no locks")), alone(tmp_path):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot write in .*file/run"), alone(tmp_path / "file/run"):
        pass
