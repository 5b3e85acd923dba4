"""Titles of items from the tables people have."""

import polars as pl
import pytest

from recoach.data.item_table import read_titles
from recoach.errors import DataError

IDS = pl.Series(["b", "a", "c"], dtype=pl.String)
WANTED = ["Bee", "Ay", "c"]  # c has no title


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
def test_a_title_for_every_item_in_the_order_of_the_log(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_titles(tmp_path / name, IDS).to_list() == WANTED


def test_parquet_with_numbers_as_ids(tmp_path):
    pl.DataFrame({"item_id": [1, 2], "title": ["one", "two"]}).write_parquet(tmp_path / "i.parquet")
    titles = read_titles(tmp_path / "i.parquet", pl.Series(["2", "1"]))
    assert titles.to_list() == ["two", "one"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,title\na,Ay\n", "no item column among id, title"),
        ("item_id,price\na,1\n", "no title column.*rename it to one of title"),
        ("item_id,title\nx,Ex\n", "none of its items is in the log.*'x'.*'b'"),
        ("item_id,title\na,Ay,more\n", "line 2 has 3 fields"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path, content, words):
    (tmp_path / "items.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        read_titles(tmp_path / "items.csv", IDS)
