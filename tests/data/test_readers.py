"""The registry is the only list of formats."""

import dataclasses
from typing import get_args

import polars as pl
import pytest

from recoach.cli.data import Filters
from recoach.data.config import PrepareConfig
from recoach.data.readers.delimited import find_separator
from recoach.data.readers.registry import FORMATS, READERS, open_table
from recoach.data.readers.text import LogFile


def test_each_suffix_belongs_to_one_format():
    suffixes = [suffix for reader in READERS.values() for suffix in reader.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)


def test_the_settings_and_the_command_line_offer_the_formats_of_the_registry():
    (option,) = (field for field in dataclasses.fields(Filters) if field.name == "format")
    for annotation in (PrepareConfig.model_fields["format"].annotation, option.type):
        assert get_args(annotation) == FORMATS == ("auto", *READERS)


@pytest.mark.parametrize(
    ("line", "separator"), [("a,b", ","), ("a\tb,c\td", "\t"), ("a;b;c,d", ";"), ("a b", ",")]
)
def test_the_most_frequent_separator_is_found(line, separator):
    assert find_separator(line) == separator


def test_the_first_line_is_read_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfuser,item\n1,2\n")
    file = LogFile(path)
    assert file.first_line == "user,item"
    path.unlink()
    assert file.first_line == "user,item"


@pytest.mark.parametrize(
    ("name", "text", "location"),
    [
        ("a.csv", 'user,item\n"1\n2",3\n4,5\n', "a.csv:4"),
        ("a.inter", "user:token\titem:token\n1\t2\n3\t4\n", "a.inter:3"),
        ("a.jsonl", '{"user": 1, "item": 2}\n\n{"user": 3, "item": 4}\n', "a.jsonl:3"),
        ("a.txt", "1 2\n3 4 5\n", "a.txt:2"),
    ],
)
def test_the_second_row_is_located_in_its_file(tmp_path, name, text, location):
    (tmp_path / name).write_text(text)
    table = open_table(tmp_path / name, "auto", lambda names: "user" in names)
    assert table.locate(1) == location
    assert len(table.frame.collect()) == 2 + (name == "a.txt")


def test_a_row_of_parquet_is_located_by_its_number(tmp_path):
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "a.pq")
    assert open_table(tmp_path / "a.pq", "auto", bool).locate(0) == "a.pq, row 1"
