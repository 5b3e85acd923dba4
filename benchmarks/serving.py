"""Load tests of `recoach serve`: `python benchmarks/serving.py [--items N …] [--seconds S]`.

Serves an untrained SASRec over a simulated catalogue (the cost of a list does not depend on the
weights) on a free port. wrk (Debian package `wrk`), an external program, requests ten items for
random users from the same machine. The tables: throughput and latency by catalogue, workers and
connections; then, each next to the same load without it: 8 connections of look-ups (`--lookups`),
the exposure log (`--log`), a shadow (`--shadow`), and reloads of the run (`--reload`).
"""

import argparse
import itertools
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
ROUNDS = 5
"""Rounds in which a load is measured without and with something, one after the other."""
RECOMMEND = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
math.randomseed(1)
request = function()
  return wrk.format(nil, "/v1/recommend", nil,
    string.format('{"user":"u%%d","k":10}', math.random(0, %d)))
end
"""
LOOK_UP = """
math.randomseed(1)
request = function()
  local path = math.random(2) == 1 and "/v1/items?query=i" or "/v1/users?query=u"
  return wrk.format("GET", path .. math.random(0, 99))
end
"""
RESULT = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.status + errors.read + errors.write + errors.timeout + errors.connect))
end
"""


class Load(NamedTuple):
    """What wrk measured."""

    requests: int
    per_second: float
    p50: float
    """Milliseconds."""
    p99: float
    errors: int


def make_run(folder: Path, n_items: int, n_users: int = N_USERS, seed: int = 0) -> RunFolder:
    """Write a run folder with an untrained base model."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(n_users, dtype=np.int32), 20)
    items = rng.integers(n_items, size=len(users)).astype(np.int32)
    log = Interactions(
        users=users,
        items=items,
        user_ids=pl.Series([f"u{n}" for n in range(n_users)]),
        item_ids=pl.Series([f"i{n}" for n in range(n_items)]),
    )
    dataset = leave_last_out(log, name=f"{n_items:,} items")
    run = RunFolder(folder)
    save_dataset(dataset, run.dataset)
    run.begin(read_config(None, ['data.path="simulated"', "finetune.enabled=false"]), dataset)
    model = build_model("sasrec", dataset, seed=seed)
    save_description(run.checkpoints("base"), model)
    for name in ("best", "last"):
        path = run.checkpoints("base") / f"{name}.safetensors"
        save_tensors(path, model.state_dict(), {"finished": True})
    return run


@contextmanager
def service(*arguments: str | Path) -> Iterator[tuple[str, int]]:
    """Start a service and return its address and its process number."""
    command = [sys.executable, "-m", "recoach.cli.main", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        match = re.search(r"http://[\d.]+:\d+", line)
        if match is None:
            raise RuntimeError(f"The service did not start: {line}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield match[0], process.pid
        finally:
            process.terminate()
            if process.wait() != 0:
                raise RuntimeError(f"The service ended with code {process.returncode}.")


def send_load(url: str, connections: int, seconds: float, script: str = "") -> Load:
    """Run wrk over a number of connections; by default it requests lists of random users."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write((script or RECOMMEND % (N_USERS - 1)) + RESULT)
        file.flush()
        process = subprocess.run(
            [*command, "-s", file.name, url], capture_output=True, text=True, check=True
        )
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", process.stdout)
    if match is None:
        raise RuntimeError(process.stdout + process.stderr)
    count, microseconds, p50, p99, errors = map(int, match.groups())
    return Load(count, count / microseconds * 1e6, p50 / 1e3, p99 / 1e3, errors)


def mebibytes(process_id: int) -> float:
    """Return the memory of a process and its children; shared pages are counted once."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    own = int(re.search(r"Pss:\s+(\d+)", rollup)[1]) / 1024
    return own + sum(mebibytes(int(child)) for child in children)


def measure_throughput(n_items: int, n_workers: int, seconds: int, work: Path) -> None:
    """Print rows of the table of throughput."""
    with service(work / str(n_items), "--workers", str(n_workers)) as (url, process_id):
        send_load(url, 64, 3)  # warm up
        for connections in (1, 16, 64):
            load = send_load(url, connections, seconds)
            print(
                f"| {n_items:,} | {n_workers} | {connections} | {load.per_second:,.0f} | "
                f"{load.p50:.1f} | {load.p99:.1f} | {load.errors} | {mebibytes(process_id):,.0f} |",
                flush=True,
            )


def print_comparison(name: str, pairs: Sequence[tuple[Load, Load]]) -> None:
    """Print a row of a table of loads with something beside the same loads without it.

    Args:
        name: what is beside the load, the catalogue and the connections.
        pairs: loads without and with it, measured one after the other; the row has medians.
    """
    without, with_it = [
        statistics.median(load.p50 for load in loads) for loads in zip(*pairs, strict=True)
    ]
    ratios = [
        statistics.median(getattr(second, name) / getattr(first, name) for first, second in pairs)
        for name in ("p50", "p99")
    ]
    loads = [second for _, second in pairs]
    print(
        f"| {name} | {without:.1f} | {with_it:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | "
        f"{sum(load.requests for load in loads):,} | {sum(load.errors for load in loads)} |",
        flush=True,
    )


def compare_lookups(n_items: int, seconds: int, work: Path) -> None:
    """Print the latency of lists while 8 connections look up items and users."""

    def with_look_ups(url: str, connections: int) -> Load:
        look_ups = threading.Thread(target=send_load, args=(url, 8, seconds / ROUNDS + 1, LOOK_UP))
        look_ups.start()
        time.sleep(0.5)
        load = send_load(url, connections, seconds / ROUNDS)
        look_ups.join()
        return load

    with service(work / str(n_items)) as (url, _):
        send_load(url, 16, 3)
        for connections in (1, 16):
            pairs = [
                (send_load(url, connections, seconds / ROUNDS), with_look_ups(url, connections))
                for _ in range(ROUNDS)
            ]
            print_comparison(f"look-ups, {n_items:,} items, {connections} connections", pairs)


def compare(name: str, n_items: int, seconds: int, work: Path) -> None:
    """Print the rows of one of `COMPARISONS`."""
    if name == "lookups":
        compare_lookups(n_items, seconds, work)
    elif name == "reload":
        compare_reloads(n_items, seconds, work)
    else:
        arguments: list[str | Path] = ["--exposure-log", work / "log"]
        if name == "shadow":
            arguments += ["--shadow", work / "other"]
        compare_options(name, n_items, seconds, work, arguments)


def compare_options(
    name: str, n_items: int, seconds: int, work: Path, arguments: list[str | Path]
) -> None:
    """Print the latency of lists with and without options."""
    run = work / str(n_items)
    with service(run) as (url, _), service(run, *arguments) as (other_url, _):
        for one in (url, other_url):
            send_load(one, 16, 3)
        for connections in (1, 16):
            pairs = [
                (
                    send_load(url, connections, seconds / ROUNDS),
                    send_load(other_url, connections, seconds / ROUNDS),
                )
                for _ in range(ROUNDS)
            ]
            print_comparison(f"{name}, {n_items:,} items, {connections} connections", pairs)


def compare_reloads(n_items: int, seconds: int, work: Path) -> None:
    """Print the latency of lists over 64 connections while the weights change each 2 s."""
    folder = work / "reloaded"
    make_run(folder, n_items)
    weights = RunFolder(folder).checkpoints("base") / "best.safetensors"
    contents = [weights.read_bytes(), RunFolder(work / "other").checkpoints("base")]
    contents[1] = (contents[1] / "best.safetensors").read_bytes()
    with service(folder, "--reload-seconds", "0.2") as (url, _):
        send_load(url, 64, 3)
        without = send_load(url, 64, seconds)
        long_enough = max(seconds, 1.3 * 10_000 / without.per_second)
        loads: list[Load] = []
        load = threading.Thread(target=lambda: loads.append(send_load(url, 64, long_enough)))
        load.start()
        n_reloads = 0
        while load.is_alive():
            time.sleep(2)
            part = weights.with_suffix(".part")
            part.write_bytes(contents[n_reloads % 2 == 0])
            part.replace(weights)
            n_reloads += 1
        load.join()
        print_comparison(
            f"{n_reloads} reloads, {n_items:,} items, 64 connections", [(without, loads[0])]
        )


COMPARISONS = ("lookups", "log", "shadow", "reload")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, nargs="+", default=[37_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=int, default=15)
    for name in COMPARISONS:
        parser.add_argument(f"--{name}", action="store_true", help="this table only")
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed. Install it: apt-get install wrk.")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    chosen = [name for name in COMPARISONS if getattr(options, name)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for n_items in options.items:
            make_run(work / str(n_items), n_items)
        if not chosen:
            print("| items | workers | connections | lists/s | p50 ms | p99 ms | errors | MiB |")
            print("|---:|---:|---:|---:|---:|---:|---:|---:|")
            for n_items, n_workers in itertools.product(options.items, options.workers):
                measure_throughput(n_items, n_workers, options.seconds, work)
        make_run(work / "other", options.items[0], seed=1)
        print("\n| beside | p50 ms without | p50 ms with | p50 × | p99 × | lists | errors |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name in chosen or COMPARISONS:
            compare(name, options.items[0], options.seconds, work)


if __name__ == "__main__":
    main()
