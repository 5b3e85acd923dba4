"""The file formats: a new one is a module in this package and a line in `READERS`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from recoach.data.readers.delimited import (
    find_separator,
    header_names,
    open_csv,
    open_delimited,
    open_tsv,
)
from recoach.data.readers.jsonl import open_jsonl
from recoach.data.readers.parquet import open_parquet
from recoach.data.readers.recbole import open_inter
from recoach.data.readers.sequence import open_sequence
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile
from recoach.errors import DataError


class Reader(NamedTuple):
    """How to open a format, and the lower-case suffixes that files of this format have."""

    open: Callable[[LogFile], Table]
    suffixes: tuple[str, ...]


READERS: Mapping[str, Reader] = {
    "csv": Reader(open_csv, (".csv",)),
    "tsv": Reader(open_tsv, (".tsv",)),
    "jsonl": Reader(open_jsonl, (".jsonl", ".ndjson", ".json")),
    "parquet": Reader(open_parquet, (".parquet", ".pq")),
    "inter": Reader(open_inter, (".inter", ".item")),
    "sequence": Reader(open_sequence, ()),
}
FORMATS = ("auto", *READERS)

if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[FORMATS]  # pydantic and the command line read the names from here

_COMPRESSED = (".gz", ".zst")


def open_table(
    path: Path,
    format_name: str,
    is_header: Callable[[list[str]], bool],
    header: Sequence[str] = (),
) -> Table:
    """Open a file, plain or, where it is text, compressed (.gz, .zst), as a table.

    The format "auto" selects by suffix; a .txt file is a CSV file if its first line `is_header`, a
    sequence file otherwise. `header` names the columns of a file without a header.

    Raises:
        DataError: no such file or format, an empty file, a header that cannot be used.
    """
    if format_name not in FORMATS:
        raise DataError(f"format: {format_name!r} is unknown. Choose one of {', '.join(FORMATS)}.")
    if path.is_dir():
        raise DataError(f"{path}: this is a folder. Name the file with the interactions in it.")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Check the path.")
    file = LogFile(path)
    if header:
        return open_delimited(file, find_separator(file.first_line), header=header)
    if format_name == "auto":
        format_name = _detect_format(file, is_header)
    return READERS[format_name].open(file)


def _detect_format(file: LogFile, is_header: Callable[[list[str]], bool]) -> str:
    suffixes = [suffix.lower() for suffix in file.path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".txt":
        names = header_names(file, find_separator(file.first_line))
        return "csv" if is_header(names) else "sequence"
    for name, reader in READERS.items():
        if suffix in reader.suffixes:
            return name
    raise DataError(
        f"{file.name}: the suffix belongs to no format. Pass format= as one of "
        f"{', '.join(READERS)}."
    )
