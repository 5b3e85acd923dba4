"""Compare training speed of session models with their authors' code, RecBole's and RecBole-GNN's.

`python benchmarks/session_models.py --official DIR [--data DIR] [--rows ROW …] [--rounds N]`

Steps on Diginetica are timed in one thread with the clock of the process and extrapolated to an
epoch. Recoach and the peer run alternately, and a row gives the median of the ratios of the rounds.
A peer whose code is not in DIR is skipped. Rows are written to `session_models.json` as they are
measured, and the tables of README.md from that file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import peer_python
from peers.common import read_sessions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "session_models.json"
BEGIN, END = (
    "<!-- rows: written by benchmarks/session_models.py -->\n",
    "<!-- end of session models -->",
)
BEST_BATCH = 512
"""Batch size of the column that shows the speed with larger batches."""


class Comparison(NamedTuple):
    """One row: what is trained and with which code."""

    model: str
    """Name of the table."""
    task: str
    """Task of `session_steps.py`."""
    peer: str
    """Environment of the peer, a folder of `peers/`."""
    peer_task: str
    code: str
    """Folder in DIR with the peer's code; "" for a package."""
    steps: int
    """Steps of the peer that are timed."""
    batch: int = 100
    peer_options: tuple[str, ...] = ()


OFFICIAL = "official"
GRU4REC = "GRU4Rec_PyTorch_Official"
ROWS = {
    f"{row.task}-{row.peer}": row
    for row in (
        Comparison("SR-GNN", "srgnn", OFFICIAL, "srgnn", "SR-GNN", 20),
        Comparison("SR-GNN", "srgnn", "recbole", "srgnn_sessions", "", 10),
        Comparison("FGNN, 2 layers", "fgnn", OFFICIAL, "fgnn", "FGNN", 20),
        Comparison("FGNN, 3 layers", "fgnn3", OFFICIAL, "fgnn", "FGNN", 20),
        Comparison("GAG", "gag", OFFICIAL, "gag", "GAG", 15),
        Comparison("GCE-GNN, 1 hop", "gcegnn", OFFICIAL, "gcegnn", "GCE-GNN", 6),
        Comparison(
            "GCE-GNN, 2 hops", "gcegnn2", OFFICIAL, "gcegnn", "GCE-GNN", 1, 100, ("hops=2",)
        ),
        Comparison("COTREC", "cotrec", OFFICIAL, "cotrec", "COTREC", 5),
        Comparison("COTREC without co-training", "cotrec_base", OFFICIAL, "cotrec", "COTREC", 5),
        Comparison("TAGNN", "tagnn", OFFICIAL, "tagnn", "TAGNN", 1),
        Comparison(
            "GRU4Rec, BPR-max", "gru4rec_bprmax", OFFICIAL, "gru4rec_bprmax", GRU4REC, 100, 128
        ),
        Comparison(
            "GRU4Rec, sampled softmax", "gru4rec_ce", OFFICIAL, "gru4rec_ce", GRU4REC, 100, 128
        ),
        Comparison("GRU4Rec, softmax", "gru4rec", "recbole", "gru4rec_sessions", "", 10),
    )
}


def missing(row: Comparison, official: Path | None) -> str:
    """Return why a row cannot be measured, "" if it can."""
    if not row.code:
        return ""
    if official is None:
        return "no folder of official code; name it with --official"
    return "" if (official / row.code).is_dir() else f"{official / row.code} does not exist"


def measure(row: Comparison, data: Path, official: Path | None, rounds: int) -> dict[str, object]:
    """Run Recoach and the peer alternately and return the CPU seconds of an epoch of each round."""
    ours: list[float] = []
    theirs: list[float] = []
    options = [f"steps={row.steps}", f"batch={row.batch}", *row.peer_options]
    options += [f"official={official}"] if row.code else []
    for _ in range(rounds):
        result = _run(sys.executable, "session_steps.py", row.task, data, [f"batch={row.batch}"])
        ours.append(result["seconds_per_epoch"])
        program, folder = f"peers/{row.peer}/run.py", data if row.code else _log_of(data)
        result = _run(str(peer_python(row.peer)), program, row.peer_task, folder, options)
        theirs.append(result["seconds_per_epoch"])
    best = _run(
        sys.executable, "session_steps.py", row.task, data, [f"batch={BEST_BATCH}", "steps=16"]
    )
    return {
        "recoach": ours,
        "peer": theirs,
        "ratio": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        f"recoach_batch_{BEST_BATCH}": best["seconds_per_epoch"],
        "versions": result["versions"],
    }


def _run(python: str, program: str, task: str, folder: Path, options: Sequence[str]) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        command = [python, HERE / program, task, folder, out, *options]
        print(" ".join((program, task, *options)), flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scratch, env=environment)
        return json.loads(out.read_text())


def _log_of(data: Path) -> Path:
    """Return a folder with the sessions as `log.inter`; write the file if it does not exist."""
    target = Path(tempfile.gettempdir()) / "recoach-benchmark-sessions" / "log.inter"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user, session in enumerate(read_sessions(data)):
            lines += [f"{user}\t{item}\t{len(lines) + n}" for n, item in enumerate(session)]
        target.write_text("\n".join(lines) + "\n")
    return target.parent


def parts(data: Path) -> dict[str, object]:
    """Return the parts of SR-GNN's epoch for both batch sizes."""
    return {
        str(batch): _run(
            sys.executable, "session_steps.py", "srgnn", data, [f"batch={batch}", "parts=1"]
        )
        for batch in (100, BEST_BATCH)
    }


def tables(results: dict) -> str:
    """Return the tables of README.md."""
    lines = [
        "| model, peer | batch | peer's epoch | Recoach's | ratio | Recoach, batch 512 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in ROWS.items():
        if name not in results.get("rows", {}):
            continue
        cell = results["rows"][name]
        peer = "official code" if row.code else f"RecBole {cell['versions']['recbole']}"
        theirs, ours = (statistics.median(cell[side]) for side in ("peer", "recoach"))
        lines.append(
            f"| {row.model}, {peer} | {row.batch} | {theirs:,.0f} s | {ours:,.0f} s | "
            f"{cell['ratio']:.1f} | {cell[f'recoach_batch_{BEST_BATCH}']:,.0f} s |"
        )
    lines += ["", "| SR-GNN, CPU seconds of an epoch | batch 100 | batch 512 |", "|---|---:|---:|"]
    if "parts" in results:
        cells = [results["parts"][batch] for batch in ("100", str(BEST_BATCH))]
        for part in cells[0]["parts"]:
            values = " | ".join(f"{cell['parts'][part]:,.1f}" for cell in cells)
            lines.append(f"| {part} | {values} |")
        ratios = " | ".join(f"{cell['ratio']:.2f}" for cell in cells)
        lines.append(f"| all, divided by softmax and optimiser | {ratios} |")
    return "\n".join(lines) + "\n"


def write(results: dict) -> None:
    """Write the results, and the tables of README.md."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    page = HERE / "README.md"
    before, rest = page.read_text().split(BEGIN)
    after = rest[rest.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{tables(results)}\n{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--official", type=Path, help="folder with clones of the official code")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data/diginetica")
    parser.add_argument("--rows", nargs="*", default=[*ROWS, "parts"], metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    official = args.official and args.official.resolve()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for name in args.rows:
        if name == "parts":
            results["parts"] = parts(args.data.resolve())
        elif reason := missing(ROWS[name], official):
            print(f"{name}: skipped ({reason})")
        else:
            results["rows"][name] = measure(ROWS[name], args.data.resolve(), official, args.rounds)
        write(results)


if __name__ == "__main__":
    main()
