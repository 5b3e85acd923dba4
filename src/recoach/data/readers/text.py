"""Lines of text files, plain or compressed with gzip or zstd."""

import codecs
import gzip
import io
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO

import polars as pl

from recoach.data.limits import check_unpacked_size
from recoach.data.readers.table import (
    POLARS_ERRORS,
    convert_read_errors,
    empty_file_message,
    short_reason,
)
from recoach.errors import DataError, suggestion

_MARK, _END_OF_FILE = "\ufeff", "\x1a"  # byte order mark, Ctrl-Z
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks of other encodings, longer ones first: UTF-32's begins with UTF-16's."""
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_DAMAGED = (EOFError, zlib.error)
"""What gzip raises for damaged files, beside OSError."""
_CHUNK_SIZE = 1 << 20


@dataclass(frozen=True)
class LogFile:
    """A text or Parquet file to read; its first line is read once, on first use.

    Attributes:
        path: the file, plain or, where it is text, compressed with gzip or zstd.
        encoding: of the text, by its Python name.
    """

    path: Path
    encoding: str = "utf-8"

    @property
    def name(self) -> str:
        """The file's name without its folder, for error messages."""
        return self.path.name

    @cached_property
    def text_path(self) -> Path:
        """A UTF-8 file with these lines, without byte order mark, line feeds as line ends.

        A Ctrl-Z at the end of a plain file, as DOS editors write it, is left out.

        It is the file itself where possible, else a temporary file that exists as long as this
        object.

        Raises:
            DataError: the file is no text, not of this encoding, or unpacks to far more than its
                size.
        """
        with convert_read_errors(self.name):
            check_unpacked_size(self.path)
            _check_first_bytes(self.name, self.path, self.encoding)
        if codecs.lookup(_check_encoding(self.encoding)).name != "utf-8":
            with convert_read_errors(self.name), self.temporary_file() as file:
                _decode(self.path, self.encoding, file)
            return Path(file.name)
        with convert_read_errors(self.name, lambda: diagnose_encoding(self)):
            first_line = "".join(scan_lines(self.path).head(1).collect()["line"])
        has_mark = first_line.startswith(_MARK)
        if not (has_mark or "\r" in first_line or _ends_in(self.path, _END_OF_FILE)):
            return self.path
        line = pl.col("line").str.strip_chars_start(_MARK).str.strip_suffix(_END_OF_FILE)
        if "\r" in first_line:
            line = line.str.replace_all("\r", "\n", literal=True)
        with (
            convert_read_errors(self.name, lambda: diagnose_encoding(self)),
            self.temporary_file() as file,
        ):
            scan_lines(self.path).select(line).sink_csv(
                file.name, include_header=False, quote_style="never", null_value=""
            )
        return Path(file.name)

    @cached_property
    def first_line(self) -> str:
        """The first line without a byte order mark.

        Raises:
            DataError: as `text_path`; or the file is empty or starts with a blank line.
        """
        text_path = self.text_path  # outside the conversion of errors: it has its own
        with convert_read_errors(self.name, lambda: diagnose_encoding(self)):
            lines = scan_lines(text_path).head(1).collect()["line"]
        if not len(lines):
            raise DataError(empty_file_message(self.name))
        line = str(lines[0])
        if "\0" in line:
            raise DataError(
                f"{self.name}:1: the line holds NUL characters, which no text has. "
                "Save the file as UTF-8."
            )
        if not line.strip():
            raise DataError(f"{self.name}:1: the first line is blank. Remove the blank lines.")
        return line

    def lines(self) -> pl.LazyFrame:
        """Return the lines, blank ones included, as the single column `line`."""
        return scan_lines(self.text_path)

    @contextmanager
    def temporary_file(self) -> Iterator[IO[bytes]]:
        """Open a new file that is removed together with this object."""
        with tempfile.NamedTemporaryFile(prefix="recoach-", delete=False) as file:
            weakref.finalize(self, Path(file.name).unlink, missing_ok=True)
            yield file


def scan_lines(path: Path) -> pl.LazyFrame:
    """Return the file's lines, blank ones included, as the single column `line`.

    Special characters in the path are part of the name. Line ends are line feeds, with or without
    carriage returns.
    """
    return pl.scan_lines(path.absolute(), glob=False)


def diagnose_encoding(file: LogFile) -> None:
    """Raise a DataError that names the first line which is not UTF-8, if there is one."""
    path = file.path if file.encoding == "utf-8" else file.text_path
    try:
        number = _first_undecodable_line(path)
    except (OSError, *_DAMAGED, *POLARS_ERRORS):
        return
    if number is not None:
        raise DataError(
            f"{file.name}:{number}: the line is not UTF-8 text. Save the file as UTF-8, "
            "for example with iconv -f latin1 -t utf-8."
        )


def _check_encoding(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError:
        usual = ("utf-8", "utf-16", "latin-1", "cp1252", "shift_jis", "gb18030")
        raise DataError(
            f"encoding: {encoding!r} is unknown. {suggestion(encoding, usual)}"
        ) from None
    return encoding


def _check_first_bytes(name: str, path: Path, encoding: str) -> None:
    """Raise a DataError for UTF-16 and UTF-32 text, which its byte order mark declares."""
    with path.open("rb") as raw:
        packed = raw.read(4)
    if packed.startswith(_ZSTD_MAGIC) or codecs.lookup(_check_encoding(encoding)).name != "utf-8":
        return
    try:
        with _open_bytes(path) as file:
            start = file.read(4)
    except _DAMAGED:
        return  # the reader reports the damage
    wide = next((wide for mark, wide in _WIDE_MARKS.items() if start.startswith(mark)), None)
    if wide is not None:
        raise DataError(f"{name}: the file is {wide} text. Save the file as UTF-8.")


def latin1_lines(file: LogFile, n_lines: int) -> list[str]:
    """Return the first lines of a plain or gzip file as Latin-1; none if it cannot be read."""
    try:
        with _open_bytes(file.path) as content:
            lines = [line.decode("latin-1") for line in islice(content, n_lines)]
    except (OSError, *_DAMAGED):
        return []
    return [line.rstrip("\r\n") for line in lines if line.strip()]


def _ends_in(path: Path, character: str) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) == character.encode()


def _open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Open a file to read its content, unpacked if it is a gzip file."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path) if packed else path.open("rb")


def _decode(path: Path, encoding: str, target: IO[bytes]) -> None:
    """Write the text of a plain or gzip file in UTF-8, with line feeds as line ends."""
    with path.open("rb") as raw:
        if raw.read(4) == _ZSTD_MAGIC:
            raise DataError(
                f"{path.name}: zstd files are read as UTF-8 only. Unpack the file, or pack it with "
                "gzip."
            )
    with io.TextIOWrapper(_open_bytes(path), encoding=encoding) as text:
        try:
            is_first = True
            while chunk := text.read(_CHUNK_SIZE):
                target.write((chunk.removeprefix(_MARK) if is_first else chunk).encode())
                is_first = False
        except _DAMAGED as error:
            raise DataError(
                f"{path.name}: cannot be read ({short_reason(error)}). Check that the file is "
                "complete."
            ) from None
        except UnicodeError as error:
            raise DataError(
                f"{path.name}: the file is not {encoding} text ({short_reason(error)}). Name "
                "another encoding, or save the file as UTF-8."
            ) from None


def _first_undecodable_line(path: Path) -> int | None:
    """Return the number of the first line that is not UTF-8, from 1; None if all are."""
    with path.open("rb") as raw:
        is_zstd = raw.read(4) == _ZSTD_MAGIC
    if is_zstd:  # replaces what it cannot decode, which a text may hold as well
        lines = pl.scan_csv(
            path.absolute(),
            separator="\x01",  # never occurs in text: whole lines are read
            has_header=False,
            quote_char=None,
            schema={"line": pl.String},
            truncate_ragged_lines=True,
            encoding="utf8-lossy",
            glob=False,
        )
        is_bad = pl.col("line").str.contains("\ufffd", literal=True)
        numbers = lines.with_row_index("number", 1).filter(is_bad).head(1).collect()["number"]
        return int(numbers[0]) if len(numbers) else None
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def check_control_characters(file: LogFile) -> None:
    """Raise a DataError for the first line with a NUL character or a carriage return in it."""
    is_bad = pl.col("line").str.contains("[\r\0]")
    lines = file.lines().with_row_index("number", 1).filter(is_bad)
    for number, line in lines.head(1).collect(engine="streaming").iter_rows():
        character = "a NUL character" if "\0" in line else "a carriage return"
        raise DataError(
            f"{file.name}:{number}: the line holds {character}. Save the file as UTF-8 text with "
            "line feeds as line ends."
        )
