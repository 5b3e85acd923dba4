"""One opener per file format: every log becomes a lazy table of named columns.

Nothing is converted here; `ingest` decides what the columns mean. A `Table` can say where a row
stands in its file, so that every complaint names the line.
"""

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recoach.data.limits import check_rows, check_unpacked_size
from recoach.errors import DataError, clipped

FORMATS = ("auto", "csv", "tsv", "jsonl", "parquet", "inter", "sequence")
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises of damaged files; some of its decoders panic."""
_COMPRESSED = (".gz", ".zst")
_NOT_IN_TEXT = "\x01"  # a separator that never occurs makes polars read whole lines
_BY_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "inter",
    ".item": "inter",
    ".txt": "txt",
}


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A log before its columns have a meaning.

    Attributes:
        label: the file's name, or "the frame", for messages.
        frame: the rows in file order; text formats hold strings, nothing parsed.
        names: what to call each column of `frame` in messages and when detecting, in order.
        where: row number from 0 -> "line 7" or "row 7" for messages.
        explain: raises the DataError behind a failed read, where it can be found.
        check_types: raises a DataError where the named column mixes numbers and text.
        skip_blank: whether a row without any value is a blank line, not a mistake.
    """

    label: str
    frame: pl.LazyFrame
    names: tuple[str, ...]
    where: Callable[[int], str]
    explain: Callable[[], None] = lambda: None
    check_types: Callable[[str], None] = lambda _: None
    skip_blank: bool = False


def open_table(path: Path, kind: str, is_header: Callable[[list[str]], bool]) -> Table:
    """Open a file as a table.

    Args:
        path: any of the formats, plain or .gz or .zst.
        kind: one of FORMATS; "auto" goes by the suffix (a .txt is delimited where its first line
            is a header, a sequence file otherwise).
        is_header: tells whether these names hold a user and an item column.

    Raises:
        DataError: no such file or format, an empty file, a header that cannot be used.
    """
    kind = _checked_kind(path, kind)
    if kind == "parquet":
        return _parquet(path)
    with reading(path.name):
        check_unpacked_size(path)
    first = _first_line(path)
    if kind == "txt":
        kind = "csv" if is_header(_header(first, _separator(first))) else "sequence"
    if kind == "sequence":
        return _sequence(path)
    if kind == "jsonl":
        return _jsonl(path, first)
    return _delimited(path, first, "\t" if kind in ("tsv", "inter") else None, kind == "inter")


@contextmanager
def reading(label: str, explain: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn whatever polars or the disk says about a bad file into one DataError."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"{label} is empty; it needs a line for each interaction") from None
    except OSError as error:
        raise DataError(
            f"{label} cannot be read ({_sentence(error)}); is it complete and yours to read?"
        ) from None
    except UNREADABLE as error:
        try:
            with contextlib.suppress(OSError, *UNREADABLE):  # it fails on the same bytes
                explain()
        except DataError as found:
            raise found from None
        raise DataError(
            f"{label} cannot be read ({_sentence(error)}); is it what its name says?"
        ) from None


def line_frame(path: Path, encoding: Any = "utf8") -> pl.LazyFrame:  # noqa: ANN401 - a polars literal
    """Return the file's lines, blank ones included, as the one column `line`."""
    return pl.scan_csv(
        path,
        separator=_NOT_IN_TEXT,
        has_header=False,
        quote_char=None,
        schema={"line": pl.String},
        truncate_ragged_lines=True,
        encoding=encoding,
    ).select(pl.col("line").fill_null(""))


def _checked_kind(path: Path, kind: str) -> str:
    if kind not in FORMATS:
        raise DataError(f"no format called {kind!r}; choose one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file with the interactions in it")
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    return _by_suffix(path) if kind == "auto" else kind


def _by_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    kind = _BY_SUFFIX.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise DataError(
            f"{path.name}: the suffix does not tell the format; pass format= as one of "
            f"{', '.join(FORMATS[1:])}"
        )
    return kind


def _first_line(path: Path) -> str:
    with reading(path.name, lambda: _explain_encoding(path)):
        lines = line_frame(path).head(1).collect()["line"]
    first = str(lines[0]).removeprefix("\ufeff") if len(lines) else ""
    if not first.strip():
        raise DataError(f"{path.name} is empty or starts with a blank line; remove the blank line")
    return first


def _separator(line: str) -> str:
    return max(SEPARATORS, key=line.count)


def _header(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator))]
    except csv.Error as error:
        raise DataError(f"line 1 is no header ({error}); write the names of the columns") from None


def _delimited(path: Path, first: str, separator: str | None, typed: bool) -> Table:
    separator = separator or _separator(first)
    names = _header(first, separator)
    if typed:
        names = [name.split(":")[0] for name in names]
    if len(names) == 1:
        raise DataError(
            f"{path.name}: only one column found ({clipped(repr(names[0]))}) when splitting line 1 "
            f"at {SEPARATORS[separator]}; separate the columns by a comma, tab or semicolon"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path.name}: line 1 names column {clipped(repr(twice[0]))} twice; rename or remove "
            "one"
        )
    frame = pl.scan_csv(
        path,
        separator=separator,
        skip_lines=1,
        has_header=False,
        quote_char=None if typed else '"',
        schema=dict.fromkeys(names, pl.String),
    )
    return Table(
        path.name,
        frame,
        tuple(names),
        lambda row: f"line {_line_of(path, row, separator, quoted=not typed)}",
        lambda: _explain_delimited(path, separator, len(names)),
        skip_blank=True,
    )


def _sequence(path: Path) -> Table:
    tokens = pl.col("line").str.replace_all(r"\s+", " ").str.strip_chars().str.split(" ")
    frame = (
        line_frame(path)
        .select(tokens=tokens)
        .select(user_id=pl.col("tokens").list.first(), item_id=pl.col("tokens").list.slice(1))
        .filter(pl.col("item_id").list.len() > 0)
        .explode("item_id")
    )
    return Table(
        path.name,
        frame,
        ("user_id", "item_id"),
        lambda row: f"interaction {row + 1}",
        lambda: _explain_encoding(path),
    )


def _jsonl(path: Path, first: str) -> Table:
    record = _json_object(path.name, 1, first)
    return Table(
        path.name,
        pl.scan_ndjson(path, schema=dict.fromkeys(record, pl.String)),
        tuple(record),
        lambda row: f"line {_record_line(path, row)}",
        lambda: _explain_json(path),
        lambda name: _check_json_types(path, name, record[name]),
    )


def _parquet(path: Path) -> Table:
    with reading(path.name):
        frame = pl.scan_parquet(path, glob=False)
        check_rows(path, frame)
        names = tuple(frame.collect_schema().names())
    return Table(path.name, frame, names, lambda row: f"row {row + 1}")


def _line_of(path: Path, row: int, separator: str, *, quoted: bool) -> int:
    """Return the line (from 1) on which data row `row` ends; quoted fields may hold line breaks."""
    if not quoted:
        return row + 2
    lines = line_frame(path, "utf8-lossy").collect()["line"]
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    with contextlib.suppress(csv.Error):  # the line it cannot read is the one, or before it
        for _ in range(row + 2):
            next(reader, None)
    return reader.line_num


def _explain_encoding(path: Path) -> None:
    """Raise the DataError that names the first line which is not UTF-8, if there is one."""
    lines = line_frame(path, "utf8-lossy").with_row_index()
    try:
        bad = lines.filter(pl.col("line").str.contains("\ufffd", literal=True)).head(1).collect()
    except (OSError, *UNREADABLE):
        return
    if len(bad):
        raise DataError(
            f"{path.name}: line {bad['index'][0] + 1} is not UTF-8 text; save the file as UTF-8"
        )


def _explain_delimited(path: Path, separator: str, width: int) -> None:
    _explain_encoding(path)
    lines = line_frame(path, "utf8-lossy").collect()["line"]
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    try:
        wide = next((fields for fields in reader if len(fields) > width), None)
    except csv.Error as error:
        raise DataError(
            f"{path.name}: line {reader.line_num} cannot be read ({_sentence(error)}); quote the "
            "values that hold quotes or line breaks"
        ) from None
    if wide is not None:
        raise DataError(
            f"{path.name}: line {reader.line_num} has {len(wide)} fields where the header "
            f"has {width}; quote the values that hold {SEPARATORS[separator]}"
        )


def _record_line(path: Path, row: int) -> int:
    blank = pl.col("line").str.strip_chars() == ""
    lines = line_frame(path).with_row_index().filter(~blank).slice(row, 1).collect()
    return int(lines["index"][0]) + 1


def _json_object(label: str, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(
            f"{label}: line {number} is not a JSON object ({line[:40]!r}); each line must be one"
        )
    return record


def _explain_json(path: Path) -> None:
    """Raise the DataError of the first line that is no JSON object, if there is one."""
    _explain_encoding(path)
    for number, line in enumerate(line_frame(path).collect()["line"], 1):
        if line.strip():
            _json_object(path.name, number, line)


def _check_json_types(path: Path, name: str, first: object) -> None:
    """Raise the DataError of the first line where `name` is text and was not, or was and is not."""
    other_kind = r'[^"\sn]' if isinstance(first, str) else '"'
    suspect = pl.col("line").str.contains(rf'"{re.escape(name)}"\s*:\s*{other_kind}')
    lines = line_frame(path).with_row_index().filter(suspect).collect(engine="streaming")
    for index, line in lines.iter_rows():
        value = _json_object(path.name, index + 1, line).get(name)
        if value is not None and isinstance(value, str) != isinstance(first, str):
            raise DataError(
                f"{path.name}: line {index + 1} has {name} = {clipped(repr(value))} where line 1 "
                f"has {clipped(repr(first))}; write numbers or text throughout, not both"
            )


def _sentence(error: Exception) -> str:
    """Return the first line of a foreign message, short."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.split(r"\n|\(set |Set ", str(error))[0].strip().rstrip(".")[:120]
