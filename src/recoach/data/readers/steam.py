"""Steam: one Python literal a line, as in the data sets of McAuley's group."""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from recoach.data.readers.lines import numbered_lines, table_of_lines
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile, diagnose_encoding
from recoach.errors import DataError, clipped

Row: TypeAlias = tuple[Any, ...]
_BATCH = 50_000


def open_steam(file: LogFile) -> Table:
    """Open `australian_user_items.json`, `australian_user_reviews.json` or `steam_reviews.json`.

    Items have the minutes played as value and no times; reviews of `australian_user_reviews` have
    no times either, since some dates lack the year, and are negative where the game is not
    recommended. Users of `steam_reviews` are user names.

    Raises:
        DataError: a line is not a Python literal with the keys of line 1.
    """
    first = _parse(file, 1, file.first_line)
    kind = next((kind for kind in _KINDS if kind in first), None)
    if kind is None:
        raise DataError(
            f"{file.name}:1: there is no key {' or '.join(_KINDS)}. Steam's files are "
            "australian_user_items, australian_user_reviews and steam_reviews."
        )
    names, rows_of = _KINDS[kind]
    with convert_read_errors(file.name, lambda: diagnose_encoding(file)):
        lines = numbered_lines(file).select("number", "line").collect(engine="streaming")
    frames = [
        pl.DataFrame(list(_rows(file, batch, rows_of)), ["number", *names], orient="row")
        for batch in lines.iter_slices(_BATCH)
    ]
    frame = pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()
    return table_of_lines(file, frame.lazy(), f"Python literals, {', '.join(names)}")


def is_steam(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is a Python literal with keys of Steam, which is no JSON."""
    return lines[0].startswith(("{'", "{u'")) and any(
        f"'{key}':" in lines[0] for key in ("items_count", "reviews", "product_id")
    )


def _items(record: Mapping[str, Any]) -> Iterator[Row]:
    for item in record["items"]:
        yield str(record["user_id"]), str(item["item_id"]), int(item["playtime_forever"])


def _reviews(record: Mapping[str, Any]) -> Iterator[Row]:
    for review in record["reviews"]:
        yield str(record["user_id"]), str(review["item_id"]), not review["recommend"]


def _store_review(record: Mapping[str, Any]) -> Iterator[Row]:
    yield str(record["username"]), str(record["product_id"]), str(record["date"])


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Iterator[Row]]]] = {
    "items": (("user_id", "item_id", "value"), _items),
    "reviews": (("user_id", "item_id", "negative"), _reviews),
    "product_id": (("user_id", "item_id", "timestamp"), _store_review),
}


def _rows(
    file: LogFile, lines: pl.DataFrame, rows_of: Callable[[Mapping[str, Any]], Iterator[Row]]
) -> Iterator[Row]:
    for number, line in lines.iter_rows():
        record = _parse(file, number, line)
        try:
            rows = list(rows_of(record))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file.name}:{number}: {clipped(repr(error))} in the line. Write the same keys as "
                "in line 1."
            ) from None
        for row in rows:
            yield (number, *row)


def _parse(file: LogFile, number: int, line: str) -> dict[str, Any]:
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(
            f"{file.name}:{number}: the line is not a Python literal of a dictionary "
            f"({line[:40]!r}). Write one a line."
        )
    return record
