"""Reproduce RecBole's dataset from its `.inter` file and settings: rows, ids and split.

RecBole numbers ids by first appearance in the filtered rows, as we do, but starts at 1. It sorts by
timestamps in single precision: timestamps of today that differ by less than about two minutes are
equal and keep the order of the file.

With `rm_dup_inter` RecBole first sorts all rows by time with NumPy's quicksort, which is not
stable: the order of rows with equal times, and with it the ids, depends on the version of NumPy and
on the processor. Without `SavedIds` such rows keep the order of the file here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.dataset import Dataset
from recoach.data.interactions import IntArray, LongArray, encode_ids
from recoach.data.ordered_log import ordered_log
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.split import TEST, TRAIN, VALID, divide
from recoach.errors import DataError
from recoach.experiments.recbole.split import described_split, divide_rows, eval_settings

_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""Ids that RecBole's reader treats as missing."""
_UNSUPPORTED = ("alias_of_user_id", "alias_of_item_id", "additional_feat_suffix")
_USER, _ITEM, _TIME = "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"
_FIELDS = {_USER: "user_id", _ITEM: "item_id", _TIME: "timestamp"}
"""Settings that name columns -> RecBole's default."""


class SavedIds(NamedTuple):
    """The ids of a dataset as RecBole numbered them, without the padding."""

    users: pl.Series
    """String[n_users]."""
    items: pl.Series
    """String[n_items]."""
    rows: LongArray | None = None
    """int64[N, 2], user and item of each row in RecBole's order, from 0; None if unknown."""


def read_log(path: Path, config: Mapping[str, Any], ids: SavedIds | None = None) -> Dataset:
    """Return the dataset that RecBole builds from an `.inter` file with its final settings.

    Args:
        path: the file; with `benchmark_filename` one of the files, or their folder.
        config: RecBole's settings.
        ids: the ids as RecBole numbered them; None numbers them by first appearance.

    Raises:
        DataError: the log cannot be read, does not fit the ids, or a setting is not supported.
    """
    _check_supported(config)
    if config.get("benchmark_filename"):
        frame = _read_parts(path, config)
    else:
        frame = _read_rows(open_table(path, "inter", lambda _: True), config)
        frame = _drop_duplicates(frame, config)
        frame = _filter_by_value(frame, config, path.name)
        frame = frame[_filter_by_count(frame, config)]
    if frame.is_empty():
        raise DataError(
            f"{path.name}: no interaction passes the stored filters; give the log that the model "
            "was trained on."
        )
    users, items, numbered = _number(frame, ids, path.name)
    if numbered.rows is not None and config.get("rm_dup_inter"):
        order = _order_of(numbered, (users, items), path.name)
        frame, users, items = frame[order], users[order], items[order]
    return _to_dataset(frame, (users, items), numbered, config, path.name.split(".")[0])


def has_unstable_order(path: Path, config: Mapping[str, Any]) -> bool:
    """Return whether RecBole's ids depend on how NumPy sorts rows with equal times."""
    if config.get("benchmark_filename") or not _sorts_duplicates(config):
        return False
    frame = _read_rows(open_table(path, "inter", lambda _: True), config)
    return frame["time"].n_unique() < len(frame)


def reading_line(path: Path, config: Mapping[str, Any], dataset: Dataset) -> str:
    """Return in one line which columns and how many rows of a log are used."""
    names = [f"{ours}={config.get(key) or ours}" for key, ours in _FIELDS.items()]
    if "timestamp" not in dataset.train.columns:
        names.pop()
    parts = (dataset.train, dataset.valid, dataset.test)
    n_rows = sum(len(part.values) for part in parts)
    return (
        f"{path.name}: {n_rows:,} rows used, filtered as RecBole's settings in the checkpoint say; "
        f"{', '.join(names)}"
    )


def loads(config: Mapping[str, Any], field: str) -> bool:
    """Return whether RecBole loads a column of the log, by load_col and unload_col."""
    loaded, unloaded = (table(config, key).get("inter") for key in ("load_col", "unload_col"))
    return (loaded is None or field in loaded) and field not in (unloaded or ())


def _time_field(config: Mapping[str, Any]) -> str:
    return str(config.get(_TIME) or _FIELDS[_TIME])


def _sorts_duplicates(config: Mapping[str, Any]) -> bool:
    return bool(config.get("rm_dup_inter")) and loads(config, _time_field(config))


def _check_supported(config: Mapping[str, Any]) -> None:
    settings = eval_settings(config)
    by_time = settings.kind != "files" and not settings.shuffles
    if by_time and not loads(config, _time_field(config)):
        raise DataError(
            f"RecBole's setting load_col.inter lacks {_time_field(config)}, by which the split "
            "orders the rows."
        )
    for key in _UNSUPPORTED:
        if config.get(key):
            raise DataError(f"RecBole's setting {key} = {config[key]!r} is not supported.")
    if config.get("field_separator", "\t") != "\t":
        raise DataError("RecBole's setting field_separator: only tabs are supported.")


def _read_parts(path: Path, config: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows of the files of `benchmark_filename`, with the part of each."""
    names = config["benchmark_filename"]
    if not isinstance(names, list) or len(names) != 3:
        raise DataError(
            f"RecBole's setting benchmark_filename = {names!r} must name three files: train, valid "
            "and test."
        )
    folder = path if path.is_dir() else path.parent
    stem = str(config.get("dataset") or folder.name) if path.is_dir() else path.name.split(".")[0]
    frames = []
    for part, name in zip((TRAIN, VALID, TEST), names, strict=True):
        source = open_table(folder / f"{stem}.{name}.inter", "inter", lambda _: True)
        frames.append(_read_rows(source, config).with_columns(part=pl.lit(part, pl.UInt8)))
    return pl.concat(frames, how="diagonal")


def _read_rows(source: Table, config: Mapping[str, Any]) -> pl.DataFrame:
    """Return user, item, time (float64) and rating of all rows, as far as the file has them.

    Line numbers and the columns that `val_interval` names are kept under the names of the file.
    """
    names = {key: str(config.get(key) or default) for key, default in _FIELDS.items()}
    if names[_TIME] not in source.names and not loads(config, names[_TIME]):
        del names[_TIME]
    for key, column in names.items():
        if column not in source.names:
            raise DataError(
                f"{source.label}: there is no column {column!r}, which the stored setting {key} "
                f"names; its columns are {', '.join(source.names)}."
            )
    filters = table(config, "val_interval")
    rating = str(config.get("RATING_FIELD") or "rating")
    columns = {*names.values(), *filters, *({rating} & set(source.names))}
    with convert_read_errors(source.label, source.diagnose):
        raw = source.frame.with_row_index("line", offset=2).select("line", *columns).collect()
    for name in (names[_USER], names[_ITEM]):
        raw = raw.filter(pl.col(name).is_not_null() & ~pl.col(name).is_in(_MISSING))
    frame = raw.with_columns(user=pl.col(names[_USER]), item=pl.col(names[_ITEM]))
    if _TIME in names:
        frame = frame.with_columns(time=_to_float(raw, names[_TIME], source.label))
    if rating in columns:
        frame = frame.with_columns(rating=pl.col(rating).cast(pl.Float32, strict=False))
    return frame


def _to_float(frame: pl.DataFrame, name: str, label: str) -> pl.Series:
    numbers = frame[name].cast(pl.Float64, strict=False)
    invalid = np.flatnonzero((numbers.is_null() | numbers.is_nan()).to_numpy())
    if len(invalid):
        row = int(invalid[0])
        raise DataError(
            f"{label}: line {frame['line'][row]} has {name} = {frame[name][row]!r}, which is not a "
            "number; correct or remove the line."
        )
    return numbers


def _drop_duplicates(frame: pl.DataFrame, config: Mapping[str, Any]) -> pl.DataFrame:
    keep = config.get("rm_dup_inter")
    if keep is None:
        return frame
    if keep not in ("first", "last"):
        raise DataError(f"RecBole's setting rm_dup_inter must be first or last, not {keep!r}.")
    if _sorts_duplicates(config):
        frame = frame.sort("time", maintain_order=True)
    position: Literal["first", "last"] = "first" if keep == "first" else "last"
    return frame.unique(["user", "item"], keep=position, maintain_order=True)


def _filter_by_value(frame: pl.DataFrame, config: Mapping[str, Any], label: str) -> pl.DataFrame:
    for name, interval in table(config, "val_interval").items():
        frame = frame.filter(_value_filter(frame, name, interval, label))
    return frame


def _value_filter(frame: pl.DataFrame, column: str, interval: object, label: str) -> pl.Series:
    if isinstance(interval, list | tuple):  # a list of values instead of an interval
        return frame[column].cast(pl.String).is_in([str(value) for value in interval])
    return pl.Series(within(_to_float(frame, column, label).to_numpy(), interval))


def _filter_by_count(frame: pl.DataFrame, config: Mapping[str, Any]) -> LongArray:
    """Return int64[m], the rows after repeatedly dropping users and items outside the intervals."""
    rows = np.arange(len(frame))
    keys = ("user_inter_num_interval", "item_inter_num_interval")
    intervals = [config.get(key) for key in keys]
    if intervals == [None, None]:
        return rows
    codes = [encode_ids(frame[name])[0] for name in ("user", "item")]
    while len(rows):
        keep = np.ones(len(rows), dtype=np.bool_)
        for code, interval in zip(codes, intervals, strict=True):
            if interval is not None:
                keep &= within(np.bincount(code[rows]), interval)[code[rows]]
        if keep.all():
            break
        rows = rows[keep]
    return rows


def _number(
    frame: pl.DataFrame, ids: SavedIds | None, label: str
) -> tuple[IntArray, IntArray, SavedIds]:
    """Return int32[N] users and items, and the ids by which they are numbered."""
    if ids is None:
        (users, user_ids), (items, item_ids) = encode_ids(frame["user"]), encode_ids(frame["item"])
        return users, items, SavedIds(user_ids, item_ids)
    numbers = []
    for name, known in (("user", ids.users), ("item", ids.items)):
        column = frame[name].cast(pl.String)
        unknown = column.filter(~column.is_in(known.implode()))
        if len(unknown):
            raise DataError(
                f"{label}: the {name} {unknown[0]!r} is not among the given ids; give the ids and "
                "the log of the same training."
            )
        numbers.append(column.cast(pl.Enum(known)).to_physical().to_numpy().astype(np.int32))
    return numbers[0], numbers[1], ids


def _order_of(ids: SavedIds, numbers: tuple[IntArray, IntArray], label: str) -> LongArray:
    """Return int64[N], the row of the log that each row of RecBole is."""
    n_items = len(ids.items)
    keys = numbers[0].astype(np.int64) * n_items + numbers[1]
    rows = np.zeros((0, 2), dtype=np.int64) if ids.rows is None else ids.rows
    given = rows[:, 0] * n_items + rows[:, 1]
    order = np.argsort(keys)
    if len(given) != len(keys) or not np.array_equal(np.sort(given), keys[order]):
        raise DataError(
            f"{label}: RecBole's settings leave {len(keys):,} rows of it, and the file of ids has "
            f"{len(given):,} others; give the ids and the log of the same training."
        )
    return order[np.searchsorted(keys[order], given)]


def _to_dataset(
    frame: pl.DataFrame,
    numbers: tuple[IntArray, IntArray],
    ids: SavedIds,
    config: Mapping[str, Any],
    name: str,
) -> Dataset:
    """Return the split dataset; the ranks of the timestamps are its times."""
    users, items = numbers
    times = _times(frame, config) if "time" in frame.columns else None
    settings = eval_settings(config)
    if settings.kind == "files":
        parts = frame["part"].to_numpy()
    else:
        parts = divide_rows(users, times, config)
    columns = {}
    ranks = np.arange(len(frame))
    if times is not None:
        ranks = np.unique(times, return_inverse=True)[1].astype(np.int64)
        columns["timestamp"] = pl.Series(ranks, dtype=pl.Int64)
    if "rating" in frame.columns:
        ratings = frame["rating"]
        if not ratings.null_count() and ratings.is_finite().all():
            columns["rating"] = ratings.cast(pl.Float32).alias("")
    order = np.lexsort((ranks, parts, users))
    log = ordered_log((ids.users, ids.items), users[order], items[order], columns, order)
    return divide(log, parts[order], described_split(config, settings), name)


def _times(frame: pl.DataFrame, config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return float32[N], the times as RecBole stores them."""
    times = frame["time"].to_numpy()
    normalized = config.get("normalize_field") or []
    if config.get("normalize_all") or _time_field(config) in normalized:
        times = (times - times.min()) / max(times.max() - times.min(), 1e-300)
    return times.astype(np.float32)


def table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a setting that must be a table, such as "eval_args"; empty if it is not set."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise DataError(f"RecBole's setting {key} must be a table of settings, not {value!r}.")
    return value


def within(values: npt.NDArray[Any], interval: object) -> npt.NDArray[np.bool_]:
    """Return bool[N], which values are in RecBole's interval, like "[5,inf)" or "(0,1];[3,4)".

    Raises:
        DataError: the text is not an interval.
    """
    result = np.zeros(len(values), dtype=np.bool_)
    for part in str(interval).split(";"):
        low, high, (left, right) = bounds(part)
        above = values >= low if left == "[" else values > low
        below = values <= high if right == "]" else values < high
        result |= above & below
    return result


def bounds(interval: str) -> tuple[float, float, tuple[str, str]]:
    """Return the ends and the brackets of one interval; DataError if the text is none."""
    text = interval.strip()
    try:
        low, high = map(float, text[1:-1].split(","))
        if text[0] in "([" and text[-1] in ")]":
            return low, high, (text[0], text[-1])
    except (ValueError, IndexError):
        pass
    raise DataError(f"{interval!r} is not an interval like '[5,inf)'.")
