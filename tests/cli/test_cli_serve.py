"""`recoach serve` as a process: it answers, reloads its run and stops on a signal."""

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
def served(run_copy):
    """Yield a run, the address of its server and the process."""
    command = ["serve", str(run_copy), "--port", "0", "--reload-seconds", "0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "recoach.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        line = process.stdout.readline()
        address = re.search(r"http://[\d.]+:\d+", line)
        assert address, line
        yield run_copy, address[0], process
        process.kill()


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


def test_the_server_answers_reloads_and_stops(served):
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
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stdout.read().strip().endswith("Stopped.")


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


def test_a_reload_interval_of_zero_is_refused(recoach, finished):
    result = recoach("serve", finished, "--reload-seconds", "0")
    assert (result.code, "must be above 0" in result.err) == (2, True)
