"""RecBole's data from its `.inter` file and settings: the same rows, numbers and split.

RecBole numbers ids by first appearance among the rows that are left, as we do, from 1 on. It sorts
by time in single precision: moments nearer than that (two minutes, today) keep file order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.interactions import Interactions, LongArray
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.split import Dataset, hold_out
from recoach.errors import DataError

SEQUENTIAL = ("SASRec", "GRU4Rec", "GSAU")
"""Models RecBole trains on a row for each prefix: its split leaves out the first interaction."""
_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""Ids that RecBole's reader takes for no id."""
_UNSUPPORTED = (
    *("benchmark_filename", "alias_of_user_id", "alias_of_item_id"),
    "additional_feat_suffix",
)
_USER, _ITEM, _TIME = "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"
_FIELDS = {_USER: "user_id", _ITEM: "item_id", _TIME: "timestamp"}
"""The settings that name columns, with RecBole's defaults."""


def read_log(path: Path, config: Mapping[str, Any]) -> Dataset:
    """Return the dataset RecBole made of a log.

    Args:
        path: the `.inter` file.
        config: RecBole's final settings.

    Raises:
        DataError: the log cannot be read, or a setting has no counterpart here.
    """
    _check_split(config)
    frame = _rows(open_table(path, "inter", lambda _: True), config)
    kept = _in_intervals(frame, config)
    if len(kept) == 0:
        raise DataError(f"{path.name}: the stored filters leave no interaction; is it the log?")
    log = _numbered(frame[kept], config)
    counts = np.bincount(log.users, minlength=log.n_users)
    # A user's first row is nobody's target: a sequential model's log is shorter by it.
    rows = counts - 1 if config.get("model") in SEQUENTIAL else counts
    n_test = (rows >= 2).astype(np.int64)
    return hold_out(log, (rows >= 3).astype(np.int64), n_test, path.name.split(".")[0])


def _check_split(config: Mapping[str, Any]) -> None:
    given = table(config, "eval_args")
    split, order = given.get("split"), given.get("order")
    if split != {"LS": "valid_and_test"} or order != "TO":
        raise DataError(
            f"The checkpoint was trained on the split {split} in order {order}; only leave-one-out "
            "in time order (split: {'LS': 'valid_and_test'}, order: TO) can be made again here."
        )
    for key in _UNSUPPORTED:
        if config.get(key):
            raise DataError(f"RecBole's setting {key} = {config[key]!r} is not supported here.")
    if config.get("field_separator", "\t") != "\t":
        raise DataError("RecBole's setting field_separator: only tabs are supported here.")


def _rows(source: Table, config: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows left by value filters: user, item, time (float64), rating where known."""
    names = {ours: str(config.get(ours) or usual) for ours, usual in _FIELDS.items()}
    for ours, theirs in names.items():
        if theirs not in source.names:
            raise DataError(
                f"{source.label}: no column {theirs!r}, which the stored {ours} names; found: "
                f"{', '.join(source.names)}"
            )
    filters = table(config, "val_interval")
    rating = str(config.get("RATING_FIELD") or "rating")
    wanted = {*names.values(), *filters, *({rating} & set(source.names))}
    with convert_read_errors(source.label, source.diagnose):
        raw = source.frame.with_row_index("line", offset=2).select("line", *wanted).collect()
    for name in (names[_USER], names[_ITEM]):
        raw = raw.filter(pl.col(name).is_not_null() & ~pl.col(name).is_in(_MISSING))
    raw = raw.with_columns(
        user=pl.col(names[_USER]),
        item=pl.col(names[_ITEM]),
        time=_float(raw, names[_TIME], source.label),
    )
    frame = _once(raw, config.get("rm_dup_inter"))
    for name, interval in filters.items():
        frame = frame.filter(_value_filter(frame, name, interval, source.label))
    if rating in wanted:
        frame = frame.with_columns(rating=pl.col(rating).cast(pl.Float32, strict=False))
    return frame


def _float(frame: pl.DataFrame, name: str, label: str) -> pl.Series:
    numbers = frame[name].cast(pl.Float64, strict=False)
    bad = np.flatnonzero((numbers.is_null() | numbers.is_nan()).to_numpy())
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{label}: line {frame['line'][row]} has {name} = {frame[name][row]!r}, not a number"
        )
    return numbers


def _once(frame: pl.DataFrame, keep: object) -> pl.DataFrame:
    if keep is None:
        return frame
    if keep not in ("first", "last"):
        raise DataError(f"RecBole's setting rm_dup_inter is first or last, not {keep!r}.")
    ordered = frame.sort("time", maintain_order=True)
    which: Literal["first", "last"] = "first" if keep == "first" else "last"
    return ordered.unique(["user", "item"], keep=which, maintain_order=True)


def _value_filter(frame: pl.DataFrame, column: str, interval: object, label: str) -> pl.Series:
    if isinstance(interval, list | tuple):  # a column of tokens
        return frame[column].cast(pl.String).is_in([str(value) for value in interval])
    return pl.Series(within(_float(frame, column, label).to_numpy(), interval))


def _in_intervals(frame: pl.DataFrame, config: Mapping[str, Any]) -> LongArray:
    """Return int64[m] rows left when users and items with too few or too many rows are gone."""
    rows = np.arange(len(frame))
    keys = ("user_inter_num_interval", "item_inter_num_interval")
    intervals = [config.get(key) for key in keys]
    if intervals == [None, None]:
        return rows
    codes = [_coded(frame[name])[0] for name in ("user", "item")]
    while len(rows):
        keep = np.ones(len(rows), dtype=np.bool_)
        for code, interval in zip(codes, intervals, strict=True):
            if interval is not None:
                keep &= within(np.bincount(code[rows]), interval)[code[rows]]
        if keep.all():
            break
        rows = rows[keep]
    return rows


def _numbered(frame: pl.DataFrame, config: Mapping[str, Any]) -> Interactions:
    """Return the log with RecBole's numbers (less 1) and, as times, the order it sorts by."""
    (users, user_ids), (items, item_ids) = _coded(frame["user"]), _coded(frame["item"])
    times = frame["time"].to_numpy()
    scaled = config.get("normalize_field") or []
    if config.get("normalize_all") or str(config.get(_TIME) or _FIELDS[_TIME]) in scaled:
        times = (times - times.min()) / max(times.max() - times.min(), 1e-300)
    order = np.unique(times.astype(np.float32), return_inverse=True)[1].astype(np.int64)
    rated = "rating" in frame.columns and frame["rating"].is_finite().all()
    ratings = frame["rating"].to_numpy() if rated and not frame["rating"].null_count() else None
    return Interactions(
        users.astype(np.int32), items.astype(np.int32), user_ids, item_ids, order, ratings
    )


def _coded(ids: pl.Series) -> tuple[LongArray, pl.Series]:
    """Return int64[N] numbers by first appearance, and String[n] the id of each."""
    distinct = ids.unique(maintain_order=True)
    codes = ids.replace_strict(distinct, pl.int_range(len(distinct), eager=True))
    return codes.to_numpy().astype(np.int64), distinct.alias("")


def table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a setting that is itself a table, empty where it is not set; DataError if it is none.

    Args:
        config: RecBole's settings.
        key: like "eval_args".
    """
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise DataError(f"RecBole's setting {key} is a table of settings, not {found!r}.")
    return found


def within(values: npt.NDArray[Any], interval: object) -> npt.NDArray[np.bool_]:
    """Return bool[N], which values lie in RecBole's interval, like "[5,inf)" or "(0,1];[3,4)".

    Raises:
        DataError: it is none.
    """
    result = np.zeros(len(values), dtype=np.bool_)
    for part in str(interval).split(";"):
        low, high, (left, right) = bounds(part)
        above = values >= low if left == "[" else values > low
        below = values <= high if right == "]" else values < high
        result |= above & below
    return result


def bounds(interval: str) -> tuple[float, float, tuple[str, str]]:
    """Return the ends of one interval and its brackets; DataError where it is none."""
    text = interval.strip()
    try:
        low, high = map(float, text[1:-1].split(","))
        if text[0] in "([" and text[-1] in ")]":
            return low, high, (text[0], text[-1])
    except (ValueError, IndexError):
        pass
    raise DataError(f"{interval!r} is no interval of RecBole's, like '[5,inf)'.")
