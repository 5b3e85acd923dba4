"""Titles of items from item tables in all formats."""

import polars as pl
import pytest

from recoach.data.item_table import read_item_table, titles_of
from recoach.errors import DataError

IDS = pl.Series(["b", "a", "c"], dtype=pl.String)
TITLES = ["Bee", "Ay", "c"]  # c has no title


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.csv", 'movieId,title\na,Ay\nb,"Bee"\nz,Zed\na,Again\n'),
        ("items.tsv", "item_id\tname\na\tAy\nb\tBee\nc\t\n"),
        ("games.item", "item_id:token\ttitle:token_seq\nb:\tno\na\tAy\nb\tBee\n"),
        (
            "items.jsonl",
            '{"parent_asin": "a", "title": "Ay"}\n{"parent_asin": "b", "title": "Bee"}',
        ),
    ],
)
def test_titles_are_in_the_order_of_the_items(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert titles_of(read_item_table(tmp_path / name, IDS)).to_list() == TITLES


def test_numeric_ids_of_parquet_match_text_ids(tmp_path):
    pl.DataFrame({"item_id": [1, 2], "title": ["one", "two"]}).write_parquet(tmp_path / "i.parquet")
    table = read_item_table(tmp_path / "i.parquet", pl.Series(["2", "1"]))
    titles = titles_of(table)
    assert titles.to_list() == ["two", "one"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,title\na,Ay\n", "no item column among id, title"),
        ("item_id,title\nx,Ex\n", "none of its items is in the log.*'x'.*'b'"),
        ("item_id,title\na,Ay,more\n", "items.csv:2: 3 values"),
    ],
)
def test_an_unusable_table_is_rejected(tmp_path, content, words):
    (tmp_path / "items.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        read_item_table(tmp_path / "items.csv", IDS)


def test_all_columns_are_kept_in_the_order_of_the_items(tmp_path):
    vectors = [[1.0, 2.0], [3.0, 4.0]]
    table = pl.DataFrame({"price": [5, 6], "item_id": ["a", "b"], "vector": vectors})
    table.write_parquet(tmp_path / "items.parquet")
    read = read_item_table(tmp_path / "items.parquet", IDS)
    assert read.columns == ["item_id", "price", "vector"]
    assert read.rows() == [("b", 6, [3.0, 4.0]), ("a", 5, [1.0, 2.0]), ("c", None, None)]
    assert titles_of(read) is None


def test_a_table_of_ids_alone_is_rejected(tmp_path):
    pl.DataFrame({"item_id": ["a"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"items.parquet: there is no column beside item_id"):
        read_item_table(tmp_path / "items.parquet", IDS)
