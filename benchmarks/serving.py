"""Load test of `recoach serve`: `python benchmarks/serving.py [--items N …] [--seconds S]`.

Serves an untrained SASRec over a simulated catalogue (the cost of a list does not depend on the
weights) on a free port. wrk, which must be installed, requests ten items for random users over 1,
16 and 64 connections, on the same machine as the service.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import polars as pl

from recoach.data.interactions import Interactions
from recoach.data.prepared import save_dataset
from recoach.data.split import leave_last_out
from recoach.experiments.config import read_config
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import save_description, save_tensors
from recoach.models.registry import build_model

N_USERS = 20_000
WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
math.randomseed(%d)
request = function()
  return wrk.format(nil, "/v1/recommend", nil,
    string.format('{"user":"u%%d","k":10}', math.random(0, %d)))
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.status + errors.read + errors.write + errors.timeout + errors.connect))
end
"""


def make_run(folder: Path, n_items: int) -> None:
    """Write a run folder with an untrained base model."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(N_USERS, dtype=np.int32), 20)
    items = rng.integers(n_items, size=len(users)).astype(np.int32)
    log = Interactions(
        users=users,
        items=items,
        user_ids=pl.Series([f"u{n}" for n in range(N_USERS)]),
        item_ids=pl.Series([f"i{n}" for n in range(n_items)]),
    )
    dataset = leave_last_out(log, name=f"{n_items:,} items")
    run = RunFolder(folder)
    save_dataset(dataset, run.dataset)
    run.begin(read_config(None, ['data.path="simulated"', "finetune.enabled=false"]))
    model = build_model("sasrec", dataset, seed=0)
    save_description(run.checkpoints("base"), model)
    for name in ("best", "last"):
        path = run.checkpoints("base") / f"{name}.safetensors"
        save_tensors(path, model.state_dict(), {"finished": True})


def send_load(
    url: str, script: Path, connections: int, seconds: int
) -> tuple[float, float, float, int]:
    """Return requests per second, p50 and p99 latency in milliseconds, and the number of errors."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    process = subprocess.run(
        [*command, "-s", script, url], capture_output=True, text=True, check=True
    )
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", process.stdout)
    if match is None:
        raise RuntimeError(process.stdout + process.stderr)
    count, microseconds, p50, p99, errors = map(int, match.groups())
    return count / microseconds * 1e6, p50 / 1e3, p99 / 1e3, errors


def peak_mebibytes(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def measure(n_items: int, seconds: int, work: Path) -> list[str]:
    folder, script = work / str(n_items), work / "requests.lua"
    make_run(folder, n_items)
    script.write_text(WRK_SCRIPT % (1, N_USERS - 1))
    command = [sys.executable, "-m", "recoach.cli.main", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        line = service.stdout.readline()
        url = re.search(r"http://[\d.]+:\d+", line)[0]
        threading.Thread(target=service.stdout.read, daemon=True).start()
        send_load(url, script, 4, 2)  # warm up
        rows = []
        for connections in (1, 16, 64):
            rate, p50, p99, errors = send_load(url, script, connections, seconds)
            memory = peak_mebibytes(service.pid)
            rows.append(
                f"| {n_items:,} | {connections} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | "
                f"{errors} | {memory:,.0f} |"
            )
            print(rows[-1], flush=True)
        service.terminate()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, nargs="+", default=[37_000, 1_000_000])
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args()
    print("| items | connections | requests/s | p50 ms | p99 ms | errors | peak MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as work:
        for n_items in options.items:
            measure(n_items, options.seconds, Path(work))


if __name__ == "__main__":
    main()
