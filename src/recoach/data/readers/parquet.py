"""Parquet files."""

import polars as pl

from recoach.data.limits import check_rows
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile


def open_parquet(file: LogFile) -> Table:
    """Open a Parquet file; columns keep their types.

    Raises:
        DataError: the file cannot be read or claims far more rows than it has bytes.
    """
    with convert_read_errors(file.name):
        frame = pl.scan_parquet(file.path, glob=False)
        check_rows(file.path, frame)
        names = tuple(frame.collect_schema().names())
    return Table(file.name, frame, names, lambda row: f"{file.name}, row {row + 1}")
