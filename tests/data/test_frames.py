"""Any frame is read, or refused with the name of its column."""

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from recoach.data.ingest import read_interactions
from recoach.errors import DataError

IDS = {"user_id": ["a", "b"], "item_id": ["x", "y"]}
PAIRS = [("a", "x"), ("b", "y")]


def pandas(**columns):
    return pd.DataFrame({**IDS, **columns})


def pairs_of(log):
    return log.frame().select(pl.col("user_id", "item_id").cast(pl.String)).rows()


UNUSED = {
    "numbers and text": pandas(price=[1.5, "n/a"], also=[["p"], None]),
    "complex numbers": pandas(z=np.array([1, 2], dtype="complex")),
    "long doubles": pandas(z=np.array([1, 2], dtype="longdouble")),
    "objects": pandas(z=[object(), object()]),
    "periods": pandas(z=pd.period_range("2020-01", periods=2, freq="M")),
    "intervals": pandas(z=pd.interval_range(0, 2)),
    "sparse values": pandas(z=pd.arrays.SparseArray([1, 0])),
    "polars objects": pl.DataFrame(IDS).with_columns(
        z=pl.Series([object(), object()], dtype=pl.Object)
    ),
    "an arrow map": pa.table({**IDS, "z": pa.array([[("k", 1)], []], pa.map_("str", "int64"))}),
    "an arrow interval": pa.table({**IDS, "z": pa.array([(1, 2, 3)] * 2)}),
    "a number as name": pandas().assign(z=1).rename(columns={"z": 5}),
    "no name": pandas().assign(z=1).rename(columns={"z": None}),
    "an index that repeats": pandas().set_index(pd.Index([5, 5])),
}


@pytest.mark.parametrize("case", UNUSED)
def test_columns_that_are_not_used_may_hold_anything(case):
    assert pairs_of(read_interactions(UNUSED[case])) == PAIRS


READ = {
    "categories": pd.DataFrame({key: pd.Categorical(values) for key, values in IDS.items()}),
    "enums": pl.DataFrame(IDS, schema_overrides={"user_id": pl.Enum(["b", "a"])}),
    "nullable text": pandas().convert_dtypes(),
    "arrow text": pandas().convert_dtypes(dtype_backend="pyarrow"),
    "arrow dictionary": pa.table({**IDS, "user_id": pa.array(["a", "b"]).dictionary_encode()}),
    "arrow views": pa.table({**IDS, "user_id": pa.array(["a", "b"], pa.string_view())}),
    "a named index": pandas().set_index("user_id"),
    "two named levels": pandas(z=[1, 2]).set_index(["user_id", "item_id"]),
    "levels of columns": pandas().set_axis(
        pd.MultiIndex.from_tuples([("user_id", ""), ("item_id", "")]), axis=1
    ),
    "lazy": pl.DataFrame(IDS).lazy(),
}


@pytest.mark.parametrize("case", READ)
def test_ids_of_any_text_type_and_place_are_read(case):
    assert pairs_of(read_interactions(READ[case])) == PAIRS


def test_numbers_of_any_type_are_read():
    whole = pd.DataFrame({"user_id": pd.array([2**60 + 1, 7], dtype="Int64"), "item_id": [1, 2]})
    assert read_interactions(whole).user_ids.to_list() == [str(2**60 + 1), "7"]
    for ratings in (
        np.array([1.5, 2], dtype="float16"),
        [decimal.Decimal("1.5"), decimal.Decimal(2)],
        pd.array([1.5, 2], dtype="Float64"),
        pd.Categorical([1.5, 2]),
    ):
        assert read_interactions(pandas(rating=ratings)).ratings.tolist() == [1.5, 2]


def test_names_that_are_no_text_can_be_mapped():
    frame = pd.DataFrame([["a", "x"], ["b", "y"]])
    assert pairs_of(read_interactions(frame, columns={"user_id": "0", "item_id": "1"})) == PAIRS
    levels = pd.MultiIndex.from_tuples([("log", "user"), ("log", 7)])
    frame = pd.DataFrame([["a", "x"], ["b", "y"]], columns=levels)
    columns = {"user_id": "log.user", "item_id": "log.7"}
    assert pairs_of(read_interactions(frame, columns=columns)) == PAIRS


def raises(_):
    raise ZeroDivisionError("division by zero")


REFUSED = {
    "mixed ids": (pandas(user_id=["a", 1]), "frame: column 'user_id' cannot be read"),
    "mixed ratings": (pandas(rating=[1.5, "n/a"]), "frame: column 'rating' cannot be read"),
    "mixed times": (pandas(timestamp=[1, "2020-01-01"]), "frame: column 'timestamp' cannot be"),
    "complex times": (
        pandas(timestamp=np.array([1, 2], dtype="complex")),
        "frame: column 'timestamp' cannot be read",
    ),
    "missing number": (
        pandas(rating=pd.array([1, None], dtype="Int64")),
        "frame, row 2: column rating is empty",
    ),
    "missing id": (pandas(user_id=pd.Categorical(["a", None])), "frame, row 2: column user_id is"),
    "no time": (
        pandas(timestamp=pd.to_datetime(["2020-01-01", None])),
        "frame, row 2: column timestamp is empty",
    ),
    "durations": (pandas(timestamp=pd.to_timedelta([1, 2], "s")), "'timestamp' holds Duration"),
    "times of day": (pandas(timestamp=[dt.time(1), dt.time(2)]), "'timestamp' holds Time"),
    "structs": (pl.DataFrame({**IDS, "rating": [{"k": 1}, {"k": 2}]}), "'rating' holds Struct"),
    "lists": (pl.DataFrame({**IDS, "rating": [[1], [2]]}), "'rating' holds List"),
    "bytes": (pandas(user_id=[b"a", b"b"]), "'user_id' holds Binary"),
    "dates as ids": (pandas(user_id=[dt.date(2020, 1, 1)] * 2), "'user_id' holds Date"),
    "two columns of a name": (
        pd.DataFrame([["a", "x", "y"]], columns=["user_id", "item_id", "item_id"]),
        "frame: column 'item_id' occurs twice",
    ),
    "two arrow columns": (
        pa.table([pa.array(["a"])] * 3, names=["user_id", "item_id", "item_id"]),
        "frame: column 'item_id' occurs twice",
    ),
    "a name and its text": (pandas(**{"5": 1}).assign(z=1).rename(columns={"z": 5}), "'5' occurs"),
    "no columns": (pd.DataFrame(), "frame: there is no user_id column"),
    "no rows": (pandas().head(0), "frame: there is a header but no interactions"),
    "a missing file": (pl.scan_csv("gone.csv"), "LazyFrame: cannot be used as a log .*gone.csv"),
    "a missing column": (pl.LazyFrame(IDS).select("gone"), "LazyFrame: cannot be used .*gone"),
    "another error": (pl.LazyFrame(IDS).map_batches(raises), "LazyFrame: cannot be used .*zero"),
    "a series": (pd.Series([1, 2]), r"pandas\.Series: cannot be used as a log"),
    "an array": (np.zeros((2, 2)), r"numpy\.ndarray: cannot be used as a log"),
    "a dict": (IDS, r"builtins\.dict: cannot be used as a log"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_name_of_the_column(case):
    frame, problem = REFUSED[case]
    with pytest.raises(DataError, match=problem) as caught:
        read_interactions(frame)
    assert "\n" not in str(caught.value)


def test_nested_columns_of_parquet_are_refused_where_they_are_used(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({**IDS, "rating": [[1], [2]], "tags": [["p"], []]})
    frame.write_parquet(path)
    with pytest.raises(DataError, match=r"a\.parquet: column 'rating' holds List"):
        read_interactions(path)
    frame.drop("rating").write_parquet(path)
    assert pairs_of(read_interactions(path)) == PAIRS
