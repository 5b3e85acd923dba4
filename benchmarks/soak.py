"""Kill commands with SIGKILL, resume them, and compare the result with an uninterrupted run.

Commands are killed at random times and before each file operation in their folder. After one or
more kills the command runs to its end. Then the folder must contain the same files as that of an
uninterrupted command, with equal content, and no others.

    python benchmarks/soak.py                  # up to 25 minutes
    python benchmarks/soak.py --kills 5        # five kills of each command, without a run between
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

import matplotlib.font_manager  # noqa: F401 - loads the fonts once, before forking
import torch

from recoach.cli import reproduce, runs, search  # noqa: F401
from recoach.cli.main import main as recoach
from recoach.errors import RecoachError
from recoach.models.checkpoint import load_tensors
from recoach.reproduction import gains_cells
from recoach.training import loop

torch.set_num_threads(1)
IGNORED_KEYS = {"seconds", "date", "environment"}
"""Keys whose values differ between two runs of the same command."""
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
[finetune]
epochs = 2
batch_size = 128
patience = 0
eval_steps = 2
"""
MAX_KILLS_OF_ONE_TRIAL = 10
"""Up to this number, all kills of a command belong to one trial with one comparison."""
COMMANDS = {
    "data prepare": ["data", "prepare", "{log}", "--output", "{out}"],
    "run": ["run", "{toml}", "--output", "{out}", "--resume"],
    "finetune": ["finetune", "{out}", "--resume", "--set", "finetune.learning_rate=1e-2"],
    "search": ["search", "{toml}", "--output", "{out}", "--trials", "3"],
    "reproduce": [
        *("reproduce", "ablation", "--dataset", "shop={log}", "--output", "{out}"),
        *("--only", "sasrec-next", "sasrec-horizon"),
    ],
}


@dataclass
class Counts:
    """Kills and comparisons of one command."""

    random_kills: int = 0
    """Kills at random times."""
    operation_kills: int = 0
    """Kills before a file operation."""
    comparisons: int = 0
    """Resumed commands whose results were compared."""
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Kill commands until the time is over and print a table; return 1 if a comparison failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=200, help="kills of each command at random times"
    )
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=list(COMMANDS), action="append")
    options = parser.parse_args()
    names = options.command or list(COMMANDS)
    loop._SAVE_SECONDS = 0.02  # many checkpoints in a short run
    _shorten_suites()
    counts = {name: Counts() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(Path(folder), random.Random(options.seed))
        seconds_left = options.minutes * 60
        for index, name in enumerate(names):
            start = time.monotonic()
            deadline = start + seconds_left / (len(names) - index)
            soak(sandbox, name, options.kills, deadline, counts[name])
            seconds_left -= min(time.monotonic(), deadline) - start
    print(
        "| command | kills at random times | kills before a file operation | comparisons | "
        "differences |\n|---|---|---|---|---|"
    )
    for name, count in counts.items():
        row = (
            count.random_kills,
            count.operation_kills,
            count.comparisons,
            len(count.failures),
        )
        print(f"| `{name}` | " + " | ".join(map(str, row)) + " |")
    for name, count in counts.items():
        for failure in count.failures:
            print(f"{name}: {failure}")
    return int(any(count.failures or not count.comparisons for count in counts.values()))


class Sandbox:
    """A small log, its experiment file, and a new folder for each trial."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng, self.n_folders = folder, rng, 0
        lines = ["user_id,item_id,timestamp"]
        log_rng = random.Random(7)
        for user in range(60):
            item = log_rng.randrange(20)
            for step in range(log_rng.randint(6, 10)):
                lines.append(f"u{user},i{item},{1500000000 + user * 1000 + step}")
                item = (item + log_rng.randint(1, 3)) % 20
        (folder / "log.csv").write_text("\n".join(lines) + "\n")
        (folder / "x.toml").write_text(TOML.format(log=folder / "log.csv"))
        self.base_run = folder / "base" / "out"
        self.run(["pretrain", "{log}", "--output", "{out}", "--set", *_settings()], self.base_run)

    def new_folder(self, name: str) -> Path:
        """Return a new output folder for a command; `finetune` gets a copy of the base run."""
        self.n_folders += 1
        out = self.folder / str(self.n_folders) / "out"
        out.parent.mkdir()
        if name == "finetune":
            shutil.copytree(self.base_run, out)
        return out

    def arguments(self, template: list[str], out: Path) -> list[str]:
        """Return the command line with its paths filled in."""
        paths = {"log": self.folder / "log.csv", "toml": self.folder / "x.toml", "out": out}
        return [word.format(**paths) for word in template]

    def start(self, template: list[str], out: Path, kill_before: int = 0) -> int:
        """Start a command in a child process and return its ID.

        The child kills itself before file operation number `kill_before`, if that is above 0.
        """
        output = out.parent.with_name(f"{out.parent.name}.output")
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            _count_operations(str(out.parent), kill_before, output.with_suffix(".count"))
            sys.argv = ["recoach", *self.arguments(template, out)]
            try:
                recoach()
                code = 0
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def run(self, template: list[str], out: Path) -> float:
        """Run a command to its end and return its seconds."""
        start = time.monotonic()
        _, status = os.waitpid(self.start(template, out), 0)
        if status:
            output = out.parent.with_name(f"{out.parent.name}.output").read_text()
            raise RuntimeError(f"{template[0]} ended with status {status}: {output[-2000:]}")
        return time.monotonic() - start

    def n_operations(self, out: Path) -> int:
        """Return the number of file operations of the last uninterrupted command in a folder."""
        return int(out.parent.with_name(f"{out.parent.name}.count").read_text())


def soak(sandbox: Sandbox, name: str, kills: int, deadline: float, counts: Counts) -> None:
    """Kill one command, first before its file operations, then at random times."""
    out = sandbox.new_folder(name)
    seconds = sandbox.run(COMMANDS[name], out)
    reference = Reference(name, read_contents(out), seconds, sandbox.n_operations(out))
    rng = sandbox.rng
    if kills <= MAX_KILLS_OF_ONE_TRIAL:
        operations = rng.sample(range(1, reference.n_operations + 1), kills // 2 + 1)
        times = [rng.uniform(0, seconds) for _ in range(kills - len(operations))]
        _kill_and_compare(sandbox, reference, [*operations, *times], counts)
        return
    # Each kind of kill gets half of the time; the second also gets what the first leaves.
    halfway = (time.monotonic() + deadline) / 2
    n_operations = reference.n_operations
    for operation in rng.sample(range(1, n_operations + 1), n_operations):
        if time.monotonic() < halfway:
            _kill_and_compare(sandbox, reference, [operation], counts)
    while counts.random_kills < kills and time.monotonic() < deadline:
        times = [rng.uniform(0, seconds) for _ in range(rng.randint(1, 5))]
        _kill_and_compare(sandbox, reference, times, counts)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run of a command."""

    name: str
    contents: dict[str, Any]
    seconds: float
    n_operations: int


def read_contents(folder: Path) -> dict[str, Any]:
    """Return the reproducible content of every file under the parent of a folder."""
    return {
        str(path.relative_to(folder.parent)): _content(path)
        for path in sorted(folder.parent.rglob("*"))
    }


def _kill_and_compare(
    sandbox: Sandbox, reference: Reference, kills: Sequence[float], counts: Counts
) -> None:
    """Kill a command several times, resume it, and compare it with the reference.

    Args:
        sandbox: gives the folder.
        reference: the uninterrupted run.
        kills: numbers of file operations (int) and times in seconds (float).
        counts: updated.
    """
    out, template = sandbox.new_folder(reference.name), COMMANDS[reference.name]
    descriptions = []
    for kill in kills:
        if isinstance(kill, int):
            _, status = os.waitpid(sandbox.start(template, out, kill), 0)
            counts.operation_kills += os.WIFSIGNALED(status)
            descriptions.append(f"before operation {kill} of {reference.n_operations}")
        else:
            counts.random_kills += _kill_after(sandbox.start(template, out), kill)
            descriptions.append(f"after {kill:.3f} s of {reference.seconds:.3f}")
    description = "killed " + ", ".join(descriptions)
    try:
        sandbox.run(template, out)
        contents = read_contents(out)
    except (RuntimeError, OSError, RecoachError) as error:
        counts.failures.append(f"{description}: {error}")
        return
    counts.comparisons += 1
    expected = reference.contents
    paths = [p for p in sorted({*contents, *expected}) if contents.get(p) != expected.get(p)]
    if paths:
        counts.failures.append(f"{description}: differs in {', '.join(paths)}")
    shutil.rmtree(out.parent)


def _kill_after(child: int, seconds: float) -> bool:
    """Kill a child process after some seconds; return whether it was still running."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _count_operations(folder: str, kill_before: int, count_file: Path) -> None:
    """Count the file operations of this process under a folder; kill it before one of them."""
    count = 0
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & writes:
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            return
        if not str(arguments[0]).startswith(folder + os.sep):
            return
        count += 1
        if count == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(count_file, "w") as file:  # noqa: PTH123 - this open is audited, and ignored
            file.write(str(count))

    sys.addaudithook(audit)


def _content(path: Path) -> Any:  # noqa: ANN401 - depends on the format
    if path.is_dir():
        return "folder"
    if path.suffix == ".safetensors":
        tensors, state, _ = load_tensors(path)
        values = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        return values, _without_ignored(state)
    if path.name == "metrics.jsonl":
        return [_without_ignored(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json" and path.name != "dataset.json":
        return _without_ignored(json.loads(path.read_text()))
    if path.suffix in (".html", ".db", ".svg", ".png"):
        return "exists"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_ignored(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {
            key: _without_ignored(part) for key, part in value.items() if key not in IGNORED_KEYS
        }
    return [_without_ignored(part) for part in value] if isinstance(value, list) else value


def _settings() -> Iterator[str]:
    yield "seed=3"
    yield from ("model.dim=8", "model.layers=1", "model.heads=1", "model.max_length=8")
    yield from ("pretrain.epochs=3", "pretrain.batch_size=64")
    yield from (
        "finetune.epochs=2",
        "finetune.batch_size=128",
        "finetune.patience=0",
        "finetune.eval_steps=2",
    )


def _shorten_suites() -> None:
    """Replace the cells of the ablation by ones that take a second and share their base."""
    original: Callable[..., list[gains_cells.Cell]] = gains_cells.GAINS_SUITES["ablation"]

    def shortened(*arguments: Any) -> list[gains_cells.Cell]:  # noqa: ANN401 - as the original
        small = {"dim": 8, "layers": 1, "heads": 1, "max_length": 8}
        return [
            cell._replace(
                tables=cell.tables
                | {
                    "model": cell.tables["model"] | small,
                    "pretrain": {"epochs": 2, "batch_size": 64},
                    "finetune": cell.tables["finetune"] | {"epochs": 1, "batch_size": 128},
                }
            )
            for cell in original(*arguments)
        ]

    gains_cells.GAINS_SUITES["ablation"] = shortened


if __name__ == "__main__":
    sys.exit(main())
