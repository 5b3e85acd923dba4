"""Run the benchmarks: `python benchmarks/run.py [--data DIR] [--only WORK …]`.

Each row is measured by running the peer's program and ours in turns, and is the ratio of their
medians; rows that are not asked for keep what `results.json` says. A peer's environment is made
from `peers/<peer>/requirements.txt` the first time it is needed.
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scale import AXES, points
from table import draw, write

HERE = Path(__file__).resolve().parent
ENVIRONMENTS, RESULTS, CURVES = HERE / ".environments", HERE / "results.json", HERE / "curves"
PEERS_OF_SASREC = {"recbole": (30.0, 5), "rectools": (3.0, 8), "replay": (3.0, 8)}
"""The bar of the time to quality, and how many steps give the time of an epoch."""
LOGS = {"toys": "toys-2014/Toys_and_Games.txt", "beauty": "beauty-2014/Beauty.txt"}


@dataclass
class Row:
    """One line of the table."""

    work: str
    peer: str
    ours: float
    theirs: float
    unit: str
    bar: float | None = None
    """Ratio that was to be reached, where there was one."""
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    """What stands in its way: a peer's curve that was cut, a best that ours does not reach."""
    better: str = "less"
    """Whether less or more of the unit is better."""

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours if self.better == "less" else self.ours / self.theirs


class Bench:
    """Where the logs are, and how programs are run on them."""

    def __init__(self, data: Path, work: Path, rounds: int) -> None:
        self.data, self.work, self.rounds = data, work, rounds

    def folder(self, name: str) -> Path:
        """Return the folder of a log in the form that all programs read."""
        target = self.work / name / "log.inter"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("simulated"):
                command = [sys.executable, HERE / "simulate.py", name.split("-")[1], target]
                subprocess.run(command, check=True)
            else:
                _as_inter(self.data / LOGS[name], target)
        return target.parent

    def run(self, program: str, work: str, folder: str, **options: int) -> dict[str, object]:
        """Run one program once and return its answer."""
        own = program in ("ours", "scale")
        python = Path(sys.executable) if own else _python(program)
        script = HERE / (f"{program}.py" if own else f"peers/{program}/run.py")
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out.json"
            rest = [f"{key}={value}" for key, value in options.items()]
            command = [python, script, work, self.folder(folder), out, *rest]
            print(" ".join(str(part) for part in (program, work, folder, *rest)), flush=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scratch)
            text = out.read_text()
        return json.loads(text)

    def versus(
        self, ours: tuple[str, dict[str, int]], peer: tuple[str, str, dict[str, int]], folder: str
    ) -> tuple[list[dict], list[dict]]:
        """Run both in turns, ours first, and return all answers."""
        program, work, options = peer
        answers: tuple[list[dict], list[dict]] = ([], [])
        for _ in range(self.rounds):
            answers[0].append(self.run("ours", ours[0], folder, **ours[1]))
            answers[1].append(self.run(program, work, folder, **options))
        return answers


def _as_inter(source: Path, target: Path) -> None:
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for line in source.read_text().splitlines():
        user, *items = line.split()
        lines += [f"{user}\t{item}\t{place}" for place, item in enumerate(items)]
    target.write_text("\n".join(lines) + "\n")


def _python(peer: str) -> Path:
    python = ENVIRONMENTS / peer / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENTS / peer], check=True)
        wanted = HERE / "peers" / peer / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", wanted], check=True)
    return python


def _median(answers: list[dict], key: str) -> float:
    return statistics.median(answer[key] for answer in answers)


def positions(bench: Bench) -> list[Row]:
    """Positions trained in a second: same architecture, same loss."""
    peers = {
        "plain loop": ("ours", "plain_epoch", {"steps": 15}),
        "rectools": ("rectools", "sasrec_epoch", {"steps": 8}),
        "replay": ("replay", "sasrec_epoch", {"steps": 8}),
        "recbole": ("recbole", "sasrec_epoch", {"steps": 5}),
    }
    rows = []
    for name, peer in peers.items():
        sides = bench.versus(("sasrec_epoch", {"steps": 60}), peer, "toys")
        speeds = [
            statistics.median(a["positions_per_epoch"] / a["seconds_per_epoch"] for a in side)
            for side in sides
        ]
        seconds = [_median(side, "seconds_per_epoch") for side in sides]
        note = f"an epoch: {seconds[0]:.1f} s and {seconds[1]:.0f} s"
        bar = None if name == "recbole" else 2.0
        row = Row("SASRec, positions trained", name, *speeds, "/s", bar, note, better="more")
        rows.append(replace(row, versions=sides[1][0]["versions"]))
    return rows


def curves(bench: Bench) -> None:
    """Run the peers' learning curves to their ends, going on where they were stopped: hours."""
    for peer, log in itertools.product(PEERS_OF_SASREC, LOGS):
        lines = bench.work / "curves" / f"{peer}-{log}.jsonl"
        lines.parent.mkdir(parents=True, exist_ok=True)
        script = HERE / "peers" / peer / "run.py"
        command = [_python(peer), script, "sasrec_curve", bench.folder(log), lines]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        keep_curve(peer, log, lines, bench.run(peer, "sasrec_epoch", log, steps=1)["versions"])


def keep_curve(peer: str, log: str, lines: Path, versions: dict[str, str]) -> None:
    """Write a curve where it is committed, with its versions and how it ended."""
    epochs = [json.loads(line) for line in lines.read_text().splitlines()]
    values = [epoch["ndcg@10"] for epoch in epochs]
    best = values.index(max(values))
    ended = len(values) - 1 - best >= 10
    curve = {"epochs": epochs, "stopped_by_itself": ended, "versions": versions}
    (CURVES / f"{peer}-{log}.json").write_text(json.dumps(curve, indent=1) + "\n")


def _our_curve(bench: Bench, log: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "curve.jsonl"
        command = [sys.executable, HERE / "ours.py", "sasrec_curve", bench.folder(log), out]
        print(f"ours sasrec_curve {log}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        epochs = [json.loads(line) for line in out.read_text().splitlines()]
    (CURVES / f"recoach-{log}.json").write_text(json.dumps({"epochs": epochs}, indent=1) + "\n")
    return epochs


def quality(bench: Bench) -> list[Row]:
    """Seconds until the validation NDCG@10 is as good as the peer's best."""
    rows = []
    for log in LOGS:
        peers = [peer for peer in PEERS_OF_SASREC if (CURVES / f"{peer}-{log}.json").exists()]
        ours = _our_curve(bench, log) if peers else []
        for peer in peers:
            answer = bench.run(peer, "sasrec_epoch", log, steps=PEERS_OF_SASREC[peer][1])
            rows.append(to_best(peer, log, ours, answer["seconds_per_epoch"]))
    return rows


def to_best(peer: str, log: str, ours: list[dict], seconds_per_epoch: float) -> Row:
    """Return a peer's row; where ours does not get to the peer's best, both go to ours.

    Args:
        peer: whose committed curve it is.
        log: a key of `LOGS`.
        ours: our own curve, with the seconds of this run.
        seconds_per_epoch: the peer's, of this run.
    """
    curve = json.loads((CURVES / f"{peer}-{log}.json").read_text())
    values = [point["ndcg@10"] for point in curve["epochs"]]
    own = [row["valid/ndcg@10"] for row in ours]
    aim = min(max(values), max(own))
    epochs, reached = (
        next(place for place, value in enumerate(side) if value >= aim) for side in (values, own)
    )
    cut = "" if curve["stopped_by_itself"] else f", cut at {len(values)} while rising"
    note = (
        f"NDCG@10 {aim:.4f} at their epoch {epochs + 1}{cut}, at ours {reached + 1}; "
        f"best {max(values):.4f} and {max(own):.4f}"
    )
    missed = max(own) < max(values)
    whose = "our" if missed else "the peer's"
    work = f"SASRec to {whose} best, {log.title()}"
    theirs = (epochs + 1) * seconds_per_epoch
    row = Row(work, peer, ours[reached]["seconds"], theirs, "s", PEERS_OF_SASREC[peer][0], note)
    verdict = "the peer's best is not reached" if missed else ""
    verdict = verdict if curve["stopped_by_itself"] else "not settled"
    return replace(row, versions=curve["versions"], verdict=verdict)


def lightgcn(bench: Bench) -> list[Row]:
    """An epoch of BPR: batch 2048, dimension 64, 2 layers."""
    rows = []
    for peer, bar in (("recbole", 3.0), ("pyg", 1.5)):
        mine, other = bench.versus(
            ("lightgcn_epoch", {}), (peer, "lightgcn_epoch", {"epochs": 2}), "toys"
        )
        sides = [_median(side, "seconds_per_epoch") for side in (mine, other)]
        rows.append(Row("LightGCN, epoch", peer, *sides, "s", bar, "", other[0]["versions"]))
    return rows


def ranking(bench: Bench) -> list[Row]:
    """Full ranking of all users, Recall and NDCG at 10 and 50, seen items masked."""
    peers = (
        ("recbole", "RecBole, default batch", {"batch": 4096}, 20.0),
        ("recbole", "RecBole, best batch", {"batch": 512 * 12_000}, 4.0),
        ("rectools", "RecTools", {}, None),
        ("implicit", "implicit, top-50 alone", {}, 1.0),
    )
    rows = []
    for program, name, options, bar in peers:
        mine, other = bench.versus(("rank", {}), (program, "rank", options), "toys")
        sides = [_median(side, "seconds") for side in (mine, other)]
        rows.append(Row("rank all users", name, *sides, "s", bar, "", other[0]["versions"]))
    return rows


def grpo(bench: Bench) -> list[Row]:
    """One GRPO step, 512 states, against multinomial and gather (`plain.py`)."""
    answers = [bench.run("ours", "grpo_step", "toys") for _ in range(bench.rounds)]
    names = ("plain", "cross_entropy", "exact", "exact_kl", "sampled")
    ms = {name: 1e3 * _median(answers, name) for name in names}
    work, plain, ce = "GRPO step, 512 states", "plain sampled step", "our cross-entropy step"
    note = f"with the KL to the reference {ms['exact_kl']:.0f} ms"
    rows = [
        Row(f"{work}, exact", plain, ms["exact"], ms["plain"], "ms", 5.0),
        Row(f"{work}, sampled G=4096", plain, ms["sampled"], ms["plain"], "ms", 2.0),
        Row(f"{work}, exact", ce, ms["exact"], ms["cross_entropy"], "ms", 1 / 1.3, note),
    ]
    return [replace(row, versions=answers[0]["versions"]) for row in rows]


def loading(bench: Bench) -> list[Row]:
    """File to filtered (5-core), split data; all must find the same."""
    rows = []
    for size, label, peers in (
        ("1300000", "1.3M rows", ("pandas", "recbole")),
        ("10000000", "10M rows", ("pandas",)),
    ):
        for peer in peers:
            folder = f"simulated-{size}"
            sides = bench.versus(("load", {}), (peer, "load", {}), folder)
            ours, other = sides[0][0], sides[1][0]
            sizes = [[a[key] for key in ("users", "items", "rows")] for a in (ours, other)]
            if sizes[0] != sizes[1]:
                raise SystemExit(f"5-core of {folder}: {sizes[0]} ours, {sizes[1]} {peer}'s")
            note = f"peak {ours['peak_mib']:,} MiB and {other['peak_mib']:,} MiB"
            seconds = [_median(side, "seconds") for side in sides]
            row = Row(f"5-core and split, {label}", peer, *seconds, "s", 10.0, note)
            rows.append(replace(row, versions=other["versions"]))
    return rows


def peak(bench: Bench) -> list[Row]:
    """Share of the products' own speed in the catalogue softmax, forward and backward."""
    answers = [bench.run("ours", "softmax_peak", "toys") for _ in range(bench.rounds)]
    rows = []
    for shape in (name for name in answers[0] if "x" in name):
        found = sorted((answer[shape] for answer in answers), key=lambda each: each["share"])
        middle = found[len(found) // 2]
        states, items = shape.split("x")
        work = f"catalogue softmax, {states} states × {items} items"
        alone = middle["ms"] * middle["share"]
        note = f"{middle['gflops']:.0f} of {middle['products_gflops']:.0f} GFLOP/s"
        row = Row(work, "its three products alone", middle["ms"], alone, "ms", 0.5, note)
        rows.append(replace(row, versions=answers[0]["versions"]))
    return rows


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "quality": quality,
    "positions": positions,
    "lightgcn": lightgcn,
    "ranking": ranking,
    "grpo": grpo,
    "loading": loading,
    "peak": peak,
}
OWN = ("growth", "large", "stratified", "paper")


def _scale(bench: Bench, work: str, **options: int) -> dict:
    return bench.run("scale", work, "toys", **options)


def growth(bench: Bench) -> dict[str, dict]:
    """Return seconds, memory and log-log slopes along each axis."""
    found: dict[str, dict] = {}
    for axis, scale, options in points():
        answer = _scale(bench, "point", **options)
        series = found.setdefault(axis, {"sizes": [], "epoch_s": [], "rank_s": [], "peak_mib": []})
        series["sizes"].append(AXES[axis] * scale)
        for key in ("epoch_s", "rank_s", "peak_mib"):
            series[key].append(answer[key])
    for series in found.values():
        for key in ("epoch", "rank"):
            slope = np.polyfit(np.log(series["sizes"]), np.log(series[f"{key}_s"]), 1)[0]
            series[f"{key}_slope"] = round(float(slope), 3)
    draw(found)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    data = os.environ.get("RECOACH_DATA", "../shared/data")
    arguments.add_argument("--data", type=Path, default=Path(data))
    arguments.add_argument("--work", type=Path, default=HERE / ".work")
    arguments.add_argument("--only", nargs="*", choices=(*PARTS, *OWN), default=(*PARTS, *OWN))
    arguments.add_argument("--curves", action="store_true", help="the peers' curves first: hours")
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    bench = Bench(chosen.data.resolve(), chosen.work.resolve(), chosen.rounds)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    if chosen.curves:
        curves(bench)
    for name in chosen.only:
        if name in PARTS:
            rows = [asdict(row) | {"ratio": round(row.ratio, 3)} for row in PARTS[name](bench)]
            known["rows"][name] = rows
        else:
            known[name] = growth(bench) if name == "growth" else _scale(bench, name)
        known["machine"] = {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
        }
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        write(known)


if __name__ == "__main__":
    main()
