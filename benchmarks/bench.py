"""Run the programs of Recoach and of its peers, and hold what they measure."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".environments"
LOGS = {"toys": "toys-2014/Toys_and_Games.txt", "beauty": "beauty-2014/Beauty.txt"}
SIMULATORS = {
    "simulated": ("simulate.py", "log.inter"),
    "bandit": ("simulate_bandit.py", "log.npz"),
}
"""Prefix of a log's name -> the program that writes it, and the name of its file."""
RECOACH = ("recoach_run", "recoach_models", "scale", "gpu_steps")
"""Programs that run in the environment of Recoach."""
_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMBA")
ONE_THREAD = {"POLARS_MAX_THREADS": "1"} | {f"{name}_NUM_THREADS": "1" for name in _LIBRARIES}
"""Environment of the programs whose CPU seconds are compared."""


@dataclass
class Row:
    """One line of the table; the field names are keys of `results.json`."""

    work: str
    """What is measured."""
    peer: str
    ours: float
    """Recoach, in `unit`."""
    theirs: float
    """The peer, in `unit`."""
    unit: str
    bar: float | None = None
    """Target ratio, if one was set."""
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    """Why the ratio is not comparable with `bar`, if so."""
    better: str = "less"
    """`less` or `more`: which direction of `unit` is better."""
    rounds: int | None = None
    """How often both sides ran, where that is not what the command line says."""

    @property
    def ratio(self) -> float:
        """Speed-up over the peer; above 1 Recoach is better."""
        return self.theirs / self.ours if self.better == "less" else self.ours / self.theirs


class Bench:
    """Runs the benchmark programs on the logs.

    Args:
        data: folder of the raw logs.
        work: folder for converted and simulated logs.
        rounds: how often each program of a comparison runs.
    """

    def __init__(self, data: Path, work: Path, rounds: int) -> None:
        self.data, self.work, self.rounds = data, work, rounds

    def folder(self, name: str) -> Path:
        """Return the folder of a log; write its file if it is converted or simulated.

        Args:
            name: a key of `LOGS`, "simulated-ROWS", "bandit-ROWS", or a folder of the raw logs.
        """
        prefix, _, rows = name.partition("-")
        if name not in LOGS and prefix not in SIMULATORS:
            return self.data / name
        script, file = SIMULATORS.get(prefix, ("", "log.inter"))
        target = self.work / name / file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if name in LOGS:
                _write_atomic_file(self.data / LOGS[name], target)
            else:
                subprocess.run([sys.executable, HERE / script, rows, target], check=True)
        return target.parent

    def run(
        self, program: str, task: str, folder: str, *, one_thread: bool = False, **options: int
    ) -> dict[str, object]:
        """Run one task of one program and return its result."""
        is_recoach = program in RECOACH
        python = Path(sys.executable) if is_recoach else peer_python(program)
        environment = os.environ | (ONE_THREAD if one_thread else {})
        script = HERE / (f"{program}.py" if is_recoach else f"peers/{program}/run.py")
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out.json"
            arguments = [f"{key}={value}" for key, value in options.items()]
            command = [python, script, task, self.folder(folder), out, *arguments]
            print(" ".join(str(part) for part in (program, task, folder, *arguments)), flush=True)
            subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, cwd=scratch, env=environment
            )
            text = out.read_text()
        return json.loads(text)

    def compare(
        self,
        recoach: tuple[str, dict[str, int]],
        peer: tuple[str, str, dict[str, int]],
        folder: str,
        *,
        program: str = "recoach_run",
        one_thread: bool = False,
    ) -> tuple[list[dict], list[dict]]:
        """Run Recoach and a peer alternately and return the results of both.

        Args:
            recoach: task and options.
            peer: program, task and options.
            folder: name of the log.
            program: the program of Recoach's task.
            one_thread: whether both run on one thread.
        """
        task, options = recoach
        peer_program, peer_task, peer_options = peer
        results: tuple[list[dict], list[dict]] = ([], [])
        for _ in range(self.rounds):
            for side, call in zip(
                results,
                ((program, task, options), (peer_program, peer_task, peer_options)),
                strict=True,
            ):
                side.append(self.run(*call[:2], folder, one_thread=one_thread, **call[2]))
        return results


def _write_atomic_file(source: Path, target: Path) -> None:
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for line in source.read_text().splitlines():
        user, *items = line.split()
        lines += [f"{user}\t{item}\t{position}" for position, item in enumerate(items)]
    target.write_text("\n".join(lines) + "\n")


def peer_python(peer: str) -> Path:
    """Return the Python of a peer's environment; create the environment if there is none."""
    python = ENVIRONMENTS / peer / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENTS / peer], check=True)
        requirements = HERE / "peers" / peer / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


def median(results: list[dict], key: str) -> float:
    """Return the median of one value of the results of a program."""
    return statistics.median(result[key] for result in results)
