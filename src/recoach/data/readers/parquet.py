"""Parquet files."""

import polars as pl

from recoach.data.limits import check_rows
from recoach.data.readers.table import Table, check_dtypes, convert_read_errors
from recoach.data.readers.text import LogFile


def open_parquet(file: LogFile) -> Table:
    """Open a Parquet file; columns keep their types.

    Raises:
        DataError: the file cannot be read or claims far more rows than it has bytes.
    """
    with convert_read_errors(file.name):
        frame = pl.scan_parquet(file.path.absolute(), glob=False)
        check_rows(file.path, frame)
        schema = frame.collect_schema()
    return Table(
        file.name,
        frame,
        tuple(schema.names()),
        lambda row: f"{file.name}, row {row + 1}",
        check_used=lambda used: check_dtypes(file.name, schema, used),
    )
