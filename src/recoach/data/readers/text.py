"""Lines of text files, plain or compressed with gzip or zstd."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from recoach.data.limits import check_unpacked_size
from recoach.data.readers.table import POLARS_ERRORS, convert_read_errors, empty_file_message
from recoach.errors import DataError

_NOT_IN_TEXT = "\x01"  # a separator that never occurs: polars then reads whole lines


@dataclass(frozen=True)
class LogFile:
    """A text or Parquet file to read; its first line is read once, on first use."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its folder, for error messages."""
        return self.path.name

    @cached_property
    def first_line(self) -> str:
        """The first line without a byte order mark.

        Raises:
            DataError: the file is empty, starts with a blank line, is not UTF-8 or unpacks to far
                more than its size.
        """
        with convert_read_errors(self.name):
            check_unpacked_size(self.path)
        with convert_read_errors(self.name, lambda: diagnose_encoding(self.path)):
            lines = scan_lines(self.path).head(1).collect()["line"]
        if not len(lines):
            raise DataError(empty_file_message(self.name))
        line = str(lines[0]).removeprefix("\ufeff")
        if not line.strip():
            raise DataError(f"{self.name}:1: the first line is blank. Remove the blank lines.")
        return line


def scan_lines(path: Path, encoding: Any = "utf8") -> pl.LazyFrame:  # noqa: ANN401 - a polars literal
    """Return the file's lines, blank ones included, as the single column `line`."""
    return pl.scan_csv(
        path,
        separator=_NOT_IN_TEXT,
        has_header=False,
        quote_char=None,
        schema={"line": pl.String},
        truncate_ragged_lines=True,
        glob=False,
        encoding=encoding,
    ).select(pl.col("line").fill_null(""))


def diagnose_encoding(path: Path) -> None:
    """Raise a DataError that names the first line which is not UTF-8, if there is one."""
    lines = scan_lines(path, "utf8-lossy").with_row_index()
    try:
        bad = lines.filter(pl.col("line").str.contains("\ufffd", literal=True)).head(1).collect()
    except (OSError, *POLARS_ERRORS):
        return
    if len(bad):
        raise DataError(
            f"{path.name}:{bad['index'][0] + 1}: the line is not UTF-8 text. Save the file as "
            "UTF-8."
        )
