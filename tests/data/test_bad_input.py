"""The error message for a bad log names the file and the line, the problem and the remedy."""

import gzip

import pandas as pd
import polars as pl
import pytest

from recoach.data.benchmark import read_benchmark
from recoach.data.ingest import read_interactions
from recoach.data.readers.table import convert_read_errors
from recoach.errors import DataError

HEAD = "user_id,item_id,rating,timestamp\n"
GOOD = "u,i,5,1400000000\n"

TEXTS = {
    "empty": ("a.csv", "", ["a.csv: the file is empty", "Write one line"]),
    "blank": ("a.csv", "\n\n", ["a.csv:1: the first line is blank", "Remove the blank line"]),
    "header only": (
        "a.csv",
        HEAD,
        ["a.csv: there is a header but no interactions", "Add at least one row"],
    ),
    "sequence users only": ("a.txt", "1\n2\n", ["a.txt:1: one value a line ('1')"]),
    "no user": (
        "a.csv",
        "who,item_id\na,b\n",
        ["a.csv: there is no user_id column. The columns are who, item_id. Pass --column"],
    ),
    "no item": (
        "a.csv",
        "user_id,what\na,b\n",
        ["a.csv: there is no item_id column", "what", "Pass --column item_id=NAME"],
    ),
    "separator": (
        "a.csv",
        "user_id/item_id\na/b\n",
        ["a.csv:1: only one column", "user_id/item_id"],
    ),
    "inter separator": (
        "a.inter",
        "user_id:token,item_id:token\n1,2\n",
        ["a.inter:1: only one column", "tab"],
    ),
    "header repeated in a joined file": (
        "a.csv",
        "user,item\nu,i\nuser,item\nv,j\n",
        ["a.csv:3: column user (user_id) is 'user', the name of the column", "Remove the line"],
    ),
    "header repeated in joined atomic files": (
        "a.inter",
        "user_id:token\titem_id:token\nu\ti\nuser_id:token\titem_id:token\n",
        ["a.inter:3: column user_id is 'user_id:token', the name of the column"],
    ),
    "header twice": (
        "a.csv",
        "user_id,item_id,user_id\n1,2,3\n",
        ["a.csv:1: column 'user_id' occurs twice", "Rename or remove"],
    ),
    "time": (
        "a.csv",
        HEAD + GOOD + "u,i,5,soon\n",
        ["a.csv:3: column timestamp", "'soon'", "ISO date"],
    ),
    "no time": ("a.csv", HEAD + GOOD + "u,i,5,\n", ["a.csv:3: column timestamp is empty"]),
    "mixed units": (
        "a.csv",
        HEAD + GOOD * 3 + "u,i,5,1400000000000\n",
        ["a.csv:5: column timestamp is '1400000000000' and is in another unit than most"],
    ),
    "no year": ("a.csv", HEAD + GOOD * 3 + "u,i,5,-1e300\n", ["a.csv:5", "another unit"]),
    "header of a megabyte": (
        "a.csv",
        "x" * 2**20 + "," + HEAD,
        ["a.csv:1: the line is not a header", "names of the columns"],
    ),
    "nested json": (
        "a.jsonl",
        '{"user":' + "[" * 10**5 + "\n",
        ["a.jsonl:1: the line is not a JSON object"],
    ),
    "nan time": ("a.csv", HEAD + GOOD + "u,i,5,nan\n", ["a.csv:3", "timestamp", "'nan'"]),
    "iso time": (
        "a.csv",
        "user,item,date\na,b,2020-01-01\na,c,2020-13-01\n",
        ["a.csv:3", "-13-01"],
    ),
    "rating": ("a.csv", HEAD + "u,i,good,1\n", ["a.csv:2", "rating", "'good'", "finite number"]),
    "inf rating": ("a.csv", HEAD + GOOD + "u,i,inf,1\n", ["a.csv:3", "rating", "'inf'"]),
    "no user id": ("a.csv", HEAD + GOOD + "\n,i,5,1\n", ["a.csv:4: column user_id is empty"]),
    "no item id": ("a.csv", HEAD + GOOD * 9 + "u,,5,1\n", ["a.csv:11: column item_id is empty"]),
    "quoted empty id": ("a.csv", HEAD + 'u,"",5,1\n', ["a.csv:2: column item_id is empty"]),
    "after a line break": (
        "a.csv",
        'user,item,x\n1,2,"two\nlines"\n1,,\n',
        ["a.csv:4: column item (item_id) is empty"],
    ),
    "short line": (
        "a.csv",
        HEAD + GOOD + "u\n",
        ["a.csv:3: 1 value, but the header has 4 columns"],
    ),
    "long line": (
        "a.csv",
        HEAD + GOOD + "u,i,5,1,9\n",
        ["a.csv:3: 5 values, but the header has 4 columns", "commas"],
    ),
    "long and odd names": (
        "a.jsonl",
        '{"user":1,"a\\nb":2,"' + "x" * 9999 + '":3}\n',
        ["a.jsonl: there is no item_id column", "'a\\nb'"],
    ),
    "not json": ("a.jsonl", '{"user":1,"item":2}\n\n{"user":\n', ["a.jsonl:3", "JSON"]),
    "json list": ("a.jsonl", "[1, 2]\n", ["a.jsonl:1: the file is a JSON array"]),
    "mixed ids": (
        "a.jsonl",
        '{"user":1,"item":2}\n{"user":"1","item":2}\n',
        ["a.jsonl:2: user is '1', but 1 in line 1", "not both"],
    ),
    "mixed ids, text first": (
        "a.jsonl",
        '{"user":"x","item":2}\n{"user": 1,"item":2}\n',
        ["a.jsonl:2: user is 1, but 'x' in line 1"],
    ),
    "json without id": (
        "a.jsonl",
        '{"user":1,"item":2}\n\n{"user":3}\n',
        ["a.jsonl:3: column item (item_id) is empty"],
    ),
}


def assert_message(caught, parts):
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for part in parts:
        assert part in message
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("case", TEXTS)
def test_bad_text_is_rejected(tmp_path, case):
    name, text, parts = TEXTS[case]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_interactions(tmp_path / name)
    assert_message(caught, parts)


LONG = (HEAD + "".join(f"user{n},i{n * 7919 % 1000},5,{n}\n" for n in range(5000))).encode()
BYTES = {
    "truncated gzip": ("a.csv.gz", gzip.compress(LONG)[:-2000], ["a.csv.gz: cannot be read"]),
    "not gzip": ("a.csv.gz", b"\x1f\x8bnonsense", ["a.csv.gz: cannot be read"]),
    "truncated sequences": ("a.txt.gz", gzip.compress(LONG)[:-2000], ["a.txt.gz: cannot be read"]),
    "parquet": ("a.parquet", b"PAR1 this is not one PAR1", ["a.parquet: cannot be read"]),
    "empty parquet": ("a.parquet", b"", ["a.parquet"]),
    "latin-1": (
        "a.csv",
        (HEAD + GOOD).encode() + b"caf\xe9,i,5,1\n",
        ["a.csv:3: the line is not UTF-8"],
    ),
    "latin-1 json": (
        "a.jsonl",
        b'{"user":"a","item":1}\n{"user":"\xe9","item":1}\n',
        ["a.jsonl:2"],
    ),
    "latin-1 sequence": ("a.txt", b"1 2\n2 \xe9\n", ["a.txt:2: the line is not UTF-8"]),
    "latin-1 header": ("a.csv", b"us\xe9r,item\n1,2\n", ["a.csv:1: the line is not UTF-8"]),
}


@pytest.mark.parametrize("case", BYTES)
def test_bad_bytes_are_rejected(tmp_path, case):
    name, content, parts = BYTES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_interactions(tmp_path / name)
    assert_message(caught, parts)


FRAMES = {
    "no id": (
        pl.DataFrame({"user": ["a", None], "item": [1, 2]}),
        ["frame, row 2", "user", "empty"],
    ),
    "no rows": (
        pl.DataFrame({"user": [], "item": []}, schema_overrides={"user": pl.String}),
        ["frame: column 'item' holds Null, which cannot be an id"],
    ),
    "list ids": (pl.DataFrame({"user": [[1]], "item": [1]}), ["'user'", "cannot be an id"]),
    "mixed": (
        pd.DataFrame({"user": [1, "1"], "item": [1, 2]}),
        ["frame: column 'user' cannot be read", "one type"],
    ),
    "nan": (
        pl.DataFrame({"user": [1], "item": [1], "rating": [float("nan")]}),
        ["frame, row 1", "rating"],
    ),
    "half ids": (pl.DataFrame({"user": [1.5], "item": [1]}), ["frame, row 1", "user", "1.5"]),
    "nan ids": (
        pl.DataFrame({"user": [1.0, float("nan")], "item": [1, 2]}),
        ["frame, row 2", "user"],
    ),
    "boolean times": (pl.DataFrame({"user": [1], "item": [1], "ts": [True]}), ["'ts'", "time"]),
    "a year after 9999": (
        pl.DataFrame(
            {
                "user": ["a"] * 3,
                "item": ["x", "y", "z"],
                "ts": pl.Series([0, 1, 2_816_000_000_000_000]).cast(pl.Datetime("ms")),
            }
        ),
        [
            "frame, row 3: column ts (timestamp) is 2816000000000000",
            "which is no year from 1000 to 9999",
        ],
    ),
    "no frame": ([1, 2], ["builtins.list", "Pass a path"]),
    "none": (None, ["NoneType", "Pass a path"]),
}


@pytest.mark.parametrize("case", FRAMES)
def test_bad_frames_are_rejected(case):
    frame, parts = FRAMES[case]
    with pytest.raises(DataError) as caught:
        read_interactions(frame)
    assert_message(caught, parts)


def test_unknown_columns_and_formats_are_rejected(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + GOOD)
    for arguments, parts in (
        ({"columns": {"user": "x"}}, ["columns: 'user'", "Did you mean 'user_id'?"]),
        (
            {"columns": {"user_id": "x"}},
            ["there is no column 'x'", "are user_id, item_id, rating, timestamp. Pass --column"],
        ),
        ({"format": "xls"}, ["format: 'xls' is unknown", "parquet"]),
    ):
        with pytest.raises(DataError) as caught:
            read_interactions(path, **arguments)
        assert_message(caught, parts)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        read_interactions(tmp_path / "none.csv")
    with pytest.raises(DataError, match="this is a folder"):
        read_interactions(tmp_path)
    with pytest.raises(DataError, match="there is no train file"):
        read_benchmark(tmp_path)


def test_two_benchmarks_in_a_folder_are_ambiguous(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.train.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(DataError, match=r"a\.train\.inter and b\.train\.inter"):
        read_benchmark(tmp_path)


def test_a_panic_of_polars_becomes_a_data_error(tmp_path, monkeypatch):
    def panics(*_, **__):
        raise pl.exceptions.PanicException("called `Result::unwrap()` on an `Err` value")

    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(path)
    monkeypatch.setattr(pl.LazyFrame, "collect", panics)
    with pytest.raises(
        DataError, match=r"a\.parquet: cannot be read .*has the format of its suffix"
    ):
        read_interactions(path)


def test_a_diagnosis_that_cannot_read_the_file_is_ignored():
    def diagnose():
        raise OSError("corrupt deflate stream")

    rejected = pytest.raises(DataError, match=r"a\.csv\.gz: cannot be read \(invalid utf-8\)")
    with rejected, convert_read_errors("a.csv.gz", diagnose):
        raise pl.exceptions.ComputeError("invalid utf-8")
