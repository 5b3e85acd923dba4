"""Read single files, whatever characters their path has: `[`, `*` and `~` are no patterns."""

from pathlib import Path

import polars as pl

from recoach.errors import DataError


def read_parquet(path: Path) -> pl.DataFrame:
    """Return a Parquet file as a frame; polars or the disk may raise their own errors."""
    return pl.read_parquet(path.absolute(), glob=False)


def read_text(path: Path) -> str:
    """Return a UTF-8 text without its byte order mark.

    Raises:
        DataError: the file cannot be read or is not UTF-8 text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 of ASCII characters is valid UTF-8 with zeros
        raise DataError(f"{path} is not UTF-8 text; save the file as UTF-8.")
    return text
