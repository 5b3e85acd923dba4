"""Files and frames become Interactions: find the columns, check every value, number the ids.

One streaming pass reads the ids, and times and ratings as numbers. Only where that pass meets
something wrong does a second look find the first bad row and name its line.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import narwhals as nw
import numpy as np
import numpy.typing as npt
import polars as pl

from recoach.data.formats import UNREADABLE, Table, open_table, reading
from recoach.data.interactions import IntArray, Interactions, LongArray, first_rows
from recoach.data.split import Dataset, from_parts
from recoach.data.timestamps import beyond, moments, scale_of, to_milliseconds
from recoach.errors import DataError, clipped, suggestion

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        *("user_id", "user", "userid", "uid", "reviewerid", "customer_id", "visitorid"),
        *("visitor_id", "session_id", "sessionid", "session"),
    ),
    "item_id": (
        *("item_id", "item", "itemid", "iid", "movieid", "movie_id", "parent_asin", "asin"),
        *("product_id", "productid", "sid", "business_id", "book_id", "track_id", "article_id"),
    ),
    "rating": ("rating", "ratings", "score", "overall", "stars", "weight"),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "unixreviewtime", "sort_timestamp"),
        *("date", "created_at", "event_time"),
    ),
}
"""The lower-case names under which each of our columns is looked for, best first."""

_REQUIRED = ("user_id", "item_id")
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def read_interactions(
    source: object,
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",  # noqa: A002 - the word users type
) -> Interactions:
    """Read an interaction log.

    Args:
        source: a path, or any pandas, polars or arrow frame.
        columns: our names (user_id, item_id, rating, timestamp) -> the name in the source; what is
            not mapped is detected by its usual names.
        format: auto, csv, tsv, jsonl, parquet, inter (RecBole) or sequence (`user item item ...`).

    Raises:
        DataError: anything that cannot be read or understood, with file, line and remedy.
    """
    return _numbered(*_read(source, columns, format, lambda rows: rows.collect(engine="streaming")))


def stream_interactions(
    source: Path, target: Path, columns: Mapping[str, str], kind: str
) -> tuple[str, ...]:
    """Read a log as `read_interactions` does, into a Parquet file, never all of it in memory.

    Args:
        source: a file.
        target: gets the rows in file order: row, user_id, item_id[, timestamp][, rating];
            timestamp is milliseconds, or a float of any unit (see `to_milliseconds`).
        columns: see `read_interactions`.
        kind: the format.

    Returns:
        The names of the columns.

    Raises:
        DataError: see `read_interactions`.
    """

    def kept(rows: pl.LazyFrame) -> pl.LazyFrame:
        rows.with_row_index("row").sink_parquet(target)
        return pl.scan_parquet(target).drop("row")

    table, found, read = _read(source, columns, kind, kept)
    for ours in _REQUIRED:
        ids = read.select(pl.col(ours).cast(pl.String))
        odd = ids.select(
            empty=(pl.col(ours) == "").any(), numeric=_looks_numeric(pl.col(ours)).any()
        )
        empty, numeric = odd.collect(engine="streaming").row(0)
        _check_ids(table, found, ours, empty=bool(empty), numeric=bool(numeric))
    return tuple(read.collect_schema().names())


def read_benchmark(source: str | Path) -> Dataset:
    """Read a log that is already split into train, valid (optional) and test files.

    Args:
        source: a folder, or a path up to the part's name (`data/baby` for `baby.train.inter`).
            RecBole's `X.train.inter` and LightGCN's `train.txt` are known, plain, .gz or .zst.

    Raises:
        DataError: a part is missing or occurs twice, or a file is bad.
    """
    source = Path(source)
    folder, prefix = (source, "") if source.is_dir() else (source.parent, source.name)
    train = _part(folder, prefix, "train")
    valid = _part(folder, prefix, "valid")
    test = _part(folder, prefix, "test")
    if train is None or test is None:
        missing = "test" if train else "train"
        raise DataError(
            f"{source}: no {missing} file found; expected {prefix or 'NAME'}.{missing}.inter "
            f"or {missing}.txt, plain or compressed"
        )
    name = prefix or train.name.split(".")[0]
    return from_parts(
        read_interactions(train),
        None if valid is None else read_interactions(valid),
        read_interactions(test),
        folder.name if name == "train" else name,
    )


def _part(folder: Path, prefix: str, role: str) -> Path | None:
    stem = f"{prefix}." if prefix else ""
    patterns = [f"{stem or '*.'}{role}.inter", f"{stem}{role}.txt"]
    names = [name + end for name in patterns for end in ("", ".gz", ".zst")]
    found = sorted(path for name in names for path in folder.glob(name))
    if len(found) > 1:
        raise DataError(
            f"{folder}: {found[0].name} and {found[1].name} could both be the {role} part; "
            "name the one you mean by its prefix, such as data/baby"
        )
    return found[0] if found else None


def _checked(columns: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(columns) - set(USUAL_NAMES))
    if unknown:
        raise DataError(
            f"columns maps {unknown[0]!r}, which is not one of ours; "
            f"{suggestion(unknown[0], USUAL_NAMES)}"
        )
    return dict(columns)


def _detect(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return our name -> the source's name for every column that is mapped or known."""
    lowered = {name.lower(): name for name in reversed(names) if name not in mapping.values()}
    found = dict(mapping)
    for ours, usual in USUAL_NAMES.items():
        known = [lowered[name] for name in usual if name in lowered]
        if ours not in found and known:
            found[ours] = known[0]
    return found


def _has_ids(names: Sequence[str], mapping: Mapping[str, str]) -> bool:
    found = _detect(names, mapping)
    return all(found.get(ours) in names for ours in _REQUIRED)


def _find_columns(table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    for ours, theirs in mapping.items():
        if theirs not in table.names:
            raise DataError(
                f"{table.label}: no column {theirs!r}, which columns gives as {ours}; "
                f"{suggestion(theirs, table.names)}"
            )
    found = _detect(table.names, mapping)
    for ours in _REQUIRED:
        if ours not in found:
            raise DataError(
                f"{table.label}: no {ours} column; {suggestion(ours, table.names)} Rename it to "
                f"{ours} or map it with columns={{{ours!r}: NAME}}"
            )
    return found


def _frame_table(source: Any) -> Table:  # noqa: ANN401 - any frame narwhals knows
    try:
        frame = nw.from_native(source)
        eager = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        table = eager.to_polars()
    except (TypeError, ValueError, *UNREADABLE) as error:
        raise DataError(
            f"{type(source).__module__}.{type(source).__name__} cannot be used as a log "
            f"({str(error).splitlines()[0][:120]}); pass a path or a pandas, polars or arrow "
            "frame with one type in each column"
        ) from None
    return Table(
        "the frame",
        table.lazy(),
        tuple(table.columns),
        lambda row: f"row {row + 1}",
    )


def _read(
    source: object,
    names: Mapping[str, str] | None,
    kind: str,
    collect: Callable[[pl.LazyFrame], Frame],
) -> tuple[Table, dict[str, str], Frame]:
    """Find the columns, read them in one pass and check their values."""
    mapping = _checked(names or {})
    if isinstance(source, str | Path):
        table = open_table(Path(source), kind, lambda names: _has_ids(names, mapping))
    else:
        table = _frame_table(source)
    found = _find_columns(table, mapping)
    with reading(table.label, table.explain):
        schema = table.frame.collect_schema()
        columns = {ours: pl.col(theirs) for ours, theirs in found.items()}
        raw = table.frame.select(**columns)
        wanted = {ours: _id(table, found[ours], schema[found[ours]]) for ours in _REQUIRED}
        wanted |= _measures(table, found, raw)
        converted = {ours: convert(pl.col(ours)) for ours, convert in wanted.items()}
        read = collect(raw.select(**converted))
        flaws = _flaws(read, table.label)
        if table.skip_blank and "user_id" in flaws:
            written = raw.filter(~pl.all_horizontal(pl.all().is_null()))
            read = collect(written.select(**converted))
            flaws = _flaws(read, table.label)
        _check_values(table, found, flaws, wanted)
        if "timestamp" in wanted:
            _check_times(table, found, read, wanted["timestamp"](pl.col("timestamp")))
    return table, found, read


def _flaws(read: Frame, label: str) -> set[str]:
    """Return the columns with missing or non-finite values; DataError where there are no rows."""
    schema = read.lazy().collect_schema()
    asked: dict[str, pl.Expr] = {"rows": pl.len()}
    for name in schema:
        asked[name] = pl.col(name).null_count()
    for name in set(schema) - set(_REQUIRED):
        asked[f"{name} endless"] = ~pl.col(name).is_finite().all()
    counted = read.lazy().select(**asked)
    found = counted.collect(engine="streaming").row(0, named=True)
    if not found["rows"]:
        raise DataError(f"{label} has a header but no interactions; add at least one row")
    return {name.removesuffix(" endless") for name, bad in found.items() if bad} - {"rows"}


def _id(table: Table, name: str, dtype: pl.DataType) -> Any:  # noqa: ANN401 - Expr -> Expr
    """Return how to read an id column: as text or as whole numbers."""
    if dtype.is_float():
        return _whole
    if dtype.is_integer():
        return lambda column: column
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return lambda column: column.cast(pl.String)
    raise DataError(
        f"{table.label}: column {name!r} holds {dtype} and cannot be an id; use text or numbers"
    )


def _whole(column: pl.Expr) -> pl.Expr:
    """Return float ids as whole numbers, null where they are none."""
    whole = column.cast(pl.Int64, strict=False)
    return pl.when(whole == column).then(whole)


def _measures(table: Table, found: Mapping[str, str], raw: pl.LazyFrame) -> dict[str, Any]:
    """Return how to read the timestamp and the rating, where the log has them."""
    wanted: dict[str, Any] = {}
    if "rating" in found:
        wanted["rating"] = lambda column: column.cast(pl.Float32, strict=False)
    if "timestamp" in found:
        sample = raw.head(1000).select("timestamp").collect()["timestamp"].drop_nulls().head(1)
        wanted["timestamp"] = moments(sample, f"{table.label}: column {found['timestamp']!r}")
    return wanted


def _check_values(
    table: Table,
    found: Mapping[str, str],
    flaws: Set[str],
    wanted: Mapping[str, Any],
) -> None:
    for ours in _REQUIRED:
        if ours in flaws:
            _complain(table, found, ours, wanted[ours](pl.col(ours)).is_null())
    for ours in set(wanted) - set(_REQUIRED):
        if ours in flaws:
            value = wanted[ours](pl.col(ours))
            _complain(table, found, ours, value.is_null() | ~value.is_finite())


def _check_times(table: Table, found: Mapping[str, str], read: Frame, value: pl.Expr) -> None:
    scale = _scale(read)
    outside = read.lazy().select(beyond(pl.col("timestamp"), scale).any())
    if outside.collect(engine="streaming").item():
        _complain(table, found, "timestamp", beyond(value, scale), "is in another unit")


def _scale(read: Frame) -> float:
    """Return what makes milliseconds of the times; of floats the unit is judged by the median."""
    times = read.lazy().select("timestamp")
    if not times.collect_schema()["timestamp"].is_float():
        return 1.0
    size = times.select(pl.col("timestamp").abs().median()).collect(engine="streaming").item()
    return scale_of(float(size))


def _complain(
    table: Table, found: Mapping[str, str], ours: str, bad: pl.Expr, besides: str = ""
) -> None:
    """Raise the DataError of the first row of which `bad` is true, if there is one.

    Args:
        table: the log.
        found: our names -> its names.
        ours: the column that is wrong.
        bad: where.
        besides: what is wrong, where the value alone does not tell.
    """
    columns = {name: pl.col(theirs) for name, theirs in found.items()}
    rows = table.frame.select(**columns).with_row_index()
    if table.skip_blank:
        rows = rows.filter(~pl.all_horizontal(pl.all().exclude("index").is_null()))
    first = rows.filter(bad).select("index", ours).head(1).collect()
    if not len(first):
        return
    row, values = first["index"][0], first[ours]
    # Python knows no date beyond the year 9999: such a time is shown as its number.
    value = (values.to_physical() if values.dtype.is_temporal() else values)[0]
    column = found[ours] if ours == found[ours] else f"{found[ours]} ({ours})"
    what = "is empty" if value in (None, "") else f"is {clipped(repr(value))}"
    what += f" and {besides} than most" if besides else ""
    remedy = {
        "timestamp": "write seconds, milliseconds or an ISO date",
        "rating": "write a finite number",
    }.get(ours, "every interaction needs an id, text or a whole number")
    raise DataError(f"{table.label}: {table.where(row)}: column {column} {what}; {remedy}")


def _numbered(table: Table, found: Mapping[str, str], read: pl.DataFrame) -> Interactions:
    users, user_ids = _dense(read.drop_in_place("user_id").rechunk())  # its text is freed here
    items, item_ids = _dense(read.drop_in_place("item_id").rechunk())
    for ours, ids in (("user_id", user_ids), ("item_id", item_ids)):
        empty, numeric = bool((ids == "").any()), bool(_looks_numeric(ids).any())
        _check_ids(table, found, ours, empty=empty, numeric=numeric)
    ratings: npt.NDArray[np.float32] | None = None
    times: LongArray | None = None
    if "rating" in found:
        ratings = read["rating"].to_numpy()
    if "timestamp" in found:
        times = to_milliseconds(read["timestamp"], _scale(read))
    return Interactions(users, items, user_ids, item_ids, times, ratings)


def _check_ids(
    table: Table, found: Mapping[str, str], ours: str, *, empty: bool, numeric: bool
) -> None:
    if empty:
        _complain(table, found, ours, pl.col(ours).cast(pl.String) == "")
    if numeric:
        table.check_types(found[ours])


def _looks_numeric(ids: Any) -> Any:  # noqa: ANN401 - a series or an expression
    return ids.str.contains(r"^(?:-?\d|true$|false$|\[|\{)")


def _dense(ids: pl.Series) -> tuple[IntArray, pl.Series]:
    """Return int32[N] numbers by first appearance and String[n] the id of each."""
    rows = first_rows(ids)
    new = rows == np.arange(len(rows), dtype=np.uint32)
    numbers = np.cumsum(new, dtype=np.int32) - 1
    return numbers[rows], ids.gather(np.flatnonzero(new)).cast(pl.String).alias("")
