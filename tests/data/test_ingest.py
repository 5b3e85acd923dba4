"""Every format gives the same log."""

import gzip
import json
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from recoach.data.benchmark import read_benchmark
from recoach.data.ingest import read_interactions

SECONDS = [1_400_000_000, 1_400_000_060, 1_400_000_000]
ROWS = [("u7", "x", 5.0), ("u1", "y", 3.5), ("u7", "y", 1.0)]
CSV = "user_id,item_id,rating,timestamp\n" + "".join(
    f"{user},{item},{rating},{time}\n"
    for (user, item, rating), time in zip(ROWS, SECONDS, strict=True)
)


def write(path, text):
    """Write text plain or compressed, as the suffix says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".zst":
        lines = pl.DataFrame({"line": text.removesuffix("\n").split("\n")})
        lines.write_csv(
            path, include_header=False, quote_style="never", compression="zstd", separator="\x01"
        )
    else:
        path.write_text(text, encoding="utf-8")
    return path


def pairs_of(log):
    return log.frame().select(pl.col("user_id", "item_id").cast(pl.String)).rows()


def assert_expected_log(log):
    assert pairs_of(log) == [(user, item) for user, item, _ in ROWS]
    assert log.users.tolist() == [0, 1, 0]
    assert log.users.dtype == log.items.dtype == np.int32
    assert log.user_ids.to_list() == ["u7", "u1"]
    assert log.times.tolist() == [second * 1000 for second in SECONDS]
    assert log.ratings.tolist() == [5.0, 3.5, 1.0]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.txt", "A.CSV"])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_the_separator_of_delimited_text_is_detected(tmp_path, name, separator):
    assert_expected_log(read_interactions(write(tmp_path / name, CSV.replace(",", separator))))


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_tsv_is_read(tmp_path, name):
    assert_expected_log(read_interactions(write(tmp_path / name, CSV.replace(",", "\t"))))


@pytest.mark.parametrize("name", ["a.inter", "a.inter.gz"])
def test_types_in_recbole_headers_are_ignored(tmp_path, name):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    body = CSV.replace(",", "\t").split("\n", 1)[1]
    assert_expected_log(read_interactions(write(tmp_path / name, header + body)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_are_read(tmp_path, name):
    lines = [
        json.dumps({"text": 'a "user_id": 1', "user_id": u, "item_id": i, "rating": r, "ts": t})
        for (u, i, r), t in zip(ROWS, SECONDS, strict=True)
    ]
    assert_expected_log(read_interactions(write(tmp_path / name, "\n".join(lines) + "\n")))


def test_parquet_is_read(tmp_path):
    frame = pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating"], orient="row")
    frame.with_columns(timestamp=pl.Series(SECONDS)).write_parquet(tmp_path / "a.parquet")
    assert_expected_log(read_interactions(tmp_path / "a.parquet"))


def frames():
    columns = {
        "userId": ["u7", "u1", "u7"],
        "itemId": ["x", "y", "y"],
        "rating": [5.0, 3.5, 1.0],
        "date": [datetime(2014, 5, 13, 16, minute, 20) for minute in (53, 54, 53)],
    }
    polars = pl.DataFrame(columns)
    return {
        "polars": polars,
        "lazy": polars.lazy(),
        "arrow": polars.to_arrow(),
        "pandas": pd.DataFrame(columns),
    }


@pytest.mark.parametrize("kind", ["polars", "lazy", "arrow", "pandas"])
def test_any_frame_is_read(kind):
    assert_expected_log(read_interactions(frames()[kind]))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_sequence_line_is_a_user_and_the_items(tmp_path, name):
    log = read_interactions(write(tmp_path / name, "5 9 8  9\n3\n\n4\t8\n"))
    assert pairs_of(log) == [("5", "9"), ("5", "8"), ("5", "9"), ("4", "8")]
    assert log.times is None
    assert log.ratings is None


def test_amazon_reviews_2023_use_the_parent_asin(tmp_path):
    review = {
        "rating": 4.0, "title": "t", "text": "x", "images": [], "asin": "B1", "parent_asin": "B0",
        "user_id": "AE", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
    }  # fmt: skip
    log = read_interactions(write(tmp_path / "Baby.jsonl.gz", json.dumps(review) + "\n"))
    assert pairs_of(log) == [("AE", "B0")]
    assert log.times.tolist() == [1588687728923]
    text = "user_id,parent_asin,rating,timestamp\nAE,B0,4.0,1588687728923\n"
    log = read_interactions(write(tmp_path / "Baby.csv", text))
    assert pairs_of(log) == [("AE", "B0")]
    assert log.times.tolist() == [1588687728923]


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("1400000000", 1_400_000_000_000),
        ("1400000000.25", 1_400_000_000_250),
        ("1.4e9", 1_400_000_000_000),
        ("1400000000123", 1_400_000_000_123),
        ("1400000000123456", 1_400_000_000_123),
        ("2014-05-13", 1_399_939_200_000),
        ("2014-05-13 16:53", 1_400_000_000_000 - 20_000),
        ("2014-05-13T16:53:20", 1_400_000_000_000),
        ("2014-05-13 16:53:20.250", 1_400_000_000_250),
        ("2014-05-13T16:53:20Z", 1_400_000_000_000),
        ("2014-05-13T18:53:20+02:00", 1_400_000_000_000),
        ("1970-01-02", 86_400_000),
    ],
)
def test_times_become_milliseconds(tmp_path, written, milliseconds):
    log = read_interactions(write(tmp_path / "a.csv", f"user,item,time\n1,2,{written}\n"))
    assert log.times.tolist() == [milliseconds]


def test_a_column_can_mix_dates_of_different_precision(tmp_path):
    text = "user,item,time\n1,2,1970-01-02\n1,3,1970-01-01 00:00:01\n"
    assert read_interactions(write(tmp_path / "a.csv", text)).times.tolist() == [86_400_000, 1000]


def test_columns_can_be_mapped(tmp_path):
    text = "who,what,item_id,n\na,b,c,2\n"
    columns = {"user_id": "who", "item_id": "what", "rating": "n"}
    log = read_interactions(write(tmp_path / "a.csv", text), columns=columns)
    assert pairs_of(log) == [("a", "b")]
    assert log.ratings.tolist() == [2]


def test_parent_asin_is_preferred_to_asin(tmp_path):
    log = read_interactions(write(tmp_path / "a.csv", "asin,user_id,parent_asin\nchild,u,parent\n"))
    assert log.item_ids.to_list() == ["parent"]


def test_the_format_can_be_given(tmp_path):
    log = read_interactions(write(tmp_path / "log.data", "user item\n1 2\n"), format="sequence")
    assert pairs_of(log) == [("user", "item"), ("1", "2")]


def test_numbers_become_text_as_written():
    frame = pl.DataFrame({"user": [7.0, 8.0], "item": [2**60 + 1, 1]})
    assert pairs_of(read_interactions(frame)) == [("7", str(2**60 + 1)), ("8", "1")]


def test_quotes_byte_order_marks_windows_lines_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfuser,item\r\n"a,b",x\r\n\r\nc,"y ""z"""\r\n')
    assert pairs_of(read_interactions(path)) == [("a,b", "x"), ("c", 'y "z"')]


def test_leading_zeros_keep_ids_apart(tmp_path):
    log = read_interactions(write(tmp_path / "a.csv", "user,item\n1,007\n1,7\n"))
    assert log.item_ids.to_list() == ["007", "7"]


def test_recbole_benchmark_files_are_read(tmp_path):
    for role, rows in (("train", "1\t5\n1\t6\n"), ("valid", "1\t7\n"), ("test", "1\t8\n2\t5\n")):
        write(tmp_path / f"baby.{role}.inter.gz", "user_id:token\titem_id:token\n" + rows)
    dataset = read_benchmark(tmp_path)
    assert dataset.name == "baby"
    assert dataset.item_ids.to_list() == ["5", "6", "7", "8"]
    assert dataset.train.lengths.tolist() == [2, 0]
    assert dataset.valid.lengths.tolist() == [1, 0]
    assert dataset.test.lengths.tolist() == [1, 1]
    assert read_benchmark(tmp_path / "baby").fingerprint == dataset.fingerprint


def test_lightgcn_files_are_read(tmp_path):
    write(tmp_path / "train.txt", "0 1 2\n1 3\n")
    write(tmp_path / "test.txt", "0 3\n1\n")
    dataset = read_benchmark(tmp_path)
    assert dataset.name == tmp_path.name
    assert dataset.train.values.tolist() == [0, 2]
    assert dataset.valid.values.tolist() == [1]  # without a file, the last of training
    assert dataset.test.lengths.tolist() == [1, 0]
