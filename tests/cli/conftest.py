"""Fixtures: the command line called in this process, and a tiny run that many tests share."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from recoach.cli.main import main
from recoach.models.checkpoint import load_tensors

TOML = """
seed = 3

[data]
path = "{log}"
split = "leave_last_out"

[model]
name = "sasrec"
dim = 16
layers = 1

[pretrain]
epochs = 3
batch_size = 64

[finetune]
epochs = 2
batch_size = 256
patience = 0
"""


class CommandResult(NamedTuple):
    """Exit code and output of a command; white space in `out` is collapsed to single blanks."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def recoach():
    """Return a function that runs a command line and returns its exit code and output."""

    def call(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
            patch.setattr(sys, "argv", ["recoach", *map(str, arguments)])
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            code = 0
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
        return CommandResult(code, " ".join(out.getvalue().split()), err.getvalue())

    return call


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    """Return a CSV of 150 users whose next item mostly follows the last one, of 40 items."""
    generator = np.random.default_rng(7)
    lines = ["user_id,item_id,timestamp"]
    for user in range(150):
        item = int(generator.integers(40))
        for time in range(int(generator.integers(6, 13))):
            lines.append(f"u{user},i{item},{1500000000 + user * 1000 + time}")
            jump = generator.random() < 0.2
            item = (
                int(generator.integers(40)) if jump else (item + int(generator.integers(1, 4))) % 40
            )
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def toml(log):
    path = log.with_name("x.toml")
    path.write_text(TOML.format(log=log))
    return path


@pytest.fixture(scope="session")
def finished(recoach, toml, tmp_path_factory):
    """Return the folder of a finished run; tests only read it."""
    path = tmp_path_factory.mktemp("finished") / "run"
    result = recoach("run", toml, "--output", path)
    assert result.code == 0, result
    return path


@pytest.fixture
def run_copy(finished, tmp_path):
    """Return a copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def results(run):
    return json.loads((run / "results.json").read_text())


def numbers(run):
    """Return results.json without date, durations and the name of the folder."""
    record = results(run)
    record.pop("name"), record.pop("date", None)
    for model in record["models"].values():
        model.pop("seconds", None)
        model.get("budget", {}).pop("seconds", None)
    return record


def weights(run):
    """Return the bytes of every tensor of every checkpoint."""
    return {
        (file.parent.name, file.stem, name): tensor.numpy().tobytes()
        for file in sorted(run.glob("checkpoints/*/*.safetensors"))
        for name, tensor in load_tensors(file).tensors.items()
    }


def metrics(run):
    """Return the rows of metrics.jsonl without durations."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def run_files():
    """Return the functions that read the files of a run folder."""

    class RunFiles:
        pass

    for function in (results, numbers, weights, metrics, files):
        setattr(RunFiles, function.__name__, staticmethod(function))
    return RunFiles
