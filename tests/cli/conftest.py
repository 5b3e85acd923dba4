"""A command line called in this process, and one tiny run that many tests look at."""

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

[model]
name = "sasrec"
dim = 16
layers = 1

[pretrain]
epochs = 3
batch_size = 64

[grpo]
epochs = 2
batch_size = 256
patience = 0
"""


class Said(NamedTuple):
    """What a command left on the terminal, white space as single blanks."""

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
        return Said(code, " ".join(out.getvalue().split()), err.getvalue())

    return call


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    """Return a CSV of 150 users who mostly walk forward through 40 items."""
    draw = np.random.default_rng(7)
    lines = ["user_id,item_id,timestamp"]
    for user in range(150):
        item = int(draw.integers(40))
        for time in range(int(draw.integers(6, 13))):
            lines.append(f"u{user},i{item},{1500000000 + user * 1000 + time}")
            stray = draw.random() < 0.2
            item = int(draw.integers(40)) if stray else (item + int(draw.integers(1, 4))) % 40
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
    """Return the folder of a run that went through all stages; only to be read."""
    path = tmp_path_factory.mktemp("finished") / "run"
    said = recoach("run", toml, "--output", path)
    assert said.code == 0, said
    return path


@pytest.fixture
def mine(finished, tmp_path):
    """Return a copy of the finished run that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def results(run):
    return json.loads((run / "results.json").read_text())


def numbers(run):
    """Return all of results.json that does not depend on the clock or the folder's name."""
    record = results(run)
    record.pop("name")
    for model in record["models"].values():
        model.pop("seconds", None)
    return record


def weights(run):
    """Return every tensor of every checkpoint as bytes."""
    return {
        (file.parent.name, file.stem, name): tensor.numpy().tobytes()
        for file in sorted(run.glob("checkpoints/*/*.safetensors"))
        for name, tensor in load_tensors(file).tensors.items()
    }


def metrics(run):
    """Return the rows of metrics.jsonl without their seconds."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def look():
    """Return the ways to look into run folders."""

    class Look:
        pass

    for function in (results, numbers, weights, metrics, files):
        setattr(Look, function.__name__, staticmethod(function))
    return Look
