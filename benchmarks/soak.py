"""Kill -9 anything at any moment, go on, and end bit for bit where the undisturbed one ends.

Two kinds of moments: at random times, and before each of the file operations that a command makes
in its folder, one after the other. After a row of kills the same command is left to end; then
every file is compared with those of a command nobody has killed, and nothing else may lie there.

    python benchmarks/soak.py                  # up to 25 minutes
    python benchmarks/soak.py --kills 5        # five kills of each kind, in a row
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("COLUMNS", "120")

import matplotlib.font_manager  # noqa: F401 - before the fork, once for all
import torch

from recoach.cli import reproduce, runs, search  # noqa: F401
from recoach.cli.main import main as recoach
from recoach.errors import RecoachError
from recoach.models.checkpoint import load_tensors
from recoach.reproduction import gains_cells
from recoach.training import loop

torch.set_num_threads(1)
WITHOUT = {"seconds", "environment"}
"""What two runs of the same do not share."""
TOML = """
seed = 3
[data]
path = "{log}"
[model]
dim = 8
layers = 1
heads = 1
max_length = 8
[pretrain]
epochs = 3
batch_size = 64
[grpo]
epochs = 2
batch_size = 128
patience = 0
eval_steps = 2
"""
FEW = 10
"""Kills that are made in one row, with one end to compare."""
KINDS = {
    "data prepare": ["data", "prepare", "{log}", "--output", "{out}"],
    "run": ["run", "{toml}", "--output", "{out}", "--resume"],
    "finetune": ["finetune", "{out}", "--resume", "--set", "grpo.learning_rate=1e-2"],
    "search": ["search", "{toml}", "--output", "{out}", "--trials", "3"],
    "reproduce": [
        *("reproduce", "ablation", "--dataset", "shop={log}", "--output", "{out}"),
        *("--only", "sasrec-next", "sasrec-horizon"),
    ],
}


@dataclass
class Tally:
    """What has come of one kind of command."""

    times: int = 0
    """Kills at random times."""
    operations: int = 0
    """Kills before a file operation."""
    ends: int = 0
    """Commands that were left to end, and compared."""
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Kill until the time is up and print a table; 1 where anything has gone wrong."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=200, help="at random times, of each kind")
    asked.add_argument("--minutes", type=float, default=25.0)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kind", choices=list(KINDS), action="append")
    given = asked.parse_args()
    kinds = given.kind or list(KINDS)
    loop._SAVE_SECONDS = 0.02  # as often as two minutes are in hours
    _shorten_suites()
    tallies = {kind: Tally() for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), random.Random(given.seed))
        for place, kind in enumerate(kinds):
            share = given.minutes * 60 / (len(kinds) - place)
            deadline = time.monotonic() + share
            given.minutes -= share / 60
            soak(world, kind, given.kills, deadline, tallies[kind])
            given.minutes += max(0.0, deadline - time.monotonic()) / 60
    print(
        "| command | kills at random times | kills before a file operation | ends compared | "
        "differences |\n|---|---|---|---|---|"
    )
    for kind, tally in tallies.items():
        row = (tally.times, tally.operations, tally.ends, len(tally.wrong))
        print(f"| `{kind}` | " + " | ".join(map(str, row)) + " |")
    for kind, tally in tallies.items():
        for words in tally.wrong:
            print(f"{kind}: {words}")
    return int(any(tally.wrong or not tally.ends for tally in tallies.values()))


class World:
    """A small log, its experiment, and folders to spoil."""

    def __init__(self, folder: Path, random_: random.Random) -> None:
        self.folder, self.random, self.count = folder, random_, 0
        lines = ["user_id,item_id,timestamp"]
        draw = random.Random(7)
        for user in range(60):
            item = draw.randrange(20)
            for moment in range(draw.randint(6, 10)):
                lines.append(f"u{user},i{item},{1500000000 + user * 1000 + moment}")
                item = (item + draw.randint(1, 3)) % 20
        (folder / "log.csv").write_text("\n".join(lines) + "\n")
        (folder / "x.toml").write_text(TOML.format(log=folder / "log.csv"))
        self.based = folder / "based" / "out"
        self.ended(["pretrain", "{log}", "--output", "{out}", "--set", *_settings()], self.based)

    def fresh(self, kind: str) -> Path:
        """Return where a command of a kind may begin."""
        self.count += 1
        out = self.folder / str(self.count) / "out"
        out.parent.mkdir()
        if kind == "finetune":
            shutil.copytree(self.based, out)
        return out

    def command(self, words: list[str], out: Path) -> list[str]:
        """Return a command line with its places filled in."""
        places = {"log": self.folder / "log.csv", "toml": self.folder / "x.toml", "out": out}
        return [word.format(**places) for word in words]

    def started(self, words: list[str], out: Path, stop_at: int = 0) -> int:
        """Start a command in a child, which kills itself before its n-th file operation."""
        said = out.parent.with_name(f"{out.parent.name}.said")
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            _count_operations(str(out.parent), stop_at, said.with_suffix(".count"))
            sys.argv = ["recoach", *self.command(words, out)]
            try:
                recoach()
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self, words: list[str], out: Path) -> float:
        """Run a command to its end and return its seconds."""
        began = time.monotonic()
        _, status = os.waitpid(self.started(words, out), 0)
        if status:
            said = out.parent.with_name(f"{out.parent.name}.said").read_text()
            raise RuntimeError(f"{words[0]} ended with {status}: {said[-2000:]}")
        return time.monotonic() - began

    def operations(self, out: Path) -> int:
        """Return the file operations of the last whole command there."""
        return int(out.parent.with_name(f"{out.parent.name}.count").read_text())


def soak(world: World, kind: str, kills: int, deadline: float, tally: Tally) -> None:
    """Kill one kind of command, first at each operation, then at random times."""
    whole = world.fresh(kind)
    seconds = world.ended(KINDS[kind], whole)
    trial = Trial(kind, snapshot(whole), seconds, world.operations(whole))
    draw = world.random
    if kills <= FEW:
        operations = draw.sample(range(1, trial.operations + 1), kills // 2 + 1)
        times = [draw.uniform(0, seconds) for _ in range(kills - len(operations))]
        _kill_and_compare(world, trial, [*operations, *times], tally)
        return
    # Half of the time for each way, and what the first leaves for the second.
    middle = (time.monotonic() + deadline) / 2
    for operation in draw.sample(range(1, trial.operations + 1), trial.operations):
        if time.monotonic() < middle:
            _kill_and_compare(world, trial, [operation], tally)
    while tally.times < kills and time.monotonic() < deadline:
        times = [draw.uniform(0, seconds) for _ in range(draw.randint(1, 5))]
        _kill_and_compare(world, trial, times, tally)


@dataclass(frozen=True)
class Trial:
    """What a kind of command comes to when nobody kills it."""

    kind: str
    expected: dict[str, Any]
    seconds: float
    operations: int


def snapshot(folder: Path) -> dict[str, Any]:
    """Return what must be the same of everything that lies under a folder's parent."""
    return {
        str(path.relative_to(folder.parent)): _content(path)
        for path in sorted(folder.parent.rglob("*"))
    }


def _kill_and_compare(world: World, trial: Trial, moments: Sequence[float], tally: Tally) -> None:
    """Kill a command before operations (whole numbers) and at times, end it, compare."""
    out, words, passed = world.fresh(trial.kind), KINDS[trial.kind], []
    for moment in moments:
        if isinstance(moment, int):
            _, status = os.waitpid(world.started(words, out, moment), 0)
            tally.operations += os.WIFSIGNALED(status)
            passed.append(f"before operation {moment} of {trial.operations}")
        else:
            tally.times += _killed(world.started(words, out), moment)
            passed.append(f"after {moment:.3f} s of {trial.seconds:.3f}")
    when = "killed " + ", ".join(passed)
    try:
        world.ended(words, out)
        found = snapshot(out)
    except (RuntimeError, OSError, RecoachError) as error:
        tally.wrong.append(f"{when}: {error}")
        return
    tally.ends += 1
    expected = trial.expected
    names = [n for n in sorted({*found, *expected}) if found.get(n) != expected.get(n)]
    if names:
        tally.wrong.append(f"{when}: differs in {', '.join(names)}")
    shutil.rmtree(out.parent)


def _killed(child: int, seconds: float) -> bool:
    """Kill a child after so many seconds; return whether it was still there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _count_operations(folder: str, stop_at: int, note: Path) -> None:
    """Count the file operations under a folder; kill this process before one of them."""
    count = [0]
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def see(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(given[2], int) or not given[2] & writes:
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            return
        if not str(given[0]).startswith(folder + os.sep):
            return
        count[0] += 1
        if count[0] == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(note, "w") as file:  # noqa: PTH123 - seen again, and passed
            file.write(str(count[0]))

    sys.addaudithook(see)


def _content(path: Path) -> Any:  # noqa: ANN401 - whatever the file is
    if path.is_dir():
        return "folder"
    if path.suffix == ".safetensors":
        tensors, state = load_tensors(path)
        numbers = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        return numbers, _timeless(state)
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json" and path.name != "dataset.json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix in (".html", ".db", ".svg", ".png"):
        return "there"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in WITHOUT}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _settings() -> Iterator[str]:
    yield "seed=3"
    yield from ("model.dim=8", "model.layers=1", "model.heads=1", "model.max_length=8")
    yield from ("pretrain.epochs=3", "pretrain.batch_size=64")
    yield from ("grpo.epochs=2", "grpo.batch_size=128", "grpo.patience=0", "grpo.eval_steps=2")


def _shorten_suites() -> None:
    """Have the cells of a suite end in a second; they stay two that share a base."""
    plain: Callable[..., list[gains_cells.Cell]] = gains_cells.GAINS["ablation"]

    def short(*given: Any) -> list[gains_cells.Cell]:  # noqa: ANN401 - as the plain one
        small = {"dim": 8, "layers": 1, "heads": 1, "max_length": 8}
        return [
            cell._replace(
                tables=cell.tables
                | {
                    "model": cell.tables["model"] | small,
                    "pretrain": {"epochs": 2, "batch_size": 64},
                    "grpo": cell.tables["grpo"] | {"epochs": 1, "batch_size": 128},
                }
            )
            for cell in plain(*given)
        ]

    gains_cells.GAINS["ablation"] = short


if __name__ == "__main__":
    sys.exit(main())
