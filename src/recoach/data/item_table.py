"""What people call the items: an item table becomes one title for each item of a dataset."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recoach.data.formats import Table, open_table, reading
from recoach.data.ingest import USUAL_NAMES
from recoach.errors import DataError, clipped, listed

_TITLE = ("title", "name", "item_name", "product_title", "movie_title", "label")


def read_titles(source: Path, item_ids: pl.Series) -> pl.Series:
    """Return String[n_items], the title of each item, its id where the table has none.

    Args:
        source: a table with an item column and a title column, in any format of logs but
            sequences; RecBole's `.item` too. The first title of an item counts.
        item_ids: String[n_items].

    Raises:
        DataError: a file that cannot be read, no such columns, or a table of other items.
    """
    table = open_table(source, "auto", lambda names: bool(_find(names, USUAL_NAMES["item_id"])))
    item = _needed(table, "item", USUAL_NAMES["item_id"])
    title = _needed(table, "title", _TITLE)
    columns = [pl.col(item).cast(pl.String), pl.col(title).cast(pl.String).alias("title")]
    with reading(table.label, table.explain):
        given = table.frame.select(columns[0].alias("item_id"), columns[1]).collect()
    given = given.drop_nulls().unique("item_id", keep="first")
    titles = pl.DataFrame({"item_id": item_ids}).join(
        given, on="item_id", how="left", maintain_order="left"
    )["title"]
    if titles.null_count() == len(titles):
        raise DataError(
            f"{table.label}: none of its items is in the log (its first is "
            f"{_first(given)}, the log's first is {clipped(repr(item_ids[0]))}); "
            "the ids must be the log's"
        )
    return titles.fill_null(item_ids)


def _find(names: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in usual if name in lower), None)


def _needed(table: Table, what: str, usual: Sequence[str]) -> str:
    name = _find(table.names, usual)
    if name is None:
        raise DataError(
            f"{table.label}: no {what} column among {listed(table.names)}; "
            f"rename it to one of {', '.join(usual[:4])}"
        )
    return name


def _first(given: pl.DataFrame) -> str:
    return clipped(repr(given["item_id"][0])) if len(given) else "missing"
