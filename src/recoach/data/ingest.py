"""Files and frames become Interactions: check every value, number the ids.

One streaming pass reads the ids as they are and times and ratings as numbers. Only if that pass
meets a bad value, a second pass finds the first bad row and its line.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from recoach.data.columns import ID_COLUMNS, check_mapping, find_columns, has_id_columns
from recoach.data.interactions import Interactions, encode_ids
from recoach.data.readers.frame import open_frame
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.timestamps import (
    Conversion,
    milliseconds_per_unit,
    outside_years,
    timestamp_conversion,
    to_milliseconds,
)
from recoach.errors import DataError, clipped

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def read_interactions(
    source: object,
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",  # noqa: A002 - the word users type
    header: Sequence[str] = (),
) -> Interactions:
    """Read an interaction log.

    Args:
        source: a path, or any pandas, polars or arrow frame.
        columns: column name of Recoach (user_id, item_id, rating, timestamp) -> the name in the
            source; what is not mapped is detected by its usual names.
        format: auto, csv, tsv, jsonl, parquet, inter (RecBole) or sequence (`user item item ...`).
        header: columns of a file without a header, in the file's order: Recoach's names, "-" for a
            column to skip.

    Raises:
        DataError: the source cannot be read or understood; the message names the file, the line
            and the remedy.
    """
    return _number_ids(
        *_read(source, columns, (format, header), lambda rows: rows.collect(engine="streaming"))
    )


def stream_interactions(
    source: Path,
    target: Path,
    columns: Mapping[str, str],
    format_name: str,
    header: Sequence[str] = (),
) -> tuple[str, ...]:
    """Read a log as `read_interactions` does, but into a Parquet file and in bounded memory.

    `target` gets the rows in file order: row, user_id, item_id[, timestamp][, rating], where
    timestamp is milliseconds, or a float of any unit (see `to_milliseconds`). The names of the
    columns without `row` are returned.
    """

    def write(rows: pl.LazyFrame) -> pl.LazyFrame:
        rows.with_row_index("row").sink_parquet(target.absolute())
        return pl.scan_parquet(target.absolute(), glob=False).drop("row")

    table, names, rows = _read(source, columns, (format_name, header), write)
    for column in ID_COLUMNS:
        ids = rows.select(pl.col(column).cast(pl.String))
        flags = ids.select(
            empty=(pl.col(column) == "").any(), numeric=_looks_numeric(pl.col(column)).any()
        )
        empty, numeric = flags.collect(engine="streaming").row(0)
        _check_ids(table, names, column, empty=bool(empty), numeric=bool(numeric))
    return tuple(rows.collect_schema().names())


def _read(
    source: object,
    columns: Mapping[str, str] | None,
    layout: tuple[str, Sequence[str]],
    collect: Callable[[pl.LazyFrame], Frame],
) -> tuple[Table, dict[str, str], Frame]:
    """Return the table, its column names and its converted rows, whose values are checked.

    `layout` is the name of the format and the header of a file without one.
    """
    mapping = check_mapping(columns or {})
    if isinstance(source, str | Path):
        format_name, header = layout
        table = open_table(
            Path(source),
            format_name,
            lambda names: has_id_columns(names, mapping),
            header,
            mapped=bool(mapping),
        )
    else:
        table = open_frame(source)
    names = find_columns(table, mapping)
    with convert_read_errors(table.label, table.diagnose):
        table.check_used(list(names.values()))
    with convert_read_errors(table.label, table.diagnose):
        raw = table.frame.select(**{column: pl.col(name) for column, name in names.items()})
        conversions = _conversions(table, names, raw)
        converted = {column: convert(pl.col(column)) for column, convert in conversions.items()}
        rows = collect(raw.select(**converted))
        bad_columns = _bad_columns(rows, table.label)
        _check_values(table, names, bad_columns, conversions)
        if "timestamp" in conversions:
            _check_times(table, names, rows, conversions["timestamp"](pl.col("timestamp")))
    return table, names, rows


def _bad_columns(rows: Frame, label: str) -> set[str]:
    """Return the columns with missing or non-finite values; DataError without any row."""
    schema = rows.lazy().collect_schema()
    checks: dict[str, pl.Expr] = {"rows": pl.len()}
    for name in schema:
        checks[name] = pl.col(name).null_count()
    for name in set(schema) - set(ID_COLUMNS):
        checks[f"{name} not finite"] = ~pl.col(name).is_finite().all()
    results = rows.lazy().select(**checks).collect(engine="streaming").row(0, named=True)
    if not results["rows"]:
        raise DataError(f"{label}: there is a header but no interactions. Add at least one row.")
    return {name.removesuffix(" not finite") for name, bad in results.items() if bad} - {"rows"}


def _conversions(
    table: Table, names: Mapping[str, str], raw: pl.LazyFrame
) -> dict[str, Conversion]:
    """Return how to convert each column, by its type and its first values."""
    schema = table.frame.collect_schema()
    conversions = {
        column: _id_conversion(table, names[column], schema[names[column]]) for column in ID_COLUMNS
    }
    if "rating" in names:
        conversions["rating"] = lambda column: column.cast(pl.Float32, strict=False)
    if "timestamp" in names:
        sample = raw.head(1000).select("timestamp").collect()["timestamp"].drop_nulls().head(1)
        where = f"{table.label}: column {names['timestamp']!r}"
        conversions["timestamp"] = timestamp_conversion(sample, where)
    return conversions


def _id_conversion(table: Table, name: str, dtype: pl.DataType) -> Conversion:
    """Return how to read an id column: as text or as whole numbers."""
    if dtype.is_float():
        return _whole_numbers
    if dtype.is_integer():
        return lambda column: column
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return lambda column: column.cast(pl.String)
    raise DataError(
        f"{table.label}: column {name!r} holds {dtype}, which cannot be an id. Use text or whole "
        "numbers."
    )


def _whole_numbers(column: pl.Expr) -> pl.Expr:
    """Return float ids as integers, null where they have a fraction."""
    whole = column.cast(pl.Int64, strict=False)
    return pl.when(whole == column).then(whole)


def _check_values(
    table: Table,
    names: Mapping[str, str],
    bad_columns: Set[str],
    conversions: Mapping[str, Conversion],
) -> None:
    for column, convert in conversions.items():  # ids come first
        if column in bad_columns:
            value = convert(pl.col(column))
            is_bad = value.is_null()
            if column not in ID_COLUMNS:
                is_bad |= ~value.is_finite()
            _reject_first(table, names, column, is_bad)


def _check_times(table: Table, names: Mapping[str, str], rows: Frame, value: pl.Expr) -> None:
    scale = _time_scale(rows)
    outside = rows.lazy().select(outside_years(pl.col("timestamp"), scale).any())
    if outside.collect(engine="streaming").item():
        reason = " and is in another unit than most"
        _reject_first(table, names, "timestamp", outside_years(value, scale), reason)


def _time_scale(rows: Frame) -> float:
    """Return milliseconds per unit of the times; the median of floats decides their unit."""
    times = rows.lazy().select("timestamp")
    if not times.collect_schema()["timestamp"].is_float():
        return 1.0
    median = times.select(pl.col("timestamp").abs().median()).collect(engine="streaming").item()
    return milliseconds_per_unit(float(median))


def _reject_first(
    table: Table, names: Mapping[str, str], column: str, is_bad: pl.Expr, reason: str = ""
) -> None:
    """Raise a DataError for the first row where `is_bad` is true, if there is one.

    `is_bad` is an expression over the columns under Recoach's names; `reason` says what is wrong
    where the value alone does not.
    """
    rows = table.frame.select(**{key: pl.col(name) for key, name in names.items()})
    rows = rows.with_row_index()
    first = rows.filter(is_bad).select("index", column).head(1).collect()
    if not len(first):
        return
    row, values = first["index"][0], first[column]
    # Python has no date after the year 9999: the message then quotes the number of the timestamp.
    value = (values.to_physical() if values.dtype.is_temporal() else values)[0]
    name = column if column == names[column] else f"{names[column]} ({column})"
    problem = "is empty" if value in (None, "") else f"is {clipped(repr(value))}"
    remedy = {
        "timestamp": "Write seconds, milliseconds or an ISO date.",
        "rating": "Write a finite number.",
    }.get(column, "Write an id, text or a whole number.")
    raise DataError(f"{table.locate(row)}: column {name} {problem}{reason}. {remedy}")


def _number_ids(table: Table, names: dict[str, str], rows: pl.DataFrame) -> Interactions:
    users, user_ids = encode_ids(rows.drop_in_place("user_id"))  # frees the column's text
    items, item_ids = encode_ids(rows.drop_in_place("item_id"))
    for column, ids in (("user_id", user_ids), ("item_id", item_ids)):
        empty, numeric = bool((ids == "").any()), bool(_looks_numeric(ids).any())
        _check_ids(table, names, column, empty=empty, numeric=numeric)
    columns: dict[str, pl.Series] = {}
    if "timestamp" in names:
        times = to_milliseconds(rows["timestamp"], _time_scale(rows))
        columns["timestamp"] = pl.Series(times, dtype=pl.Int64)
    if "rating" in names:
        columns["rating"] = rows["rating"].alias("")
    return Interactions(users, items, user_ids, item_ids, columns)


def _check_ids(
    table: Table, names: Mapping[str, str], column: str, *, empty: bool, numeric: bool
) -> None:
    if empty:
        _reject_first(table, names, column, pl.col(column).cast(pl.String) == "")
    if numeric:
        table.check_types(names[column])


def _looks_numeric(ids: Any) -> Any:  # noqa: ANN401 - a series or an expression
    return ids.str.contains(r"^(?:-?\d|true$|false$|\[|\{)")
