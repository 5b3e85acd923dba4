"""The file formats: a new one is a module in this package and a line in `READERS`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from recoach.data.readers import (
    books,
    checkins,
    lastfm,
    layout,
    mind,
    movielens,
    netflix,
    otto,
    shops,
    steam,
    video,
)
from recoach.data.readers.delimited import open_tsv
from recoach.data.readers.folder import open_folder
from recoach.data.readers.jsonl import open_jsonl
from recoach.data.readers.lines import SAMPLE_LINES, read_sample
from recoach.data.readers.parquet import open_parquet
from recoach.data.readers.plain_table import open_headerless, open_plain_table
from recoach.data.readers.recbole import is_atomic_header, open_inter
from recoach.data.readers.sequence import open_sequence, open_sessions
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile, latin1_lines
from recoach.errors import DataError


class Reader(NamedTuple):
    """How to open a format, and how to recognise it.

    Attributes:
        open: opens a file.
        suffixes: lower-case suffixes that files of this format have.
        recognise: file name and first lines -> whether the file certainly has this format; None
            for formats that are not those of one data set.
    """

    open: Callable[[LogFile], Table]
    suffixes: tuple[str, ...] = ()
    recognise: Callable[[str, Sequence[str]], bool] | None = None


READERS: Mapping[str, Reader] = {
    "csv": Reader(open_plain_table, (".csv", ".tsv", ".tab", ".psv")),
    "tsv": Reader(open_tsv),
    "jsonl": Reader(open_jsonl, (".jsonl", ".ndjson", ".json")),
    "parquet": Reader(open_parquet, (".parquet", ".pq")),
    "inter": Reader(open_inter, (".inter", ".item")),
    "sequence": Reader(open_sequence),
    "sessions": Reader(open_sessions),
    "movielens": Reader(movielens.open_movielens, (), movielens.is_movielens),
    "netflix": Reader(netflix.open_netflix, (), netflix.is_netflix),
    "book-crossing": Reader(books.open_book_crossing, (), books.is_book_crossing),
    "goodreads": Reader(books.open_goodreads, (), books.is_goodreads),
    "lastfm-1k": Reader(lastfm.open_lastfm, (), lastfm.is_lastfm),
    "steam": Reader(steam.open_steam, (), steam.is_steam),
    "yoochoose": Reader(shops.open_yoochoose, (), shops.is_yoochoose),
    "retailrocket": Reader(shops.open_retailrocket, (), shops.is_retailrocket),
    "diginetica": Reader(shops.open_diginetica, (), shops.is_diginetica),
    "taobao": Reader(shops.open_taobao, (), shops.is_taobao),
    "hm": Reader(shops.open_hm, (), shops.is_hm),
    "otto": Reader(otto.open_otto, (), otto.is_otto),
    "mind": Reader(mind.open_mind, (), mind.is_mind),
    "kuairec": Reader(video.open_kuairec, (), video.is_kuairec),
    "kuairand": Reader(video.open_kuairand, (), video.is_kuairand),
    "gowalla": Reader(checkins.open_gowalla, (), checkins.is_gowalla),
    "foursquare": Reader(checkins.open_foursquare, (), checkins.is_foursquare),
}
FORMATS = ("auto", *READERS)

if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[FORMATS]  # pydantic and the command line read the names from here

_COMPRESSED = (".gz", ".zst")
_DECISIVE_LINES = 20
"""Lines that must have the layout of a data set for its file to be recognised."""
_LATIN1 = ("book-crossing", "foursquare")
"""Data sets whose files are not UTF-8."""
_TEXT_FORMATS = ("auto", "csv", "tsv")


def open_table(
    path: Path,
    format_name: str,
    is_header: Callable[[list[str]], bool],
    header: Sequence[str] = (),
    *,
    mapped: bool = False,
) -> Table:
    """Open a file, plain or, where it is text, compressed (.gz, .zst), as a table.

    Args:
        path: the file, or a folder of Parquet parts.
        format_name: one of `FORMATS`; "auto" recognises the format by name and content.
        is_header: whether names are those of a log.
        header: the columns of a file without a header, in its order.
        mapped: whether the caller names columns of the file; then "auto" takes no format that
            names the columns itself.

    Raises:
        DataError: no such file or format, an empty file, a header that cannot be used, a layout
            that is ambiguous.
    """
    _check_names(format_name, header)
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Check the path.")
    if path.suffix.lower() == ".toml" and format_name == "auto" and not header:
        raise DataError(
            f"{path}: this is a configuration, not a log. Run it with `recoach run {path}`."
        )
    file = LogFile(path.absolute())  # polars takes a leading ~ for the home folder
    if header:
        return open_headerless(file, header)
    if format_name == "auto":
        format_name = _recognise(file, is_header, mapped=mapped)
    if format_name == "csv":
        return open_plain_table(file, is_header)
    reader = READERS[format_name]
    table = reader.open(file)
    if reader.recognise is None:
        return table
    return replace(table, layout=f"{format_name}: {table.layout}")


def _check_names(format_name: str, header: Sequence[str]) -> None:
    if format_name not in FORMATS:
        raise DataError(f"format: {format_name!r} is unknown. Choose one of {', '.join(FORMATS)}.")
    if header and format_name not in _TEXT_FORMATS:
        raise DataError(
            f"--columns names the columns of text without a header, but --format is {format_name}. "
            "Leave one of them out."
        )


def recognise(path: Path, is_header: Callable[[list[str]], bool]) -> str:
    """Return the name of the format that "auto" selects; DataError if it cannot be decided."""
    return _recognise(LogFile(path.absolute()), is_header, mapped=False)


def _recognise(file: LogFile, is_header: Callable[[list[str]], bool], *, mapped: bool) -> str:
    """Return the name of the file's format; DataError if it cannot be decided."""
    suffix = _suffix(file.path)
    by_suffix = next((name for name, reader in READERS.items() if suffix in reader.suffixes), "")
    if by_suffix == "parquet" or layout.is_parquet(file.path):
        return "parquet"
    try:
        layout.check_text(file)
        lines = read_sample(file)
    except DataError:
        lines = latin1_lines(file, SAMPLE_LINES)
        name = _data_set(file, lines) if lines and not mapped else ""
        if name in _LATIN1:
            return name
        raise
    if by_suffix in ("csv", "jsonl"):
        is_json = lines[0].lstrip().startswith(("{", "["))
        by_suffix = by_suffix if is_json == (by_suffix == "jsonl") else ""
    name = "" if mapped else _data_set(file, lines)
    return name or by_suffix or _recognise_text(file, lines, is_header)


def _data_set(file: LogFile, lines: Sequence[str]) -> str:
    """Return the name of the data set whose file this certainly is; "" if there is none.

    The first lines decide, so that a bad line further down is reported as such.
    """
    recognised = (
        name
        for name, reader in READERS.items()
        if reader.recognise is not None and reader.recognise(file.name, lines[:_DECISIVE_LINES])
    )
    return next(recognised, "")


def _recognise_text(
    file: LogFile, lines: Sequence[str], is_header: Callable[[list[str]], bool]
) -> str:
    """Return the name of the format of a file whose suffix does not tell it."""
    if lines[0].lstrip().startswith(("{", "[{")):
        return "jsonl"
    if is_atomic_header(lines[0]):
        return "inter"
    separator = layout.find_separator(lines, is_header)
    if separator is not None:
        rows = layout.split_values(lines, separator)
        if not separator.isspace() or layout.find_header(rows, is_header):
            return "csv"
    if layout.is_sequence_file(file, lines):
        return "sequence"
    if file.name.startswith("test."):
        return "sessions"
    raise DataError(
        f"{file.name}: there is no header, and the first value of a line occurs in other lines "
        "too, so that it may be no user. Use --format sequence if it is the user, --format "
        "sessions if all values are items."
    )


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
