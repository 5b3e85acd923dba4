"""What the peers' programs share: the log, the split, the clock, the answer."""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
DIM, BLOCKS, HEADS, LENGTH = 64, 2, 2, 50
"""Of every SASRec; the vectors of all other models have the same size."""

LONG = 60.0
"""Seconds after which one run is measurement enough."""


class Log(NamedTuple):
    """Interactions sorted by user and time; users and items are codes from 0."""

    user: np.ndarray
    item: np.ndarray
    back: np.ndarray
    """Places from the end of the user's history: 0 is test, 1 is valid, the rest is train."""

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.user.max()) + 1, int(self.item.max()) + 1

    def part(self, mask: np.ndarray) -> "Log":
        return Log(*(column[mask] for column in self))

    def histories(self) -> list[np.ndarray]:
        """Return the items of each user that has any, in time."""
        return np.split(self.item, np.flatnonzero(np.diff(self.user)) + 1)


def read(folder: Path) -> Log:
    """Return the log of FOLDER."""
    user, item, when = np.loadtxt(folder / "log.inter", skiprows=1, delimiter="\t").T
    order = np.lexsort((when, user))
    _, user = np.unique(user[order], return_inverse=True)
    _, item = np.unique(item[order], return_inverse=True)
    back = np.bincount(user).cumsum()[user] - 1 - np.arange(len(user))
    return Log(user, item, back)


def vectors(shape: tuple[int, int]) -> list[np.ndarray]:
    """Return random vectors of all users and of all items."""
    random = np.random.default_rng(0)
    return [random.standard_normal((count, DIM), dtype=np.float32) for count in shape]


def repeated(work: Callable[[], object]) -> float:
    """Return the median seconds of three runs, of one if it is long."""
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or seconds[0] <= LONG):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class Epochs:
    """Seconds an epoch: the median of whole epochs, or some steps scaled to one.

    The first epoch, or the first steps, are warm-up. `step` and `end` return whether all is timed.
    """

    skipped = 3

    def __init__(self, epochs: int, steps: int = 0) -> None:
        self.epochs, self.steps = epochs, steps
        self.stamps: list[float] = []
        self.seconds: list[float] = []

    def begin(self, batches: int) -> None:
        self.batches, self.start = batches, time.perf_counter()

    def step(self) -> bool:
        self.stamps.append(time.perf_counter())
        return self.done

    def end(self) -> bool:
        self.seconds.append(time.perf_counter() - self.start)
        return self.done

    @property
    def done(self) -> bool:
        if self.steps:
            return len(self.stamps) >= self.skipped + self.steps
        return len(self.seconds) > self.epochs

    @property
    def result(self) -> float:
        """Seconds an epoch."""
        if self.steps:
            first, last = self.stamps[self.skipped - 1], self.stamps[self.skipped + self.steps - 1]
            return (last - first) / self.steps * self.batches
        return statistics.median(self.seconds[1:])


def answer(out: Path, result: dict[str, object], *packages: str) -> None:
    """Write the result with peak memory and versions."""
    versions = {name: version(name) for name in (*packages, "numpy")}
    versions["python"] = platform.python_version()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.write_text(json.dumps(result | {"peak_mib": round(peak), "versions": versions}) + "\n")


def main(works: dict[str, Callable[..., None]]) -> None:
    """Do the work named on the command line: `run.py WORK FOLDER OUT [KEY=VALUE ...]`."""
    work, folder, out, *rest = sys.argv[1:]
    sys.argv = sys.argv[:1]  # some peers parse the command line themselves
    options = dict(option.split("=") for option in rest)
    works[work](
        Path(folder), Path(out).resolve(), **{key: int(value) for key, value in options.items()}
    )
