"""Reproduce RecBole's dataset from its `.inter` file and settings: rows, ids and split.

RecBole numbers ids by first appearance in the filtered rows, as we do, but starts at 1. It sorts by
timestamps in single precision: timestamps of today that differ by less than about two minutes are
equal and keep the order of the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.dataset import Dataset
from recoach.data.interactions import Interactions, LongArray, encode_ids
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.split import hold_out
from recoach.errors import DataError

SEQUENTIAL = ("SASRec", "GRU4Rec", "GSAU")
"""Models that RecBole trains on one row per prefix; its split then drops first interactions."""
_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""Ids that RecBole's reader treats as missing."""
_UNSUPPORTED = (
    *("benchmark_filename", "alias_of_user_id", "alias_of_item_id"),
    "additional_feat_suffix",
)
_USER, _ITEM, _TIME = "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"
_FIELDS = {_USER: "user_id", _ITEM: "item_id", _TIME: "timestamp"}
"""Settings that name columns -> RecBole's default."""


def read_log(path: Path, config: Mapping[str, Any]) -> Dataset:
    """Return the dataset that RecBole builds from an `.inter` file with its final settings.

    Raises:
        DataError: the log cannot be read, or a setting is not supported.
    """
    _check_split(config)
    frame = _read_rows(open_table(path, "inter", lambda _: True), config)
    rows = _filter_by_count(frame, config)
    if len(rows) == 0:
        raise DataError(
            f"{path.name}: no interaction passes the stored filters; give the log that the model "
            "was trained on."
        )
    log = _to_interactions(frame[rows], config)
    counts = np.bincount(log.users, minlength=log.n_users)
    # A sequential model has no row whose target is a user's first item.
    n_rows = counts - 1 if config.get("model") in SEQUENTIAL else counts
    n_test = (n_rows >= 2).astype(np.int64)
    return hold_out(log, (n_rows >= 3).astype(np.int64), n_test, path.name.split(".")[0])


def reading_line(path: Path, config: Mapping[str, Any], dataset: Dataset) -> str:
    """Return in one line which columns and how many rows of a log are used."""
    names = [f"{ours}={config.get(key) or ours}" for key, ours in _FIELDS.items()]
    parts = (dataset.train, dataset.valid, dataset.test)
    n_rows = sum(len(part.values) for part in parts)
    return (
        f"{path.name}: {n_rows:,} rows used, filtered as RecBole's settings in the checkpoint say; "
        f"{', '.join(names)}"
    )


def _check_split(config: Mapping[str, Any]) -> None:
    eval_args = table(config, "eval_args")
    split, order = eval_args.get("split"), eval_args.get("order")
    if split != {"LS": "valid_and_test"} or order != "TO":
        raise DataError(
            f"The checkpoint was trained with split {split} and order {order}; only leave-one-out "
            "in time order (split: {'LS': 'valid_and_test'}, order: TO) is supported."
        )
    for key in _UNSUPPORTED:
        if config.get(key):
            raise DataError(f"RecBole's setting {key} = {config[key]!r} is not supported.")
    if config.get("field_separator", "\t") != "\t":
        raise DataError("RecBole's setting field_separator: only tabs are supported.")


def _read_rows(source: Table, config: Mapping[str, Any]) -> pl.DataFrame:
    """Return rows after the value filters: user, item, time (float64) and, if present, rating."""
    names = {key: str(config.get(key) or default) for key, default in _FIELDS.items()}
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
    raw = raw.with_columns(
        user=pl.col(names[_USER]),
        item=pl.col(names[_ITEM]),
        time=_to_float(raw, names[_TIME], source.label),
    )
    frame = _drop_duplicates(raw, config.get("rm_dup_inter"))
    for name, interval in filters.items():
        frame = frame.filter(_value_filter(frame, name, interval, source.label))
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


def _drop_duplicates(frame: pl.DataFrame, keep: object) -> pl.DataFrame:
    if keep is None:
        return frame
    if keep not in ("first", "last"):
        raise DataError(f"RecBole's setting rm_dup_inter must be first or last, not {keep!r}.")
    ordered = frame.sort("time", maintain_order=True)
    position: Literal["first", "last"] = "first" if keep == "first" else "last"
    return ordered.unique(["user", "item"], keep=position, maintain_order=True)


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


def _to_interactions(frame: pl.DataFrame, config: Mapping[str, Any]) -> Interactions:
    """Return the log with RecBole's ids less 1, and the ranks of its timestamps as times."""
    (users, user_ids), (items, item_ids) = encode_ids(frame["user"]), encode_ids(frame["item"])
    times = frame["time"].to_numpy()
    normalized = config.get("normalize_field") or []
    if config.get("normalize_all") or str(config.get(_TIME) or _FIELDS[_TIME]) in normalized:
        times = (times - times.min()) / max(times.max() - times.min(), 1e-300)
    order = np.unique(times.astype(np.float32), return_inverse=True)[1].astype(np.int64)
    has_ratings = "rating" in frame.columns and frame["rating"].is_finite().all()
    columns = {"timestamp": pl.Series(order, dtype=pl.Int64)}
    if has_ratings and not frame["rating"].null_count():
        columns["rating"] = frame["rating"].cast(pl.Float32).alias("")
    return Interactions(users, items, user_ids, item_ids, columns)


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
