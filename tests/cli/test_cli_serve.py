"""`recoach serve` as a process: it answers, reloads its run and stops on a signal."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from recoach.serving.exposures import read_exposures

pytest.importorskip("uvicorn", reason="the serve extra is not installed")


@contextmanager
def running(*arguments):
    """Start `recoach serve` and return its address and process."""
    with subprocess.Popen(
        [sys.executable, "-m", "recoach.cli.main", "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        line = process.stdout.readline()
        address = re.search(r"http://[\d.]+:\d+", line)
        assert address, line
        try:
            yield address[0], process
        finally:
            process.kill()


@pytest.fixture
def served(run_copy, tmp_path):
    """Yield a run whose default is the tuned model, the address of its server and the process."""
    record = json.loads((run_copy / "results.json").read_text()) | {"served": "tuned"}
    (run_copy / "results.json").write_text(json.dumps(record))
    log = ["--exposure-log", tmp_path / "log", "--drain-seconds", "1"]
    with running(run_copy, "--reload-seconds", "0.1", *log) as (address, process):
        yield run_copy, address, process


def request_json(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    deadline = time.time() + 20
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except ConnectionError:
            if time.time() > deadline:
                raise
            time.sleep(0.05)


def test_the_server_answers_reloads_drains_and_stops(served, tmp_path):
    run, url, process = served
    models = request_json(f"{url}/v1/models")
    assert [model["name"] for model in models["models"]] == ["base", "tuned"]
    query = {"user": "u3", "k": 3}
    tuned = request_json(f"{url}/v1/recommend", query)
    base = request_json(f"{url}/v1/recommend", {**query, "model": "base"})
    # The weights of the base replace those of the tuned model, so that both give the same list.
    weights = run / "checkpoints/base/best.safetensors"
    content = weights.read_bytes()
    part = run / "checkpoints/tuned/.part"
    part.write_bytes(content)
    part.replace(run / "checkpoints/tuned/best.safetensors")
    deadline = time.time() + 20
    while request_json(f"{url}/health")["version"] == models["version"]:
        assert time.time() < deadline
        time.sleep(0.05)
    after = request_json(f"{url}/v1/recommend", query)
    assert after["items"] == base["items"]
    assert after["version"] != tuned["version"]
    assert status(f"{url}/ready") == 200
    process.send_signal(signal.SIGTERM)
    while status(f"{url}/ready") == 200:
        time.sleep(0.01)
    assert status(f"{url}/ready") == 503
    time.sleep(0.5)  # of 1 s
    last = request_json(f"{url}/v1/recommend", query)  # answered while it drains
    assert process.wait(20) == 0
    assert process.stdout.read().strip().endswith("Stopped.")
    frame = read_exposures(tmp_path / "log")
    assert frame["impression_id"].unique(maintain_order=True).to_list() == [
        answer["impression_id"] for answer in (tuned, base, after, last)
    ]
    assert frame["item_id"].tail(3).to_list() == [item["item_id"] for item in last["items"]]
    assert frame["run"].unique().to_list() == [run.name]


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_workers_split_users_feed_a_shadow_and_are_started_again(run_copy, finished, tmp_path):
    log = tmp_path / "log"
    arguments = [run_copy, finished, "--split", "0.5,0.5", "--workers", "2", "--shadow", finished]
    names = {f"{path.parent.name}/run" for path in (run_copy, finished)}
    with running(*arguments, "--exposure-log", log) as (url, process):
        users = [f"u{number}" for number in range(30)]
        first = [request_json(f"{url}/v1/recommend", {"user": user}) for user in users]
        workers = {file.name.split("-")[-2] for file in log.glob("exposures-*")}
        assert len(workers) == 2
        os.kill(int(min(workers)), signal.SIGKILL)
        deadline = time.time() + 60
        while len({file.name.split("-")[-2] for file in log.glob("exposures-*")}) < 3:
            assert time.time() < deadline
            again = [request_json(f"{url}/v1/recommend", {"user": user}) for user in users]
            assert [one["run"] for one in again] == [one["run"] for one in first]
        time.sleep(1)  # the shadow
        metrics = [metric_values(url, "recoach_exposures_total") for _ in range(10)]
        children = descendants(process.pid)
        assert len(children) >= 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not any(is_running(child) for child in children)
    shown = read_exposures(log)
    n_lists = shown["impression_id"].n_unique()
    assert metrics == [[n_lists]] * 10  # of all workers, also of the one that was killed
    assert set(shown["run"]) == names
    assert shown.n_unique(["user_id", "run"]) == 30  # the same user always gets the same run
    assert len(list(log.glob("shadow-*"))) == 1
    shadow = read_exposures(next(log.glob("shadow-*")))
    same_run = shown.filter(position=1).join(
        shadow.filter(position=1), on=["impression_id", "user_id", "item_id", "version"]
    )
    assert same_run.height > 10


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(finished):
    with running(finished, "--workers", "2") as (_, process):
        children = descendants(process.pid)
        process.kill()
        deadline = time.time() + 30
        while any(is_running(child) for child in children):
            assert time.time() < deadline
            time.sleep(0.1)


def metric_values(url, name):
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(name)]


def descendants(process_id):
    path = Path(f"/proc/{process_id}/task/{process_id}/children")
    children = [int(child) for child in path.read_text().split()]
    return children + [other for child in children for other in descendants(child)]


def is_running(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_command(finished, tmp_path):
    command = [sys.executable, "-m", "recoach.cli.main", "serve", finished, tmp_path / "no-run"]
    result = subprocess.run(
        [*command, "--port", "0", "--workers", "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no-run is not a run folder" in result.stderr


def test_a_port_in_use_is_refused(recoach, finished):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = recoach("serve", finished, "--port", taken.getsockname()[1])
    assert result.code == 2
    assert "cannot listen on 127.0.0.1" in result.err
    assert "Choose another --host or --port" in result.err


def test_a_folder_without_a_model_is_refused(recoach, tmp_path):
    result = recoach("serve", tmp_path)
    assert result.code == 2
    assert "is not a run folder" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("RUN OTHER --split 0.5", "--split 0.5 has 1 shares for 2 runs. Give one for each."),
        ("RUN OTHER --split 0.5,0.6", "--split 0.5,0.6 adds up to 1.1. Shares must add up to 1."),
        ("RUN OTHER --split 1.5,-0.5", "must be shares of at least 0, not 1.5,-0.5"),
        ("RUN OTHER --split half,half", "--split must be numbers like 0.9,0.1, not 'half,half'"),
        ("RUN RUN", "A run is given twice"),
        ("RUN --shadow RUN", "--shadow needs --exposure-log, where its lists are logged."),
        ("RUN --explore 0", "--explore must be above 0, not 0."),
        ("RUN --workers 0", "--workers must be at least 1, not 0."),
        ("RUN --drain-seconds -1", "--drain-seconds must be between 0 and 600, not -1."),
        ("RUN --port 0 --exposure-log RUN/config.toml", "config.toml: cannot write there"),
    ],
)
def test_options_that_contradict_are_refused(recoach, finished, tmp_path, options, message):
    words = options.replace("RUN", str(finished)).replace("OTHER", str(tmp_path)).split()
    result = recoach("serve", *words)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_reload_interval_of_zero_is_refused(recoach, finished):
    result = recoach("serve", finished, "--reload-seconds", "0")
    assert (result.code, "must be above 0" in result.err) == (2, True)
