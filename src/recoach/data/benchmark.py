"""Logs that are already split into files for training, validation and test."""

import glob
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import polars as pl

from recoach.data.columns import has_id_columns
from recoach.data.dataset import Dataset
from recoach.data.ingest import read_interactions
from recoach.data.interactions import Interactions
from recoach.data.protocol import Given
from recoach.data.readers.lines import numbered_lines
from recoach.data.readers.registry import recognise
from recoach.data.readers.table import convert_read_errors
from recoach.data.readers.text import LogFile
from recoach.data.split import from_parts
from recoach.errors import ConfigError, DataError


def read_benchmark(
    source: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the word users type
    split: Given | None = None,
) -> Dataset:
    """Read a log that is already split into train, valid (optional) and test files.

    The files are RecBole's `X.train.inter`, or `train.txt` with lines `user item item ...` beside a
    `test.txt` of the same users (as LightGCN's) or of sessions without users (`item ... target`, as
    of session-based recommenders). Such a session is a user without training history, called
    `test:1` for line 1; its last item is the target. Without a validation file, the last tenth of
    the training sessions is for validation, and every item of these but the first is a target, as
    every prefix of a test session has a line.

    Args:
        source: a folder, or a path up to the name of the log (`data/baby` for `baby.train.inter`).
            Files are plain, .gz or .zst.
        format: of the test file: sequence, sessions or, by what is in the files, auto.
        split: which events are targets, and which training events are for validation where there is
            no file for it; None: all events, and each user's last training event; for sessions, the
            last event of each test line, and every event of the last tenth of the training
            sessions.

    Raises:
        DataError: a part is missing or occurs twice, a file is bad, or nothing tells whether the
            lines of the test file begin with users.
    """
    return read_parts(source, format=format, split=split)[0]


def read_parts(
    source: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the word users type
    split: Given | None = None,
) -> tuple[Dataset, list[str]]:
    """Return the dataset of `read_benchmark` and a line for each file on what was read."""
    source = Path(source)
    folder, prefix = (source, "") if source.is_dir() else (source.parent, source.name)
    train, valid, test = (_find_part(folder, prefix, part) for part in ("train", "valid", "test"))
    if train is None or test is None:
        missing = "test" if train else "train"
        raise DataError(
            f"{source}: there is no {missing} file. Name it {prefix or 'NAME'}.{missing}.inter "
            f"or {missing}.txt, plain or compressed."
        )
    if format == "auto":
        format = recognise(train, lambda names: has_id_columns(names, {}))  # noqa: A001
        held_out_format = _held_out_format(train, test) if format == "sequence" else format
    else:
        held_out_format = format
    name = prefix or train.name.split(".")[0]
    train_log = read_interactions(train, format="sequence" if format == "sessions" else format)
    valid_log = None if valid is None else read_interactions(valid, format=held_out_format)
    test_log = read_interactions(test, format=held_out_format)
    dataset = from_parts(
        train_log,
        valid_log,
        test_log,
        folder.name if name == "train" else name,
        split=split or (_SESSIONS if held_out_format == "sessions" else Given()),
    )
    logs = (train_log, valid_log, test_log)
    return dataset, [log.report.line() for log in logs if log is not None and log.report]


def join_frames(
    train: object,
    valid: object | None,
    test: object | None,
    name: str,
    columns: Mapping[str, str] | None,
) -> Dataset:
    """Return the dataset of `Dataset.from_frames`."""
    if test is None:
        raise ConfigError(
            "from_frames: pass test=, the interactions that are reported; they may be those of "
            "valid."
        )
    logs: dict[str, Interactions] = {}
    for part, source in (("train", train), ("valid", valid), ("test", test)):
        if source is None:
            continue
        try:
            logs[part] = read_interactions(source, columns=columns)
        except DataError as error:
            raise DataError(f"from_frames, {part}: {str(error).removeprefix('frame: ')}") from error
    return from_parts(logs["train"], logs.get("valid"), logs["test"], name)


_SESSIONS = Given(target="last", valid="users", valid_target="successive")


def _held_out_format(train: Path, test: Path) -> str:
    """Return the format of the held-out lines: "sequence" (users first) or "sessions" (items only).

    They begin with users if each begins with another user of training, in the order of training;
    they are sessions if none begins with one and most begin with items of training.
    """
    train_lines, test_lines = _lines(train), _lines(test)
    users, firsts = train_lines.list.first(), test_lines.list.first()
    places = {user: place for place, user in enumerate(users)}
    known = [places[first] for first in firsts if first in places]
    in_order = all(earlier < later for earlier, later in pairwise(known))
    if known and in_order and firsts.n_unique() == len(firsts):
        return "sequence"
    if not known:
        items = train_lines.list.slice(1).explode(empty_as_null=False).unique()
        if 2 * int(firsts.is_in(items.implode()).sum()) > len(firsts):
            return "sessions"
    raise DataError(
        f"{test.name}: nothing tells whether its lines begin with users of {train.name} or hold "
        "items only. Set format of [data] to sequence (users) or sessions (items only)."
    )


def _lines(path: Path) -> pl.Series:
    """Return List(String)[N], the values of each line."""
    file = LogFile(path.absolute())
    values = pl.col("line").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    with convert_read_errors(file.name):
        return numbered_lines(file).select(values).collect()["line"]


def _find_part(folder: Path, prefix: str, part: str) -> Path | None:
    stem = f"{glob.escape(prefix)}." if prefix else ""
    patterns = [f"{stem or '*.'}{part}.inter", f"{stem}{part}.txt"]
    names = [name + suffix for name in patterns for suffix in ("", ".gz", ".zst")]
    paths = sorted(path for name in names for path in folder.glob(name))
    if len(paths) > 1:
        raise DataError(
            f"{folder}: {paths[0].name} and {paths[1].name} could both be the {part} part. "
            "Name the log by its prefix, such as data/baby."
        )
    return paths[0] if paths else None
