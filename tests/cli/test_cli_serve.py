"""`recoach serve` as a process: it answers, follows its run and ends when told."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("uvicorn", reason="the serve extra is not installed")


@pytest.fixture
def served(mine):
    """Return a run, the address of its service and the process."""
    command = ["serve", str(mine), "--port", "0", "--reload-seconds", "0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "recoach.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        line = process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line
        yield mine, found[0], process
        process.kill()


def asked(url, body=None):
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


def test_it_serves_reloads_and_ends(served):
    run, url, process = served
    told = asked(f"{url}/v1/models")
    assert [model["name"] for model in told["models"]] == ["base", "tuned"]
    wish = {"user": "u3", "k": 3}
    tuned = asked(f"{url}/v1/recommend", wish)
    base = asked(f"{url}/v1/recommend", {**wish, "model": "base"})
    # The tuned model becomes the base's twin: from now on its list is the base's.
    weights = run / "checkpoints/base/best.safetensors"
    content = weights.read_bytes()
    part = run / "checkpoints/tuned/.part"
    part.write_bytes(content)
    part.replace(run / "checkpoints/tuned/best.safetensors")
    deadline = time.time() + 20
    while asked(f"{url}/health")["version"] == told["version"]:
        assert time.time() < deadline
        time.sleep(0.05)
    after = asked(f"{url}/v1/recommend", wish)
    assert after["items"] == base["items"]
    assert after["version"] != tuned["version"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stdout.read().strip().endswith("Stopped.")


def test_a_port_in_use_is_said(recoach, finished):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = recoach("serve", finished, "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "cannot listen on 127.0.0.1" in said.err
    assert "Choose another --host or --port" in said.err


def test_a_folder_without_a_model_is_said(recoach, tmp_path):
    said = recoach("serve", tmp_path)
    assert said.code == 2
    assert "is not a run folder" in said.err


def test_no_time_between_looks_is_refused(recoach, finished):
    said = recoach("serve", finished, "--reload-seconds", "0")
    assert (said.code, "must be above 0" in said.err) == (2, True)
