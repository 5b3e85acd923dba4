"""The exposure log: what was shown to whom, by which model, with which probability."""

import errno
import io
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from recoach.data.log_columns import COLUMN_TYPES
from recoach.errors import ConfigError, DataError

_log = logging.getLogger("recoach.serving")
_WRITTEN_AT_ONCE = 1000
_CLOSE_SECONDS = 10.0
_WARNING_INTERVAL_SECONDS = 60.0
_FILE_SCHEMA: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "impression_id": pl.String,
    "timestamp": pl.Int64,
    "user_id": pl.String,
    "history_hash": pl.String,
    "run": pl.String,
    "model": pl.String,
    "version": pl.String,
    "policy": pl.String,
    "item_ids": pl.List(pl.String),
    "scores": pl.List(pl.Float32),
    "propensities": pl.List(pl.Float64),
}


class Exposure(NamedTuple):
    """One list that was shown."""

    impression_id: str
    """ID of the request; within a batch `ID/POSITION`, counted from 0."""
    timestamp: int
    """Milliseconds since 1970 UTC."""
    user_id: str | None
    """None where the request had a history instead of a user."""
    history_hash: str | None
    """Salted hash of the history of a request without a user."""
    run: str
    """Name of the run, the arm of an A/B test."""
    model: str
    version: str
    policy: str
    item_ids: Sequence[str]
    """From position 1 downwards."""
    scores: Sequence[float]
    propensities: Sequence[float]
    """Probability of the item at each position under the policy, given the items above it."""


class ExposureLog:
    """Writes exposures to JSONL files in a thread of its own.

    `write` never waits: what does not fit into the queue, and what cannot be written, is counted in
    `dropped`. A new file begins when the current one is full or the day (UTC) ends. Every process
    writes files of its own.

    Args:
        folder: is created if it does not exist.
        name: beginning of the file names.
        max_bytes: size after which a new file begins.
        queue_size: largest number of exposures that wait for the disk.
        count: is called with "written" or "dropped" and a number of exposures, also from the
            thread that writes.

    Raises:
        ConfigError: no file can be created in the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "exposures",
        max_bytes: int = 64 * 2**20,
        queue_size: int = 10_000,
        count: Callable[[str, int], None] | None = None,
    ) -> None:
        self._folder, self._name, self._max_bytes = folder, name, max_bytes
        self._queue: queue.Queue[Exposure | None] = queue.Queue(queue_size)
        self._file: io.FileIO | None = None
        self._day = ""
        self._n_files = 0
        self._last_warning = -_WARNING_INTERVAL_SECONDS
        self.written = 0
        self.dropped = 0
        self._count = count or (lambda *_: None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{name}-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"--exposure-log {folder}: cannot write there ({error.strerror}). Choose another "
                "folder."
            ) from error
        self._thread = threading.Thread(target=self._write_all, name="recoach-log", daemon=True)
        self._thread.start()

    def write(self, exposure: Exposure) -> None:
        """Queue an exposure, or drop it if the queue is full."""
        try:
            self._queue.put_nowait(exposure)
        except queue.Full:
            self.dropped += 1
            self._count("dropped", 1)

    def close(self) -> None:
        """Write what is queued and close the file; give up after 10 s."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        try:
            self._queue.put(None, timeout=_CLOSE_SECONDS)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        except queue.Full:
            pass
        if self._thread.is_alive():
            lost = self._queue.qsize()
            _log.error("%d exposures are lost: %s does not answer.", lost, self._folder)
        elif self.dropped:
            _log.warning("%d exposures were dropped, %d written.", self.dropped, self.written)

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            while len(batch) < _WRITTEN_AT_ONCE and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            is_open = None not in batch
            self._write_batch([exposure for exposure in batch if exposure is not None])
        if self._file is not None:
            self._file.close()

    def _write_batch(self, exposures: Sequence[Exposure]) -> None:
        """Append lines to the current file: all of them or, if the disk is full, none."""
        if not exposures:
            return
        try:
            _append(self._open_file(), b"".join(map(_line, exposures)))
            self.written += len(exposures)
            self._count("written", len(exposures))
        except OSError as error:
            self.dropped += len(exposures)
            self._count("dropped", len(exposures))
            if time.monotonic() > self._last_warning + _WARNING_INTERVAL_SECONDS:
                self._last_warning = time.monotonic()
                _log.warning("Exposures cannot be written to %s: %s", self._folder, error.strerror)

    def _open_file(self) -> io.FileIO:
        """Return the file to append to, a new one if the current one is full or of another day."""
        now = datetime.now(UTC)
        day = f"{now:%Y-%m-%d}"
        if self._file is not None and (self._day != day or self._file.tell() >= self._max_bytes):
            self._file.close()
            self._file = None
        if self._file is None:
            self._n_files += 1
            name = f"{self._name}-{now:%Y-%m-%dT%H%M%S}-{os.getpid()}-{self._n_files:04}.jsonl"
            self._file, self._day = io.FileIO(self._folder / name, "x"), day
        return self._file


def read_exposures(path: Path | str) -> pl.DataFrame:
    """Read an exposure log as a frame with a row for each item that was shown.

    Args:
        path: a file, or a folder whose files `exposures-*.jsonl` are all read.

    Returns:
        A frame with the columns of a log (`recoach.data.log_columns`) `item_id`, `timestamp`
        (milliseconds since 1970 UTC), `propensity` (given the items above), `impression_id` and
        `position` (from 1), with `score`, `user_id` (null where the request had a history),
        `history_hash` (null where it had a user), `run`, `model`, `version` and `policy`. Rows are
        in the order of the time. A last line without an end, left by a process that was killed, is
        skipped.

    Raises:
        DataError: there is no such file, or a line is no exposure.
    """
    source = Path(path)
    files = sorted(source.glob("exposures-*.jsonl")) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise DataError(f"{source}: there is no exposure log (exposures-*.jsonl). Check the path.")
    exposures = [exposure for file in files for exposure in _read_file(file)]
    lists = pl.DataFrame(
        {name: [getattr(exposure, name) for exposure in exposures] for name in Exposure._fields},
        schema=_FILE_SCHEMA,
    )
    return (
        lists.sort("timestamp", maintain_order=True)
        .with_columns(position=pl.int_ranges(1, pl.col("item_ids").list.len() + 1))
        .explode("item_ids", "scores", "propensities", "position", empty_as_null=False)
        .rename({"item_ids": "item_id", "scores": "score", "propensities": "propensity"})
        .cast({name: COLUMN_TYPES[name] for name in ("propensity", "position", "timestamp")})
        .select(
            "user_id",
            "item_id",
            "timestamp",
            "propensity",
            "impression_id",
            "position",
            "score",
            "history_hash",
            "run",
            "model",
            "version",
            "policy",
        )
    )


def _read_file(path: Path) -> Iterator[Exposure]:
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
            exposure = Exposure(**values)
            lengths = {len(exposure.item_ids), len(exposure.scores), len(exposure.propensities)}
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: this line is no exposure ({error}). Remove it."
            ) from error
        if len(lengths) > 1:
            raise DataError(f"{path}:{number}: lists of different lengths. Remove the line.")
        yield exposure


def _append(file: io.FileIO, content: bytes) -> None:
    size = file.tell()
    if file.write(content) < len(content):
        file.seek(size)
        file.truncate()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(exposure: Exposure) -> bytes:
    return json.dumps(exposure._asdict()).encode() + b"\n"
