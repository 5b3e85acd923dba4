"""Read logs for off-policy evaluation, and tables of policies, from files."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from recoach.errors import DataError
from recoach.ope.log import OffPolicyLog, from_frame
from recoach.serving.exposures import read_exposures

_KEYS: Final = ("impression_id", "item_id")
_IDS: Final = ("item_id", "user_id", "impression_id")


def _read_csv(path: Path, ids: Collection[str]) -> pl.DataFrame:
    # A guessed type would make 7 of 07: ids are text.
    names = pl.read_csv(path, n_rows=0, infer_schema=False).columns
    types = {name: pl.String() for name in names if name in ids}
    return pl.read_csv(path, infer_schema_length=10_000, schema_overrides=types)


_READERS: Final[Mapping[str, Callable[[Path, Collection[str]], pl.DataFrame]]] = {
    ".csv": _read_csv,
    ".gz": _read_csv,
    ".parquet": lambda path, _: pl.read_parquet(path, glob=False),
    ".jsonl": lambda path, _: pl.read_ndjson(path),
}


class ExposureTable(NamedTuple):
    """The rows of an exposure log from which policies can be evaluated."""

    frame: pl.DataFrame
    """See `recoach.ope.log.from_frame`; besides `policy`, `run` and `version`."""
    notes: list[str]
    """A sentence for each kind of rows that were left out or added up."""


def is_exposure_log(path: Path) -> bool:
    """Return whether a path is what `recoach serve --exposure-log` writes: a folder or a file."""
    return path.is_dir() or (path.suffix == ".jsonl" and path.name.startswith("exposures-"))


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Read a CSV (also gzipped), parquet or JSONL file.

    Ids of items, users and lists in a CSV file are text: `07` and `7` differ.

    Args:
        path: the file.
        columns: new name -> name in the file.

    Raises:
        DataError: the file is not there, has another suffix or cannot be read, or has no column of
            a given name.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: the name must end in {', '.join(_READERS)}. Convert the file.")
    names = columns or {}
    try:
        frame = reader(path, [names.get(name, name) for name in _IDS])
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file. Check the path.") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Correct the file.") from error
    missing = [name for name in names.values() if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: there is no column {missing[0]!r}, only {', '.join(frame.columns)}."
        )
    return frame.drop(set(names) - set(names.values()), strict=False).rename(
        {name: new for new, name in names.items() if new != name}
    )


def read_log(
    path: Path, columns: Mapping[str, str] | None = None, *, estimated: bool = False
) -> OffPolicyLog:
    """Read the log of a table with a row for each item that was shown.

    Args:
        path: a file for `read_table`; its columns are those of `recoach.ope.log.from_frame`.
        columns: new name -> name in the file.
        estimated: whether the propensities are estimates.

    Raises:
        DataError: the file cannot be read, or has not the needed columns or values.
    """
    try:
        return from_frame(read_table(path, columns), estimated=estimated)
    except DataError as error:
        if str(error).startswith(str(path)):
            raise
        raise DataError(f"{path}: {error}") from error


def read_rewarded_exposures(path: Path, rewards: pl.DataFrame) -> ExposureTable:
    """Join an exposure log with the rewards that came back.

    An item without a reward has reward 0; several rewards of one item are added; a list that was
    sent twice under one `impression_id` counts once. Lists are left out
    where the service did not know the user and showed the most popular items, and where a request
    had a history instead of a user, which is not logged.

    Args:
        path: what `recoach serve --exposure-log` wrote, see `read_exposures`.
        rewards: `impression_id`, `item_id` and `reward`.

    Raises:
        DataError: a column is missing, no list is left, or no reward belongs to a list.
    """
    if missing := [name for name in (*_KEYS, "reward") if name not in rewards.columns]:
        raise DataError(
            f"{missing[0]}: the rewards have no such column, only {', '.join(rewards.columns)}."
        )
    shown = read_exposures(path).unique(
        ["impression_id", "position"], keep="first", maintain_order=True
    )
    earned = (
        rewards.select(
            pl.col(_KEYS).cast(pl.String), pl.col("reward").cast(pl.Float64, strict=False)
        )
        .group_by(_KEYS)
        .agg(pl.col("reward").sum())
    )
    joined = shown.join(earned, on=_KEYS, how="left", maintain_order="left")
    if joined["reward"].null_count() == joined.height:
        raise DataError(
            f"{path}: no reward belongs to a list of the log. impression_id and item_id must be "
            "those of the answers of the service."
        )
    is_cold, has_user = pl.col("model") == "popularity", pl.col("user_id").is_not_null()
    kept = joined.filter(~is_cold & has_user).with_columns(pl.col("reward").fill_null(0.0))
    if not kept.height:
        raise DataError(f"{path}: no list is of a user that the service knew. Log more.")
    n_cold = joined.filter(is_cold)["impression_id"].n_unique()
    n_histories = joined.filter(~is_cold & ~has_user)["impression_id"].n_unique()
    notes = []
    if n_cold:
        notes.append(f"{n_cold:,} lists of unknown users are left out: they show popular items.")
    if n_histories:
        notes.append(f"{n_histories:,} lists of requests with a history are left out.")
    return ExposureTable(kept, [*notes, *_reward_notes(rewards, shown)])


def _reward_notes(rewards: pl.DataFrame, shown: pl.DataFrame) -> list[str]:
    """Return sentences about rewards that belong to no shown item, and about repeated rows."""
    keys = rewards.select(pl.col(_KEYS).cast(pl.String))
    n_unmatched = keys.join(shown.select(_KEYS).unique(), on=_KEYS, how="anti").height
    n_repeated = keys.height - keys.unique().height
    notes = []
    if n_unmatched:
        notes.append(
            f"{n_unmatched:,} of {keys.height:,} rewards belong to no shown item and are left out."
        )
    if n_repeated:
        notes.append(
            f"{n_repeated:,} of {keys.height:,} rewards repeat the list and item of an earlier one "
            "and are added to it."
        )
    return notes
