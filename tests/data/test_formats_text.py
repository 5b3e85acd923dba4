"""The layout of text is recognised, named by --columns, or refused."""

import polars as pl
import pytest

from recoach.data.benchmark import read_benchmark
from recoach.data.config import PrepareConfig
from recoach.data.ingest import read_interactions
from recoach.data.prepared import prepare
from recoach.data.protocol import Given
from recoach.data.readers.registry import open_table
from recoach.data.targets import targets_of
from recoach.errors import DataError


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def pairs(log):
    frame = log.frame()
    return list(zip(frame["user_id"], frame["item_id"], strict=True))


SEQUENCES = {
    "numbers": ("a.txt", lines("1 5 6 7", "2 6", "3 5 9 9 5")),
    "amazon": ("a.txt", lines("AHV B07W B09V", "AHD B076", "AFW B019 B07Y 0439893577")),
    "tabs": ("a.tsv.txt", lines("u1\ta\tb", "u2\tb")),
    "no suffix": ("sequences", lines("u1 a b", "u2 b")),
    "dat": ("a.dat", lines("u1 a b", "u2 b")),
    "same length, items in all columns": ("a.txt", lines("u1 a b c", "u2 b c a", "u3 c a b")),
    "users without items": ("a.txt", lines("1 5 6 7", "2", "3 5")),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences_are_recognised(tmp_path, case):
    name, text = SEQUENCES[case]
    path = write(tmp_path, name, text)
    expected = [
        (values[0], item) for values in map(str.split, text.splitlines()) for item in values[1:]
    ]
    assert pairs(read_interactions(path)) == expected
    assert "sequences" in open_table(path, "auto", lambda _: False).layout


COLUMNS = "--columns user_id,item_id"
REFUSED = {
    "u.data under another name": ("x.txt", "1\t2\t3\t88125\n1\t3\t3\t8812\n", ["each line has 4"]),
    "check-ins with blanks": ("x.txt", "0 2010-10-19T23:55:27Z 30.2 22\n", ["looks like a time"]),
    "decimals": ("x.txt", "u1 a 4.5\nu2 b 3.0 a\n", ["'4.5' in line 1 looks like a decimal"]),
    "clock": ("x.txt", "u1 a 12:30\nu2 b 13:30 a\n", ["'12:30' in line 1 looks like a time"]),
    "lists": ("x.txt", "u1 a,b\nu2 a\n", ["'a,b' in line 1 looks like several values"]),
    "items and times": (
        "x.txt",
        "u1 a 1293840000 b 1293840001\nu2 a 1293840007\n",
        ["every second value looks like a time", "user_id,item_id,timestamp"],
    ),
    "times and items": ("x.txt", "u1 1293840000 a\nu2 1293840000 b 1293840001 c\n", ["a time"]),
    "user twice": ("x.txt", "u1 a b\nu1 c\n", ["there is no header", "--format sequence"]),
    "a pair a line": ("x.txt", "u1 a\nu2 b\n", ["each line has 2", "--format sequence", COLUMNS]),
    "a pair a line, users twice": ("x.txt", "u1\ta\nu1\tb\n", ["each line has 2", COLUMNS]),
    "two items a line": ("x.txt", "u1 a b\nu2 c d\n", ["each line has 3", "--format sequence"]),
    "ratings": ("x.txt", "1 11 5\n2 12 3\n3 5 12\n", ["each line has 3 values"]),
    "ratings that are item numbers": ("x.txt", "1 2 3\n2 3 1\n3 1 2\n", ["each line has 3"]),
    "few numbers in many columns": ("x.txt", "1 1 2 3 4 5\n2 2 3 4 5 1\n", ["each line has 6"]),
    "same length, users twice": ("x.txt", "u1 a b\nu1 b a\n", ["there is no header"]),
    "one value": ("x.txt", "a\nb\n", ["x.txt:1: one value a line"]),
    "prose": ("x.txt", "The log was made in May, by hand.\nIt is good.\n", ["several values"]),
    "comment": ("x.txt", "# users\nu1 a b\nu2 c\n", ["x.txt:1: line 1 is a comment ('# users')"]),
    "note of Excel": (
        "x.csv",
        "sep=;\nuser_id;item_id\nu;i\n",
        ["x.csv:1: line 1 is Excel's note"],
    ),
    "header, and a row number in each line": (
        "x.txt",
        "user_id item_id rating\n1 10 100 5\n2 11 101 4\n",
        ["x.txt:1: line 1 looks like a header ('user_id item_id rating')", "remove line 1"],
    ),
    "header of a sequence": ("x.txt", "user items\n1 10 11\n2 10 12 13\n", ["x.txt:1: line 1"]),
    "words above numbers": ("x.txt", "kunde ware\n1 10 11\n2 10 12 13\n", ["x.txt:1: line 1"]),
    "number of items": (
        "x.txt",
        "1 3 10 11 12\n2 2 10 11\n7 4 1 2 3 4\n",
        ["the second value of each line is the number of values after it", "--format sequence"],
    ),
    "number of items, no users": (
        "x.txt",
        "3 10 11 12\n2 10 11\n1 4\n",
        ["the first value of each"],
    ),
    "histories before items": (
        "x.inter",
        "session_id:token\titem_id_list:token_seq\titem_id:token\n1\t7 8\t9\n1\t7\t8\n",
        ["x.inter: column 'item_id_list' holds the items before 'item_id'", "order of time"],
    ),
    "label": ("x.txt", "u1: a b\nu2: c\n", ["'u1:' in line 1 looks like several values"]),
    "pairs": ("x.txt", "1 5:4 6:3.5\n2 5:1\n", ["'5:4' in line 1 looks like several values"]),
    "brackets": ("x.txt", "u1 [5 6 7]\nu2 [5]\n", ["'[5' in line 1 looks like several values"]),
    "row, user, item": (
        "x.txt",
        "".join(f"{n} {n // 2} {n * 7 % 20}\n" for n in range(40)),
        ["each line has 3 values"],
    ),
    "commas": ("x.txt", "1,1193,5,2000-12-31 22:12:40\n", ["x.txt:1: line 1 looks like data"]),
    "csv": ("x.csv", "1,1193,5,978300760\n1,661,3,978302109\n", ["line 1 looks like", COLUMNS]),
    "text in csv": ("x.csv", "ann,book\nann,film\n", ["x.csv:1: line 1 looks like data", COLUMNS]),
    "tsv": ("x.tsv", "196\t242\t3\t881250949\n", ["x.tsv:1: line 1 looks like data ('196"]),
    "colons": ("x.csv", "1::2::5::a\n", ["x.csv:1: line 1 looks like data", COLUMNS]),
    "bars": ("x.log", "1|2|2020-01-01\n2|2|2020-01-01\n", ["x.log:1: line 1 looks like data"]),
    "header of other names": ("x.txt", "who\tshelf\tn\nc1\ts1\t3\n", ["no user_id column"]),
    "html": ("x.csv", "<!DOCTYPE html>\n<html>\n", ["x.csv:1: this is a web page"]),
    "lfs": ("x.txt", "version https://git-lfs.github.com/spec/v1\nsize 3\n", ["git lfs pull"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_text_is_refused(tmp_path, case):
    name, text, parts = REFUSED[case]
    with pytest.raises(DataError) as caught:
        read_interactions(write(tmp_path, name, text))
    message = str(caught.value)
    assert message.startswith(name)
    assert len(message) < 400
    for part in parts:
        assert part in message
    assert "format=" not in message


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04zip", b"\x89HDF\r\n", b"\x80\x04\x95", b"SQLite format 3\0", b"BZh9"]
)
def test_files_that_are_no_text_are_named(tmp_path, content):
    path = tmp_path / "log.data"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"log\.data: "):
        read_interactions(path)


TABLES = {
    "tsv with commas": ("a.tsv", "user_id,item_id\nu,i\n"),
    "csv with tabs": ("a.csv", "user_id\titem_id\nu\ti\n"),
    "csv with bars": ("a.csv", "user_id|item_id\nu|i\n"),
    "csv with semicolons": ("a.csv", "user_id;item_id;a,b,c\nu;i;1,2\n"),
    "psv": ("a.psv", "user_id|item_id\nu|i\n"),
    "colons with a header": ("a.dat", "user_id::item_id\nu::i\n"),
    "blanks with a header": ("a.txt", "user_id   item_id\nu i\n"),
    "tabs with a header": ("a.txt", "user_id\titem_id\nu\ti\n"),
    "log": ("a.log", "user_id,item_id\nu,i\n"),
    "no suffix": ("events", "user_id,item_id\nu,i\n"),
    "json without suffix": ("events", '{"user_id": "u", "item_id": "i"}\n'),
    "json in txt": ("a.txt", '{"user_id": "u", "item_id": "i"}\n'),
    "json in csv": ("a.csv", '{"user_id": "u", "item_id": "i"}\n'),
    "csv in json": ("a.json", "user_id,item_id\nu,i\n"),
    "recbole in txt": ("a.txt", "user_id:token\titem_id:token\nu\ti\n"),
    "upper case suffix": ("A.CSV", "user_id,item_id\nu,i\n"),
    "a comma within": ("a.txt", 'user_id;item_id;title\nu;i;"a, b, c"\n'),
}


@pytest.mark.parametrize("case", TABLES)
def test_the_content_decides_about_the_separator(tmp_path, case):
    assert pairs(read_interactions(write(tmp_path, *TABLES[case]))) == [("u", "i")]


def test_parquet_without_its_suffix_is_read(tmp_path):
    pl.DataFrame({"user_id": ["u"], "item_id": ["i"]}).write_parquet(tmp_path / "log.data")
    assert pairs(read_interactions(tmp_path / "log.data")) == [("u", "i")]


HEADERLESS = {
    "commas": ("a.csv", '1,"a,b",5,978300760\n1,c,3,978302109\n'),
    "tabs": ("a.tsv", "1\ta,b\t5\t978300760\n1\tc\t3\t978302109\n"),
    "semicolons": ("a.csv", "1;a,b;5;978300760\n1;c;3;978302109\n"),
    "bars": ("a.txt", "1|a,b|5|978300760\n1|c|3|978302109\n"),
    "colons": ("a.dat", "1::a,b::5::978300760\n1::c::3::978302109\n"),
    "blanks": ("a", "1   a,b 5 978300760\n1 c 3 978302109\n"),
}


@pytest.mark.parametrize("skipped", ["-", "_"])
@pytest.mark.parametrize("case", HEADERLESS)
def test_columns_of_a_file_without_a_header_are_named(tmp_path, case, skipped):
    path = write(tmp_path, *HEADERLESS[case])
    log = read_interactions(path, header=["user_id", "item_id", skipped, "timestamp"])
    assert pairs(log) == [("1", "a,b"), ("1", "c")]
    assert log.times.tolist() == [978300760000, 978302109000]
    assert log.ratings is None


def test_a_prepared_set_has_the_named_columns(tmp_path):
    rows = [f"{user}::{item}::{user * item}" for user in range(4) for item in range(9)]
    path = write(tmp_path, "a.dat", lines(*rows))
    config = PrepareConfig(header=["user_id", "item_id", "-"], k_core=0)
    assert len(prepare(path, tmp_path / "out", config).user_ids) == 4


@pytest.mark.parametrize(
    ("text", "header", "parts"),
    [
        ("1,2,3\n", ["user_id", "item_id"], ["--columns names 2 columns", "3 values", "commas"]),
        ("1,2\n1\n", ["user_id", "item_id"], ["interaction 2 has 1 value"]),
        ("1,2\n", ["user_id", "item"], ["--columns: 'item' is not a column", "'item_id'"]),
        ("1,2\n", ["user_id", "user_id"], ["--columns: user_id occurs twice"]),
        ("user_id,item_id\n1,2\n", ["user_id", "item_id"], ["line 1 is a header", "--column "]),
        ("1,2\n", ["user_id", "-"], ["item_id"]),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, text, header, parts):
    with pytest.raises(DataError) as caught:
        read_interactions(write(tmp_path, "a.csv", text), header=header)
    for part in parts:
        assert part in str(caught.value)


def test_columns_and_a_format_with_its_own_columns_exclude_each_other(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"user_id": 1, "item_id": 2}\n')
    with pytest.raises(DataError, match="--format is jsonl"):
        read_interactions(path, header=["user_id", "item_id"], format="jsonl")


def test_ambiguous_sequences_are_read_on_request(tmp_path):
    path = write(tmp_path, "a.txt", "u1 a b\nu1 c d\n")
    expected = [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u1", "d")]
    assert pairs(read_interactions(path, format="sequence")) == expected
    sessions = read_interactions(path, format="sessions")
    assert pairs(sessions)[2:4] == [("a:1", "b"), ("a:2", "u1")]


PARTS = [("part-10", "c"), ("part-2", "b"), ("part-1", "a")]


def test_parquet_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    for name, item in PARTS:
        pl.DataFrame({"user_id": [1], "item_id": [item]}).write_parquet(folder / f"{name}.parquet")
    (folder / "_SUCCESS").touch()
    assert pairs(read_interactions(folder)) == [(1, "a"), (1, "b"), (1, "c")]
    assert open_table(folder, "auto", bool).locate(2) == "part-10.parquet, row 1"
    pl.DataFrame({"user_id": ["1"], "item_id": ["d"]}).write_parquet(folder / "part-11.parquet")
    with pytest.raises(DataError, match=r"part-11\.parquet: the columns or their types are not"):
        read_interactions(folder)


def test_a_folder_of_other_files_is_refused(tmp_path):
    write(tmp_path, "part-0001.csv", "user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"folder with part-0001\.csv\. Name the file"):
        read_interactions(tmp_path)
    pl.DataFrame({"item_id": ["1"], "title": ["A"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"folder with items\.parquet, part-0001\.csv"):
        read_interactions(tmp_path)


def test_test_sessions_without_users_are_users_of_their_own(tmp_path):
    write(tmp_path, "train.txt", lines("s0 1 2", "s1 2 3 1"))
    write(tmp_path, "test.txt", lines("2 3", "2 3 1", "1 2"))
    dataset = read_benchmark(tmp_path)
    assert dataset.split == Given(target="last", valid="users", valid_target="successive")
    assert dataset.user_ids.to_list() == ["s0", "s1", "test:1", "test:2", "test:3"]
    assert dataset.item_ids.to_list() == ["1", "2", "3"]
    assert dataset.train.lengths.tolist() == [2, 0, 0, 0, 0]
    assert dataset.valid.lengths.tolist() == [0, 3, 0, 0, 0]
    assert dataset.test.lengths.tolist() == [0, 0, 2, 3, 2]
    assert dataset.test.values.tolist() == [1, 2, 1, 2, 0, 0, 1]


def test_every_prefix_of_a_validation_session_is_a_state_and_every_test_line_is_one(tmp_path):
    write(tmp_path, "train.txt", lines("s0 1 2", "s1 2 3 1 1"))
    write(tmp_path, "test.txt", lines("2 3 1", "2 3", "1 2"))
    dataset = read_benchmark(tmp_path)
    valid = targets_of(dataset, "valid", "all")
    assert valid.users.tolist() == [1, 1, 1]
    assert valid.ends.tolist() == [1, 2, 3]
    assert dataset.item_ids.gather(valid.items).to_list() == ["3", "1", "1"]
    test = targets_of(dataset, "test", "all")
    assert dataset.user_ids.gather(test.users).to_list() == ["test:1", "test:2", "test:3"]
    assert test.ends.tolist() == [2, 1, 1]
    assert dataset.item_ids.gather(test.items).to_list() == ["1", "3", "2"]
    last = read_benchmark(tmp_path, split=Given(target="last", valid="users"))
    assert targets_of(last, "valid", "all").ends.tolist() == [3]


def test_test_lines_that_may_be_users_or_sessions_are_refused(tmp_path):
    write(tmp_path, "train.txt", lines("1 2 3", "2 3 1 1", "3 1"))
    write(tmp_path, "test.txt", lines("2 3", "1 2 2"))
    with pytest.raises(DataError, match=r"test\.txt: nothing tells whether its lines begin"):
        read_benchmark(tmp_path)
    users = read_benchmark(tmp_path, format="sequence")
    assert users.test.lengths.tolist() == [2, 1, 0]
    sessions = read_benchmark(tmp_path, format="sessions")
    assert sessions.test.lengths.tolist() == [0, 0, 0, 2, 3]


def test_a_lone_file_of_test_sessions_is_read(tmp_path):
    path = write(tmp_path, "test.txt", lines("2 3", "2 3 1"))
    assert read_interactions(path).user_ids.to_list() == ["test:1", "test:2"]


def test_a_folder_of_parquet_parts_is_prepared_again_if_a_part_is_added(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    rows = pl.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": list("abcabd")})
    rows.write_parquet(folder / "part-0.parquet")
    config = PrepareConfig(k_core=0)
    assert prepare(folder, tmp_path / "out", config).n_items == 4
    pl.DataFrame({"user_id": [1], "item_id": ["e"]}).write_parquet(folder / "part-1.parquet")
    assert prepare(folder, tmp_path / "out", config).n_items == 5
