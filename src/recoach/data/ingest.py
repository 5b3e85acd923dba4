"""Files and frames become Interactions: check every value, number the ids.

`read_interactions` holds the log in memory; `stream_interactions` writes the same rows into a
Parquet file for the engines of `sql`.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recoach.data.columns import ID_COLUMNS, USUAL_NAMES, check_mapping, has_id_columns
from recoach.data.config import PrepareConfig
from recoach.data.ids import source_type
from recoach.data.interactions import IdTypes, IntArray, Interactions, encode_ids, renumber
from recoach.data.log_columns import COLUMN_TYPES
from recoach.data.log_reader import LogReader
from recoach.data.read_report import ReadReport
from recoach.data.readers.frame import open_frame
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.statistics import count_equal_rows
from recoach.data.time_units import finer_order


def read_interactions(
    source: object,
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",  # noqa: A002 - the word users type
    header: Sequence[str] = (),
    events: Sequence[str] = (),
    negative_events: Sequence[str] = (),
) -> Interactions:
    """Read an interaction log.

    Args:
        source: a path, or any pandas, polars or arrow frame.
        columns: column name of Recoach (see `log_columns`) -> the name in the source, "" for a
            column that is not to be read; what is not mapped is detected by its usual names.
        format: auto, a layout (csv, tsv, jsonl, parquet, inter, sequence, sessions) or a public
            data set (movielens, yoochoose, mind, ...), see docs/reference/file-formats.md.
        header: columns of a file without a header, in the file's order: Recoach's names, "-" for a
            column to skip.
        events: the event types from the weakest to the strongest sign of interest. Without them the
            usual order of known names, from views to purchases, or else the order of appearance.
        negative_events: event types that set the column `negative`, such as dislike or return.

    Raises:
        DataError: the source cannot be read or understood; the message names the file, the line
            and the remedy.
    """
    table, mapping = _open(source, columns or {}, format, header)
    return _read(table, LogReader(table, mapping, events, negative_events))


def _read(table: Table, reader: LogReader) -> Interactions:
    with convert_read_errors(table.label, table.diagnose):
        rows = reader.read(lambda rows: rows.collect(engine="streaming"))
    id_types = _id_types(rows.schema)
    users, user_ids = _encode(reader, rows, "user_id")  # frees the column's text
    items, item_ids = _encode(reader, rows, "item_id")
    if "event_type" in rows.columns:
        reader.order_event_types(rows["event_type"].unique(maintain_order=True).to_list())
    else:
        reader.order_event_types(())
    log = rows.select(**reader.final_columns())
    if reader.is_finer_than_milliseconds:
        order = finer_order(rows["timestamp"], log["timestamp"])
        if order is not None:
            reader.notes.append(_REORDERED)
            users, user_codes = renumber(users[order], len(user_ids))
            items, item_codes = renumber(items[order], len(item_ids))
            user_ids, item_ids = user_ids.gather(user_codes), item_ids.gather(item_codes)
            log = log[order]
    log_columns = {name: log[name].alias("") for name in COLUMN_TYPES if name in log.columns}
    keys = pl.LazyFrame({"user_id": users, "item_id": items, **log_columns})
    report = _report(table, reader, keys)
    return Interactions(users, items, user_ids, item_ids, log_columns, report, id_types)


class StreamedLog(NamedTuple):
    """A log in a Parquet file.

    Attributes:
        types: column -> its type in `log_columns`; the file has text for event types.
        report: what was read.
        id_types: the types of the ids in the source; the file has text.
    """

    types: Mapping[str, pl.DataType]
    report: ReadReport
    id_types: IdTypes


def read_log(
    source: object, config: PrepareConfig, *, required: Collection[str] = ()
) -> Interactions:
    """Read a log as `read_interactions` does, with the settings of a config, unfiltered.

    Args:
        source: a path or a frame.
        config: how to read it.
        required: detected optional columns that are read or rejected, as columns that the config
            maps are; others with a value that cannot be read are left out.

    Raises:
        DataError: as `read_interactions`.
    """
    table, mapping = _open(source, config.columns, config.format, config.header)
    reader = LogReader(table, mapping, config.events, config.negative_events, required)
    return _read(table, reader)


def stream_interactions(source: Path, target: Path, config: PrepareConfig) -> StreamedLog:
    """Read a log as `read_interactions` does, but into a Parquet file and in bounded memory.

    `target` gets the rows in the order of `read_interactions`: row, user_id, item_id and the other
    columns of `log_columns`. Besides, memory holds each distinct id and 16 bytes a row.

    Raises:
        DataError: as `read_interactions`.
        OSError: the disk is full or not writable.
    """
    table, mapping = _open(source, config.columns, config.format, config.header)
    reader = LogReader(table, mapping, config.events, config.negative_events)
    target = target.absolute()
    raw_rows = target.with_name(f"{target.stem}.raw.parquet")

    def collect(rows: pl.LazyFrame) -> pl.LazyFrame:
        rows.sink_parquet(raw_rows)
        return pl.scan_parquet(raw_rows, glob=False)

    with convert_read_errors(table.label, table.diagnose):
        rows = reader.read(collect)
    id_types = _id_types(rows.collect_schema())
    ids = {column: _repaired_ids(reader, rows, column) for column in ID_COLUMNS}
    reader.order_event_types(_types_by_appearance(rows))
    log = rows.select(**ids, **reader.final_columns())
    order = None
    if reader.is_finer_than_milliseconds:
        exact = rows.select("timestamp").collect()["timestamp"]
        order = finer_order(exact, log.select("timestamp").collect()["timestamp"])
    if order is None:
        numbered = log.with_row_index("row")
    else:
        reader.notes.append(_REORDERED)
        places = np.empty(len(order), dtype=np.uint32)
        places[order] = np.arange(len(order), dtype=np.uint32)
        numbered = log.with_columns(row=pl.Series(places)).select("row", pl.all().exclude("row"))
    types = dict(log.collect_schema())
    numbered.with_columns(pl.col(pl.Enum).cast(pl.String)).sink_parquet(target)
    raw_rows.unlink()
    report = _report(table, reader, pl.scan_parquet(target, glob=False).drop("row"))
    return StreamedLog(types, report, id_types)


_REORDERED = "rows are put in order of time, because times are finer than a millisecond"


def _open(
    source: object, columns: Mapping[str, str], format_name: str, header: Sequence[str]
) -> tuple[Table, dict[str, str]]:
    """Return the table of a source and the checked mapping of its columns."""
    mapping = check_mapping(columns)
    if not isinstance(source, str | Path):
        return open_frame(source), mapping
    table = open_table(
        Path(source),
        format_name,
        lambda names: has_id_columns(names, mapping),
        header,
        mapped=any(mapping.values()),
    )
    return table, mapping


def _id_types(schema: pl.Schema) -> IdTypes:
    return IdTypes(*(source_type(schema[column]) for column in ID_COLUMNS))


def _encode(reader: LogReader, rows: pl.DataFrame, column: str) -> tuple[IntArray, pl.Series]:
    """Return the numbers and the ids of a column, which is removed from `rows`."""
    numbers, ids = encode_ids(rows.drop_in_place(column))
    repair = reader.check_ids(column, ids, pl.Series(np.bincount(numbers)))
    if repair is not None:
        new_numbers, ids = encode_ids(ids.to_frame(column).select(repair(pl.col(column)))[column])
        numbers = new_numbers[numbers]
        reader.check_ids(column, ids, pl.Series(np.bincount(numbers)))
    return numbers, ids


def _repaired_ids(reader: LogReader, rows: pl.LazyFrame, column: str) -> pl.Expr:
    """Return the ids of a streamed column, which are checked."""
    ids = pl.col(column).cast(pl.String)
    for _ in range(2):
        counted = rows.group_by(ids).agg(count=pl.len()).collect(engine="streaming")
        repair = reader.check_ids(column, counted[column], counted["count"])
        if repair is None:
            break
        ids = repair(ids)
    return ids


def _types_by_appearance(rows: pl.LazyFrame) -> list[str]:
    if "event_type" not in rows.collect_schema():
        return []
    first_rows = rows.with_row_index().group_by("event_type").agg(pl.col("index").min())
    return first_rows.sort("index").collect(engine="streaming")["event_type"].to_list()


def _report(table: Table, reader: LogReader, log: pl.LazyFrame) -> ReadReport:
    """Return the report of a log, with numbers or text for users and items."""
    used = set(reader.columns.values())
    others = {name: reader.not_used.get(name, "") for name in table.names if name not in used}
    times, span, ties = "timestamp" in reader.columns, None, None
    if times:
        time = pl.col("timestamp")
        ends = log.select(first=time.min(), last=time.max()).collect(engine="streaming")
        span = ends.row(0)
        if span[0] == span[1] and _REORDERED not in reader.notes:
            reader.notes.append("all times are equal: file order is taken")
        ties = count_equal_rows(log.select("user_id", "timestamp"))[0]
    return ReadReport(
        source=table.label,
        rows=log.select(pl.len()).collect().item(),
        columns={name: reader.columns[name] for name in USUAL_NAMES if name in reader.columns},
        layout=table.layout,
        left_aside=others,
        time_span=span,
        time_format=reader.time_format,
        event_types=reader.event_types,
        negative_types=reader.negative_types,
        duplicates=count_equal_rows(log)[1],
        ties=ties,
        notes=tuple(reader.notes),
    )
