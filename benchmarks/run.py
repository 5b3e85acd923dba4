"""Run the benchmarks: `python benchmarks/run.py [--data DIR] [--only TASK …]`.

Recoach and the peer run alternately, and each row gives the ratio of their medians. Tasks left out
by `--only` keep their rows in `results.json`. The environment of a peer is created from
`peers/<peer>/requirements.txt` when it is first needed.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import model_rows
import numpy as np
from bench import LOGS, Bench, Row, median, peer_python
from scale import AXES, points
from table import draw, write

HERE = Path(__file__).resolve().parent
RESULTS, CURVES = HERE / "results.json", HERE / "curves"
SASREC_PEERS = {"recbole": (30.0, 5), "rectools": (3.0, 8), "replay": (3.0, 8)}
"""For each peer: target ratio of the time to quality, steps timed to estimate an epoch."""


def positions(bench: Bench) -> list[Row]:
    """Compare positions trained per second, with the same architecture and loss."""
    peers = {
        "plain loop": ("recoach_run", "plain_epoch", {"steps": 15}),
        "rectools": ("rectools", "sasrec_epoch", {"steps": 8}),
        "replay": ("replay", "sasrec_epoch", {"steps": 8}),
        "recbole": ("recbole", "sasrec_epoch", {"steps": 5}),
    }
    rows = []
    for name, peer in peers.items():
        results = bench.compare(("sasrec_epoch", {"steps": 60}), peer, "toys")
        speeds = [
            statistics.median(r["positions_per_epoch"] / r["seconds_per_epoch"] for r in side)
            for side in results
        ]
        seconds = [median(side, "seconds_per_epoch") for side in results]
        note = f"epoch: {seconds[0]:.1f} s and {seconds[1]:.0f} s"
        bar = None if name == "recbole" else 2.0
        row = Row("SASRec, positions trained", name, *speeds, "/s", bar, note, better="more")
        rows.append(replace(row, versions=results[1][0]["versions"]))
    return rows


def curves(bench: Bench) -> None:
    """Train the peers until early stopping, resuming interrupted runs; this takes hours."""
    for peer, log in itertools.product(SASREC_PEERS, LOGS):
        lines = bench.work / "curves" / f"{peer}-{log}.jsonl"
        lines.parent.mkdir(parents=True, exist_ok=True)
        script = HERE / "peers" / peer / "run.py"
        command = [peer_python(peer), script, "sasrec_curve", bench.folder(log), lines]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        save_curve(peer, log, lines, bench.run(peer, "sasrec_epoch", log, steps=1)["versions"])


def save_curve(peer: str, log: str, lines: Path, versions: dict[str, str]) -> None:
    """Write a peer's curve to `curves/`, with versions and whether it ended by early stopping."""
    epochs = [json.loads(line) for line in lines.read_text().splitlines()]
    values = [epoch["ndcg@10"] for epoch in epochs]
    best = values.index(max(values))
    stopped_early = len(values) - 1 - best >= 10
    curve = {"epochs": epochs, "stopped_by_itself": stopped_early, "versions": versions}
    (CURVES / f"{peer}-{log}.json").write_text(json.dumps(curve, indent=1) + "\n")


def _recoach_curve(bench: Bench, log: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "curve.jsonl"
        command = [sys.executable, HERE / "recoach_run.py", "sasrec_curve", bench.folder(log), out]
        print(f"recoach_run sasrec_curve {log}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        epochs = [json.loads(line) for line in out.read_text().splitlines()]
    (CURVES / f"recoach-{log}.json").write_text(json.dumps({"epochs": epochs}, indent=1) + "\n")
    return epochs


def quality(bench: Bench) -> list[Row]:
    """Compare the seconds until validation NDCG@10 reaches the peer's best value."""
    rows = []
    for log in LOGS:
        peers = [peer for peer in SASREC_PEERS if (CURVES / f"{peer}-{log}.json").exists()]
        curve = _recoach_curve(bench, log) if peers else []
        for peer in peers:
            result = bench.run(peer, "sasrec_epoch", log, steps=SASREC_PEERS[peer][1])
            rows.append(time_to_best(peer, log, curve, result["seconds_per_epoch"]))
    return rows


def time_to_best(
    peer: str, log: str, recoach_curve: list[dict], peer_seconds_per_epoch: float
) -> Row:
    """Return the row that compares the times to the lower one of the two best values.

    Args:
        peer: name of the peer, which has a curve in `curves/`.
        log: a key of `LOGS`.
        recoach_curve: rows of Recoach's training, measured in this run.
        peer_seconds_per_epoch: measured in this run.
    """
    curve = json.loads((CURVES / f"{peer}-{log}.json").read_text())
    values = [point["ndcg@10"] for point in curve["epochs"]]
    recoach_values = [row["valid/ndcg@10"] for row in recoach_curve]
    target = min(max(values), max(recoach_values))
    peer_epoch, recoach_epoch = (
        next(epoch for epoch, value in enumerate(series) if value >= target)
        for series in (values, recoach_values)
    )
    cut = "" if curve["stopped_by_itself"] else f", cut at {len(values)} while rising"
    note = (
        f"NDCG@10 {target:.4f} at epoch {peer_epoch + 1}{cut} (peer) and "
        f"{recoach_epoch + 1} (Recoach); "
        f"best {max(values):.4f} and {max(recoach_values):.4f}"
    )
    missed = max(recoach_values) < max(values)
    owner = "Recoach's" if missed else "the peer's"
    work = f"SASRec until {owner} best, {log.title()}"
    ours = recoach_curve[recoach_epoch]["seconds"]
    theirs = (peer_epoch + 1) * peer_seconds_per_epoch
    row = Row(work, peer, ours, theirs, "s", SASREC_PEERS[peer][0], note)
    verdict = "the peer's best is not reached" if missed else ""
    verdict = verdict if curve["stopped_by_itself"] else "the peer's curve was cut"
    return replace(row, versions=curve["versions"], verdict=verdict)


def lightgcn(bench: Bench) -> list[Row]:
    """Compare an epoch of BPR training: batch size 2048, dimension 64, 2 layers."""
    rows = []
    for peer, bar in (("recbole", 3.0), ("pyg", 1.5)):
        ours, theirs = bench.compare(
            ("lightgcn_epoch", {}), (peer, "lightgcn_epoch", {"epochs": 2}), "toys"
        )
        medians = [median(side, "seconds_per_epoch") for side in (ours, theirs)]
        rows.append(Row("LightGCN, epoch", peer, *medians, "s", bar, "", theirs[0]["versions"]))
    return rows


def fpmc(bench: Bench) -> list[Row]:
    """Compare an epoch of BPR training: batch size 2048, dimension 64."""
    ours, theirs = bench.compare(("fpmc_epoch", {}), ("recbole", "fpmc_epoch", {}), "toys")
    medians = [median(side, "seconds_per_epoch") for side in (ours, theirs)]
    return [Row("FPMC, epoch", "recbole", *medians, "s", 3.0, "", theirs[0]["versions"])]


def ngcf(bench: Bench) -> list[Row]:
    """Compare an epoch of BPR training: batch size 2048, dimension 64, three layers.

    RecBole has no GraphSAGE, which is compared with its NGCF and with PyG's layers.
    """
    comparisons = (
        ("NGCF", "ngcf_epoch", "recbole", "recbole", "ngcf_epoch"),
        ("GraphSAGE, three layers", "graphsage_epoch", "RecBole's NGCF", "recbole", "ngcf_epoch"),
        ("GraphSAGE, three layers", "graphsage_epoch", "pyg", "pyg", "graphsage_epoch"),
    )
    rows = []
    for name, task, peer, program, peer_task in comparisons:
        ours, theirs = bench.compare((task, {}), (program, peer_task, {"epochs": 1}), "toys")
        medians = [median(side, "seconds_per_epoch") for side in (ours, theirs)]
        rows.append(Row(f"{name}, epoch", peer, *medians, "s", 3.0, "", theirs[0]["versions"]))
    return rows


def ranking(bench: Bench) -> list[Row]:
    """Compare the full ranking of all users: Recall and NDCG at 10 and 50, seen items masked."""
    peers = (
        ("recbole", "RecBole, default batch", {"batch": 4096}, 20.0),
        ("recbole", "RecBole, best batch", {"batch": 512 * 12_000}, 4.0),
        ("rectools", "RecTools", {}, None),
        ("implicit", "implicit, top 50 only", {}, 1.0),
    )
    rows = []
    for program, name, options, bar in peers:
        ours, theirs = bench.compare(("rank", {}), (program, "rank", options), "toys")
        medians = [median(side, "seconds") for side in (ours, theirs)]
        rows.append(Row("rank all users", name, *medians, "s", bar, "", theirs[0]["versions"]))
    return rows


def grpo(bench: Bench) -> list[Row]:
    """Compare GRPO steps of 512 states with the plain PyTorch step (`plain_pytorch.py`)."""
    results = [bench.run("recoach_run", "grpo_step", "toys") for _ in range(bench.rounds)]
    names = ("plain", "cross_entropy", "exact", "exact_kl", "sampled")
    ms = {name: 1e3 * median(results, name) for name in names}
    work, plain, cross_entropy = (
        "GRPO step, 512 states",
        "plain sampled step",
        "Recoach's cross-entropy step",
    )
    note = f"with KL penalty: {ms['exact_kl']:.0f} ms"
    rows = [
        Row(f"{work}, exact", plain, ms["exact"], ms["plain"], "ms", 5.0),
        Row(f"{work}, sampled G=4096", plain, ms["sampled"], ms["plain"], "ms", 2.0),
        Row(f"{work}, exact", cross_entropy, ms["exact"], ms["cross_entropy"], "ms", 1 / 1.3, note),
    ]
    return [replace(row, versions=results[0]["versions"]) for row in rows]


def loading(bench: Bench) -> list[Row]:
    """Compare loading, 5-core filtering and splitting; sizes of the data must agree."""
    rows = []
    for size, label, peers in (
        ("1300000", "1.3M rows", ("pandas", "recbole")),
        ("10000000", "10M rows", ("pandas",)),
    ):
        for peer in peers:
            folder = f"simulated-{size}"
            results = bench.compare(("load", {}), (peer, "load", {}), folder)
            ours, theirs = results[0][0], results[1][0]
            sizes = [[r[key] for key in ("users", "items", "rows")] for r in (ours, theirs)]
            if sizes[0] != sizes[1]:
                raise SystemExit(
                    f"{folder}: sizes (users, items, rows) differ: Recoach {sizes[0]}, "
                    f"{peer} {sizes[1]}."
                )
            note = f"peak {ours['peak_mib']:,} MiB and {theirs['peak_mib']:,} MiB"
            seconds = [median(side, "seconds") for side in results]
            row = Row(f"5-core and split, {label}", peer, *seconds, "s", 10.0, note)
            rows.append(replace(row, versions=theirs["versions"]))
    return rows


def peak(bench: Bench) -> list[Row]:
    """Compare the catalogue softmax with its matrix products alone."""
    results = [bench.run("recoach_run", "softmax_peak", "toys") for _ in range(bench.rounds)]
    rows = []
    for shape in (name for name in results[0] if "x" in name):
        measured = sorted((result[shape] for result in results), key=lambda peak: peak["share"])
        median = measured[len(measured) // 2]
        states, items = shape.split("x")
        work = f"catalogue softmax, {states} states × {items} items"
        products_ms = median["ms"] * median["share"]
        note = f"{median['gflops']:.0f} of {median['products_gflops']:.0f} GFLOP/s"
        row = Row(work, "its matrix products alone", median["ms"], products_ms, "ms", 0.5, note)
        rows.append(replace(row, versions=results[0]["versions"]))
    return rows


COMPARISONS: dict[str, Callable[[Bench], list[Row]]] = {
    "quality": quality,
    "positions": positions,
    "lightgcn": lightgcn,
    "fpmc": fpmc,
    "ngcf": ngcf,
    "ranking": ranking,
    "grpo": grpo,
    "loading": loading,
    "peak": peak,
    "ease": model_rows.ease,
    "itemknn": model_rows.itemknn,
    "vsknn": model_rows.vsknn,
    "neumf": model_rows.neumf,
    "updates": model_rows.updates,
    "off_policy": model_rows.off_policy,
}
RECOACH_TASKS = ("growth", "large", "stratified", "paper")


def _scale(bench: Bench, task: str, **options: int) -> dict:
    return bench.run("scale", task, "toys", **options)


def growth(bench: Bench) -> dict[str, dict]:
    """Return seconds, memory and log-log slopes along each axis, and draw the plot."""
    growth_by_axis: dict[str, dict] = {}
    for axis, scale, options in points():
        result = _scale(bench, "point", **options)
        empty = {"sizes": [], "epoch_s": [], "rank_s": [], "peak_mib": []}
        series = growth_by_axis.setdefault(axis, empty)
        series["sizes"].append(AXES[axis] * scale)
        for key in ("epoch_s", "rank_s", "peak_mib"):
            series[key].append(result[key])
    for series in growth_by_axis.values():
        for key in ("epoch", "rank"):
            slope = np.polyfit(np.log(series["sizes"]), np.log(series[f"{key}_s"]), 1)[0]
            series[f"{key}_slope"] = round(float(slope), 3)
    draw(growth_by_axis)
    return growth_by_axis


def as_measured(row: Row, rounds: int) -> dict[str, object]:
    """Return a row of `results.json`, with its ratio and the machine's load of five minutes."""
    measured = {"ratio": round(row.ratio, 3), "load": round(os.getloadavg()[1], 1)}
    return asdict(row) | measured | {"rounds": row.rounds or rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    data = os.environ.get("RECOACH_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--work", type=Path, default=HERE / ".work")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=(*COMPARISONS, *RECOACH_TASKS),
        default=(*COMPARISONS, *RECOACH_TASKS),
    )
    parser.add_argument(
        "--curves", action="store_true", help="train the peers' learning curves first (hours)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bench = Bench(options.data.resolve(), options.work.resolve(), options.rounds)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    if options.curves:
        curves(bench)
    for name in options.only:
        if name in COMPARISONS:
            rows = COMPARISONS[name](bench)
            results["rows"][name] = [as_measured(row, bench.rounds) for row in rows]
        else:
            results[name] = growth(bench) if name == "growth" else _scale(bench, name)
        results["machine"] = {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write(results)


if __name__ == "__main__":
    main()
