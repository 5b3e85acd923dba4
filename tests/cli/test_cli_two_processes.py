"""Real processes: two in one folder, signals, a file size limit."""

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
    """Return an experiment that runs until it is stopped."""
    text = toml.read_text().replace("epochs = 3", "epochs = 10000\npatience = 0")
    (tmp_path / "long.toml").write_text(text)
    return tmp_path / "long.toml"


@pytest.fixture
def working(long, tmp_path):
    """Yield a process that trains in tmp_path / "run"."""
    process = start("run", long, "--output", tmp_path / "run")
    wait_for(tmp_path / "run/checkpoints/base/last.safetensors", process)
    yield process
    process.kill()
    process.communicate()


def test_a_running_run_is_locked_for_other_processes(recoach, working, long, tmp_path):
    run = tmp_path / "run"
    before = (run / "config.toml").stat().st_mtime_ns
    verbs = [("run", long, "--output", run, "--resume"), ("run", long, "--output", run)]
    verbs += [("pretrain", tmp_path / "log.csv", "--output", run), ("finetune", run)]
    for verb in [*verbs, ("evaluate", run)]:
        result = recoach(*verb)
        assert result.code == 2
        assert f"{run} is busy: process {working.pid} has worked there since 20" in result.err
        assert "(main.py run " in result.err
    assert (run / "config.toml").stat().st_mtime_ns == before
    assert working.poll() is None


def test_a_search_folder_is_locked_for_other_processes(recoach, toml, tmp_path):
    from recoach.data.lock import lock_folder

    other = "import sys,time; from pathlib import Path; from recoach.data.lock import lock_folder\n"
    other += "with lock_folder(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    search = ["search", toml, "--output", tmp_path / "s", "--trials", 1]
    for folder in (tmp_path / "s", tmp_path / "s/base"):
        command = [sys.executable, "-c", other, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline()
        try:
            result = recoach(*search)
            assert result.code == 2, result
            assert f"{folder} is busy: process {process.pid}" in result.err
        finally:
            process.kill()
            process.communicate()
    with lock_folder(tmp_path / "s"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_training_and_prints_the_resume_command(working, tmp_path, number):
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
def test_a_signal_at_any_time_gives_no_traceback(toml, tmp_path, seconds):
    process = start("run", toml, "--output", tmp_path / "run")
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    # Before the handler is installed, Python itself ends by the signal.
    assert process.returncode in (143, -signal.SIGTERM, 0), err
    assert "Traceback" not in err


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [3_000, 60_000, *map(slow, (500, 20_000, 80_000))])
def test_a_file_above_the_size_limit_is_reported_and_the_run_resumes(
    *, recoach, toml, finished, tmp_path, run_files, size
):
    path = tmp_path / "run"
    process = start("run", toml, "--output", path, preexec_fn=limited(size))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "File too large" in err
    assert err.count("\n") == 1, err
    assert not [left for left in tmp_path.rglob(".*") if left.is_file()]
    assert recoach("run", toml, "--output", path, "--resume").code == 0
    assert run_files.weights(path) == run_files.weights(finished)
    assert run_files.numbers(path) == run_files.numbers(finished)
    assert run_files.metrics(path) == run_files.metrics(finished)


def test_a_signal_in_a_finaliser_is_recorded_without_output(capsys):
    class Ends:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    class Fails:
        def __del__(self):
            raise ValueError("another error")

    with interrupts.handle_signals():
        ends, reported = Ends(), []
        del ends
        assert interrupts.stop_requested()
    assert capsys.readouterr().err == ""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "unraisablehook", reported.append)
        with interrupts.handle_signals():
            fails = Fails()
            del fails
    assert len(reported) == 1
