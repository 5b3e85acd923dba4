"""Load on `recoach serve`: `python benchmarks/serving.py [--items N …] [--seconds S]`; needs wrk.

A run is made of an untrained SASRec over a simulated catalogue (what a list costs does not depend
on the weights) and served on a free port; wrk asks for ten items of random users, one after another
and from 16 and 64 connections. wrk shares the machine with the service.
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
ASKS = """
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
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(N_USERS, dtype=np.int32), 20)
    items = draw.integers(n_items, size=len(users)).astype(np.int32)
    ids = (
        pl.Series([f"u{n}" for n in range(N_USERS)]),
        pl.Series([f"i{n}" for n in range(n_items)]),
    )
    log = Interactions(users=users, items=items, user_ids=ids[0], item_ids=ids[1])
    dataset = leave_last_out(log, name=f"{n_items:,} items")
    run = RunFolder(folder)
    save_dataset(dataset, run.dataset)
    run.begin(read_config(None, ['data.path="simulated"', "finetune=false"]))
    model = build_model("sasrec", dataset, seed=0)
    save_description(run.checkpoints("base"), model)
    for name in ("best", "last"):
        path = run.checkpoints("base") / f"{name}.safetensors"
        save_tensors(path, model.state_dict(), {"finished": True})


def load(url: str, script: Path, connections: int, seconds: int) -> tuple[float, float, float, int]:
    """Return requests a second, p50 and p99 in milliseconds, and errors."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    said = subprocess.run([*command, "-s", script, url], capture_output=True, text=True, check=True)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", said.stdout)
    if found is None:
        raise RuntimeError(said.stdout + said.stderr)
    count, micros, median, slow, errors = map(int, found.groups())
    return count / micros * 1e6, median / 1e3, slow / 1e3, errors


def peak_mebibytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def measure(n_items: int, seconds: int, work: Path) -> list[str]:
    folder, script = work / str(n_items), work / "asks.lua"
    make_run(folder, n_items)
    script.write_text(ASKS % (1, N_USERS - 1))
    command = [sys.executable, "-m", "recoach.cli.main", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        line = service.stdout.readline()
        url = re.search(r"http://[\d.]+:\d+", line)[0]
        threading.Thread(target=service.stdout.read, daemon=True).start()
        load(url, script, 4, 2)  # warm
        rows = []
        for connections in (1, 16, 64):
            rate, median, slow, errors = load(url, script, connections, seconds)
            memory = peak_mebibytes(service.pid)
            rows.append(
                f"| {n_items:,} | {connections} | {rate:,.0f} | {median:.1f} | {slow:.1f} | "
                f"{errors} | {memory:,.0f} |"
            )
            print(rows[-1], flush=True)
        service.terminate()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, nargs="+", default=[37_000, 1_000_000])
    parser.add_argument("--seconds", type=int, default=15)
    asked = parser.parse_args()
    print("| items | connections | requests/s | p50 ms | p99 ms | errors | peak MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as work:
        for n_items in asked.items:
            measure(n_items, asked.seconds, Path(work))


if __name__ == "__main__":
    main()
