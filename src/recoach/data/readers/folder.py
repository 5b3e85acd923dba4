"""Folders of Parquet parts, as Spark and other engines write them."""

import re
from pathlib import Path

import polars as pl

from recoach.data.readers.parquet import open_parquet
from recoach.data.readers.table import Table, convert_read_errors
from recoach.data.readers.text import LogFile
from recoach.errors import DataError, listed

_SUFFIXES = (".parquet", ".pq")


def parquet_parts(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder, in the order of their names and numbers.

    None if it holds anything else, beside names that start with a dot or an underscore.
    """
    paths = [path for path in folder.iterdir() if path.name[0] not in "._"]
    only_parts = all(path.suffix.lower() in _SUFFIXES for path in paths)
    return sorted(paths, key=_order) if only_parts else []


def open_folder(folder: Path) -> Table:
    """Open the Parquet parts of a folder as one table, in the order of their names.

    Raises:
        DataError: the folder has no Parquet file or others too, or the parts have different
            columns.
    """
    parts = parquet_parts(folder)
    if not parts:
        names = sorted(path.name for path in folder.iterdir() if path.name[0] not in "._")
        content = f"with {listed(names)}" if names else "without files"
        raise DataError(
            f"{folder}: this is a folder {content}. Name the file with the interactions in it, or "
            "a folder of Parquet parts and nothing else."
        )
    tables = [open_parquet(LogFile(part)) for part in parts]
    schema = tables[0].frame.collect_schema()
    for part, table in zip(parts, tables, strict=True):
        if table.frame.collect_schema() != schema:
            raise DataError(
                f"{part}: the columns or their types are not those of {parts[0].name} "
                f"({listed(table.names)}). Write all parts with the same columns."
            )
    with convert_read_errors(folder.name):
        lengths = [table.frame.select(pl.len()).collect().item() for table in tables]

    def locate(row: int) -> str:
        for table, length in zip(tables, lengths, strict=True):
            if row < length:
                return table.locate(row)
            row -= length
        return folder.name

    return Table(
        folder.name,
        pl.concat([table.frame for table in tables]),
        tables[0].names,
        locate,
        layout=f"{len(parts)} Parquet parts, {parts[0].name} to {parts[-1].name}",
    )


def _order(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts part-2 before part-10."""
    pieces = re.findall(r"\d+|\D+", path.name)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
