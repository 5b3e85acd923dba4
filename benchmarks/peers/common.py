"""Functions shared by the programs of the peers: reading the log, timing, writing results."""

import gzip
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
"""Architecture of every SASRec; all other models use the same embedding size."""

MAX_REPEATED_SECONDS = 60.0
"""A task that takes longer is timed once."""


class Log(NamedTuple):
    """Interactions sorted by user and time, with user and item indices from 0."""

    user: np.ndarray
    item: np.ndarray
    from_end: np.ndarray
    """Position from the end of the user's history: 0 is test, 1 is validation, others training."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of users and of items."""
        return int(self.user.max()) + 1, int(self.item.max()) + 1

    def select(self, mask: np.ndarray) -> "Log":
        """Return the interactions where a mask is true."""
        return Log(*(column[mask] for column in self))

    def hold_out(self) -> tuple["Log", "Log"]:
        """Return training and validation interactions, split as Recoach does.

        Without repetitions of a pair of a user and an item in training; a user with one or two
        interactions has one in training and none for validation.
        """
        is_short = np.bincount(self.user)[self.user] < 3
        is_first = np.diff(self.user, prepend=-1) > 0
        train = self.select(np.where(is_short, is_first, self.from_end > 1))
        return train.distinct(), self.select((self.from_end == 1) & ~is_short)

    def distinct(self) -> "Log":
        """Return the interactions without repetitions of a pair of a user and an item."""
        pairs = self.user * self.shape[1] + self.item
        return self.select(np.unique(pairs, return_index=True)[1])

    def histories(self) -> list[np.ndarray]:
        """Return the items of each user with interactions, oldest first."""
        return np.split(self.item, np.flatnonzero(np.diff(self.user)) + 1)


def read(folder: Path) -> Log:
    """Return the log of a folder; users and items are numbered in the order of their IDs."""
    columns = np.loadtxt(folder / "log.inter", dtype=str, skiprows=1, delimiter="\t").T
    # Numbers are sorted as numbers, other IDs as text.
    user, item = (ids.astype(float) if ids[0].isdigit() else ids for ids in columns[:2])
    order = np.lexsort((columns[2].astype(float), user))
    _, user = np.unique(user[order], return_inverse=True)
    _, item = np.unique(item[order], return_inverse=True)
    from_end = np.bincount(user).cumsum()[user] - 1 - np.arange(len(user))
    return Log(user, item, from_end)


def read_sessions(folder: Path) -> list[list[int]]:
    """Return the items, from 1, of the sessions in `train.txt.gz` (session item item …)."""
    with gzip.open(folder / "train.txt.gz", "rt") as lines:
        return [[int(item) for item in line.split()[1:]] for line in lines]


def vectors(shape: tuple[int, int]) -> list[np.ndarray]:
    """Return random vectors of all users and of all items."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((count, DIM), dtype=np.float32) for count in shape]


def median_seconds(task: Callable[[], object]) -> float:
    """Return the median seconds of three runs, or the seconds of one long run."""
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or seconds[0] <= MAX_REPEATED_SECONDS):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def lists_of_users(
    fit: Callable[[], object], rank: Callable[[], np.ndarray], targets: np.ndarray
) -> dict[str, object]:
    """Return the CPU seconds of a model without training steps and the hits of its lists.

    Args:
        fit: computes the model.
        rank: returns the lists of all users, int64[B, k].
        targets: int64[B], the item that is to be predicted for each user.
    """
    start = time.process_time()
    fit()
    fitted = time.process_time()
    lists = rank()
    seconds = time.process_time() - start
    hits = int((lists == targets[:, None]).sum())
    return {"seconds": seconds, "fit_seconds": fitted - start, "hits": hits}


class EpochTimer:
    """Seconds per epoch: the median of whole epochs, or the time of some steps, extrapolated.

    The first epoch or the first steps are not counted. `end_step` and `end_epoch` return whether
    the measurement is complete. `clock` is `time.process_time` where other programs use the machine
    and the task runs in one thread.
    """

    warm_up_steps = 3

    def __init__(
        self, epochs: int, steps: int = 0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.epochs, self.steps, self.clock = epochs, steps, clock
        self.step_times: list[float] = []
        self.seconds: list[float] = []

    def begin_epoch(self, n_batches: int) -> None:
        self.n_batches, self.start = n_batches, self.clock()

    def end_step(self) -> bool:
        self.step_times.append(self.clock())
        return self.is_done

    def end_epoch(self) -> bool:
        self.seconds.append(self.clock() - self.start)
        return self.is_done

    @property
    def is_done(self) -> bool:
        if self.steps:
            return len(self.step_times) >= self.warm_up_steps + self.steps
        return len(self.seconds) > self.epochs

    @property
    def result(self) -> float:
        """Seconds per epoch."""
        if self.steps:
            first, last = (
                self.step_times[self.warm_up_steps - 1],
                self.step_times[self.warm_up_steps + self.steps - 1],
            )
            return (last - first) / self.steps * self.n_batches
        return statistics.median(self.seconds[1:])


def write_result(out: Path, result: dict[str, object], *packages: str) -> None:
    """Write a result with the peak memory (MiB) and the versions."""
    versions = {name: version(name) for name in (*packages, "numpy")}
    versions["python"] = platform.python_version()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.write_text(json.dumps(result | {"peak_mib": round(peak), "versions": versions}) + "\n")


def main(tasks: dict[str, Callable[..., None]]) -> None:
    """Run the task named on the command line: `run.py TASK FOLDER OUT [KEY=VALUE ...]`.

    Values are integers, except of the key `official`, a folder.
    """
    task, folder, out, *rest = sys.argv[1:]
    sys.argv = sys.argv[:1]  # some peers parse the command line at import
    options = dict(option.split("=", 1) for option in rest)
    tasks[task](
        Path(folder),
        Path(out).resolve(),
        **{key: Path(v) if key == "official" else int(v) for key, v in options.items()},
    )
