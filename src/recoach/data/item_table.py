"""Read item tables: the title of each item of a dataset."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recoach.data.columns import USUAL_NAMES, find_usual_name
from recoach.data.readers.registry import open_table
from recoach.data.readers.table import Table, convert_read_errors
from recoach.errors import DataError, clipped, listed

_TITLE_NAMES = ("title", "name", "item_name", "product_title", "movie_title", "label")


def read_titles(source: Path, item_ids: pl.Series) -> pl.Series:
    """Return String[n_items], the title of each item, its id where the table has none.

    Args:
        source: a table with an item column and a title column, in any format of logs except
            sequences; RecBole's `.item` too. The first title of an item counts.
        item_ids: String[n_items].

    Raises:
        DataError: the file cannot be read, has no such columns, or holds none of the items.
    """
    item_names = USUAL_NAMES["item_id"]
    table = open_table(source, "auto", lambda names: bool(find_usual_name(names, item_names)))
    item_name = _require_column(table, "item", item_names)
    title_name = _require_column(table, "title", _TITLE_NAMES)
    columns = {"item_id": pl.col(item_name), "title": pl.col(title_name)}
    with convert_read_errors(table.label, table.diagnose):
        rows = table.frame.select(
            **{key: column.cast(pl.String) for key, column in columns.items()}
        ).collect()
    rows = rows.drop_nulls().unique("item_id", keep="first")
    titles = pl.DataFrame({"item_id": item_ids}).join(
        rows, on="item_id", how="left", maintain_order="left"
    )["title"]
    if titles.null_count() == len(titles):
        example = clipped(repr(rows["item_id"][0])) if len(rows) else "missing"
        raise DataError(
            f"{table.label}: none of its items is in the log (an item of the table is {example}, "
            f"one of the log is {clipped(repr(item_ids[0]))}). Use the ids of the log."
        )
    return titles.fill_null(item_ids)


def _require_column(table: Table, role: str, usual_names: Sequence[str]) -> str:
    name = find_usual_name(table.names, usual_names)
    if name is None:
        raise DataError(
            f"{table.label}: there is no {role} column among {listed(table.names)}. Rename it to "
            f"one of {', '.join(usual_names[:4])}."
        )
    return name
