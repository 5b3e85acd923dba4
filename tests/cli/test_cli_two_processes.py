"""Real processes: two in one folder, signals, a disk that is full."""

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time

import pytest

from recoach.cli import interrupts


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*arguments, **options):
    command = [sys.executable, "-m", "recoach.cli.main", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes, **options)


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def long(toml, tmp_path):
    """Return an experiment that runs until it is told to stop."""
    text = toml.read_text().replace("epochs = 3", "epochs = 10000\npatience = 0")
    (tmp_path / "long.toml").write_text(text)
    return tmp_path / "long.toml"


@pytest.fixture
def working(long, tmp_path):
    """Return a process that trains in tmp_path / "run"."""
    process = start("run", long, "--output", tmp_path / "run")
    wait_for(tmp_path / "run/checkpoints/base/last.safetensors", process)
    yield process
    process.kill()
    process.communicate()


def test_nobody_else_writes_into_a_run_that_is_running(recoach, working, long, tmp_path):
    run = tmp_path / "run"
    before = (run / "config.toml").stat().st_mtime_ns
    verbs = [("run", long, "--output", run, "--resume"), ("run", long, "--output", run)]
    verbs += [("pretrain", tmp_path / "log.csv", "--output", run), ("finetune", run)]
    for verb in [*verbs, ("evaluate", run)]:
        said = recoach(*verb)
        assert said.code == 2
        assert f"{run} is busy: process {working.pid} has worked there since 20" in said.err
        assert "(main.py run " in said.err
    assert (run / "config.toml").stat().st_mtime_ns == before
    assert working.poll() is None


def test_one_search_at_a_time(recoach, toml, tmp_path):
    from recoach.data.lock import lock_folder

    other = "import sys,time; from pathlib import Path; from recoach.data.lock import lock_folder\n"
    other += "with lock_folder(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    search = ["search", toml, "--output", tmp_path / "s", "--trials", 1]
    for folder in (tmp_path / "s", tmp_path / "s/base"):
        command = [sys.executable, "-c", other, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline()
        try:
            said = recoach(*search)
            assert said.code == 2, said
            assert f"{folder} is busy: process {process.pid}" in said.err
        finally:
            process.kill()
            process.communicate()
    with lock_folder(tmp_path / "s"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_saved_with_the_command_that_goes_on(working, tmp_path, number):
    working.send_signal(number)
    _, err = working.communicate(timeout=60)
    assert working.returncode == 128 + number
    assert err.startswith("Stopping after this step; press again to stop at once.\nInterrupted.")
    assert err.count("\n") == 2
    (command,) = re.findall(r"Continue with: recoach (.*)\n", err)
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_file()]
    again = start(*shlex.split(command))
    line = ""
    while "from step" not in line:
        line = again.stdout.readline()
        assert line, again.communicate()
    again.kill()
    again.communicate()


@pytest.mark.parametrize("seconds", [0.9, 2.0, *map(slow, (0.2, 0.5, 1.3, 1.4, 1.5, 1.7, 2.6))])
def test_a_signal_at_any_time_is_no_traceback(toml, tmp_path, seconds):
    process = start("run", toml, "--output", tmp_path / "run")
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    # Before our first line Python itself ends by the signal.
    assert process.returncode in (143, -signal.SIGTERM, 0), err
    assert "Traceback" not in err


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [3_000, 60_000, *map(slow, (500, 20_000, 80_000))])
def test_a_file_that_does_not_fit_is_one_sentence_and_costs_nothing(
    *, recoach, toml, finished, tmp_path, look, size
):
    path = tmp_path / "run"
    process = start("run", toml, "--output", path, preexec_fn=limited(size))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "File too large" in err
    assert err.count("\n") == 1, err
    assert not [left for left in tmp_path.rglob(".*") if left.is_file()]
    assert recoach("run", toml, "--output", path, "--resume").code == 0
    assert look.weights(path) == look.weights(finished)
    assert look.numbers(path) == look.numbers(finished)
    assert look.metrics(path) == look.metrics(finished)


def test_a_signal_where_python_cannot_raise_is_remembered_and_quiet(capsys):
    class Ends:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    class Fails:
        def __del__(self):
            raise ValueError("another's")

    with interrupts.handle_signals():
        ends, told = Ends(), []
        del ends
        assert interrupts.stop_requested()
    assert capsys.readouterr().err == ""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "unraisablehook", told.append)
        with interrupts.handle_signals():
            fails = Fails()
            del fails
    assert len(told) == 1
