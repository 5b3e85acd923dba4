"""Read item tables: what is known about each item of a dataset, such as its title."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recoach.data.columns import USUAL_NAMES, find_usual_name
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.errors import DataError, clipped, listed

_TITLE_NAMES = ("title", "name", "item_name", "product_title", "movie_title", "label")


def read_item_table(source: Path, item_ids: pl.Series, *, all_items: bool = False) -> pl.DataFrame:
    """Read what is known about the items of a dataset.

    Args:
        source: a table with an item column and others (title, category, text, vectors), in any
            format of logs except sequences; RecBole's `.item` too. The first row of an item counts.
        item_ids: String[n_items].
        all_items: whether the items of the table that are not among them follow, in its order.

    Returns:
        A row for each item, in their order: item_id and the other columns as they are in the file,
        null where the table lacks the item.

    Raises:
        DataError: the file cannot be read, has no item column or no other column, or holds none of
            the items.
    """
    item_names = USUAL_NAMES["item_id"]
    table = open_table(source, "auto", lambda names: bool(find_usual_name(names, item_names)))
    item_name = _require_column(table, "item", item_names)
    others = [name for name in table.names if name != item_name]
    if not others:
        raise DataError(
            f"{table.label}: there is no column beside {item_name}. Add a title column."
        )
    with convert_read_errors(table.label, table.diagnose):
        rows = table.frame.select(
            pl.col(item_name).cast(pl.String).alias("item_id"),
            *(pl.col(name) for name in others if name != "item_id"),
        ).collect()
    rows = rows.drop_nulls("item_id").unique("item_id", keep="first", maintain_order=True)
    if not rows["item_id"].is_in(item_ids.implode()).any():
        example = clipped(repr(rows["item_id"][0])) if len(rows) else "missing"
        raise DataError(
            f"{table.label}: none of its items is in the log (an item of the table is {example}, "
            f"one of the log is {clipped(repr(item_ids[0]))}). Use the ids of the log."
        )
    known = pl.DataFrame({"item_id": item_ids}).join(
        rows, on="item_id", how="left", maintain_order="left"
    )
    if not all_items:
        return known
    return pl.concat([known, rows.filter(~pl.col("item_id").is_in(item_ids.implode()))])


def titles_of(item_table: pl.DataFrame | None) -> pl.Series | None:
    """Return String[n_items], the title of each item, its id where it has none.

    None if there is no table or no column of titles in it.
    """
    if item_table is None:
        return None
    name = find_usual_name(item_table.columns, _TITLE_NAMES)
    if name is None:
        return None
    return item_table.select(
        pl.coalesce(pl.col(name).cast(pl.String, strict=False), "item_id").alias("title")
    )["title"]


def _require_column(table: Table, role: str, usual_names: Sequence[str]) -> str:
    name = find_usual_name(table.names, usual_names)
    if name is None:
        raise DataError(
            f"{table.label}: there is no {role} column among {listed(table.names)}. Rename it to "
            f"one of {', '.join(usual_names[:4])}."
        )
    return name
