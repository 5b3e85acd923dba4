"""Run the benchmarks: `python benchmarks/run.py [--data DIR] [--only WORK …]`.

Each row is measured by running the peer's program and ours in turns, and is the ratio of their
medians; rows that are not asked for keep what `results.json` says. A peer's environment is made
from `peers/<peer>/requirements.txt` the first time it is needed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scale import AXES, points
from table import draw, write

HERE = Path(__file__).resolve().parent
ENVIRONMENTS, RESULTS, CURVES = HERE / ".environments", HERE / "results.json", HERE / "curves"
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
        "RecTools": ("rectools", "sasrec_epoch", {"steps": 8}),
        "RePlay": ("replay", "sasrec_epoch", {"steps": 8}),
        "RecBole": ("recbole", "sasrec_epoch", {"steps": 5}),
    }
    rows = []
    for name, peer in peers.items():
        mine, other = bench.versus(("sasrec_epoch", {"steps": 60}), peer, "toys")
        speeds = [
            [a["positions_per_epoch"] / a["seconds_per_epoch"] for a in side]
            for side in (mine, other)
        ]
        ours, theirs = (statistics.median(side) for side in speeds)
        note = f"epoch {_median(mine, 'seconds_per_epoch'):.1f} s against "
        note += f"{_median(other, 'seconds_per_epoch'):.0f} s"
        bar = None if name == "RecBole" else 2.0
        rows.append(
            Row(
                "SASRec, positions trained",
                name,
                ours,
                theirs,
                "1/s",
                bar,
                note,
                other[0]["versions"],
                "more",
            )
        )
    return rows


def quality(bench: Bench) -> list[Row]:
    """Seconds until the validation NDCG@10 is as good as the peer's best."""
    rows, bars = [], {"recbole": 30.0, "rectools": 3.0, "replay": 3.0}
    steps = {"recbole": 5, "rectools": 8, "replay": 8}
    for log in LOGS:
        peers = [peer for peer in bars if (CURVES / f"{peer}-{log}.json").exists()]
        if not peers:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "curve.jsonl"
            command = [sys.executable, HERE / "ours.py", "sasrec_curve", bench.folder(log), out]
            print(f"ours sasrec_curve {log}", flush=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ours = [json.loads(line) for line in out.read_text().splitlines()]
        (CURVES / f"recoach-{log}.json").write_text(json.dumps(ours, indent=1) + "\n")
        for peer in peers:
            curve = json.loads((CURVES / f"{peer}-{log}.json").read_text())
            values = [point["ndcg@10"] for point in curve["epochs"]]
            best = max(values)
            epochs = values.index(best) + 1
            reached = next((row for row in ours if row["valid/ndcg@10"] >= best), None)
            if reached is None:
                print(f"ours never reaches {peer}'s {best:.4f} on {log}")
                continue
            answer = bench.run(peer, "sasrec_epoch", log, steps=steps[peer])
            theirs = epochs * answer["seconds_per_epoch"]
            note = (
                f"NDCG@10 {best:.4f}: their epoch {epochs}{curve['ended']}, our epoch "
                f"{reached['epoch']}; our best {max(row['valid/ndcg@10'] for row in ours):.4f}; "
                "their validations not counted, ours are"
            )
            work = f"SASRec to the peer's best, {log.title()}"
            row = Row(work, peer, reached["seconds"], theirs, "s", bars[peer], note)
            row.versions = curve["versions"]
            rows.append(row)
    return rows


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
    ms = {
        name: 1e3 * _median(answers, name)
        for name in answers[0]
        if name[0] in "ceps" and name != "peak_mib"
    }
    versions = answers[0]["versions"]
    work = "GRPO step, 512 states"
    return [
        Row(work + ", exact", "plain sampled", ms["exact"], ms["plain"], "ms", 5.0, "", versions),
        Row(
            work + ", sampled G=4096",
            "plain sampled",
            ms["sampled"],
            ms["plain"],
            "ms",
            2.0,
            "",
            versions,
        ),
        Row(
            work + ", exact",
            "our cross-entropy step",
            ms["exact"],
            ms["cross_entropy"],
            "ms",
            1 / 1.3,
            f"with the KL to the reference {ms['exact_kl']:.0f} ms",
            versions,
        ),
    ]


def loading(bench: Bench) -> list[Row]:
    """File to filtered (5-core), split data."""
    rows = []
    for size, label in (("1300000", "1.3M rows"), ("10000000", "10M rows")):
        for peer in ("pandas", "recbole"):
            if peer == "recbole" and size == "10000000":
                continue
            folder = f"simulated-{size}"
            ours = bench.run("ours", "load", folder)
            other = bench.run(peer, "load", folder)
            if (ours["users"], ours["items"], ours["rows"]) != tuple(
                other[key] for key in ("users", "items", "rows")
            ):
                raise SystemExit(f"{peer} and ours disagree on the 5-core of {folder}")
            note = f"peak {ours['peak_mib']} MiB against {other['peak_mib']} MiB"
            rows.append(
                Row(
                    f"5-core and split, {label}",
                    peer,
                    ours["seconds"],
                    other["seconds"],
                    "s",
                    10.0,
                    note,
                    other["versions"],
                )
            )
    return rows


def peak(bench: Bench) -> list[Row]:
    """Share of the products' own speed in the catalogue softmax, forward and backward."""
    answer = bench.run("ours", "softmax_peak", "toys")
    rows = []
    for shape, found in answer.items():
        if "x" not in shape:
            continue
        note = f"{found['gflops']:.0f} of {found['products_gflops']:.0f} GFLOP/s"
        states, items = shape.split("x")
        work = f"catalogue softmax, {states} states × {items} items"
        ours, theirs = 1e3 * found["ms"] / 1e3, found["ms"] * found["share"]
        row = Row(work, "its three products alone", ours, theirs, "ms", 0.5, note)
        row.versions = answer["versions"]
        rows.append(row)
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
OWN = ("growth", "large", "stratified")


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
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    bench = Bench(chosen.data.resolve(), chosen.work.resolve(), chosen.rounds)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
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
