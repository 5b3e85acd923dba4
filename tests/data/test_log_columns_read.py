"""Optional columns are detected, mapped, switched off, and kept through filters and engines."""

import importlib.util

import pandas as pd
import polars as pl
import pytest

from recoach.data.config import PrepareConfig
from recoach.data.filters import apply_filters
from recoach.data.ingest import read_interactions, stream_interactions
from recoach.data.log_columns import COLUMN_TYPES
from recoach.data.prepared import load_dataset, prepare
from recoach.data.statistics import describe
from recoach.errors import DataError


def write(path, header, *rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


SHOP = (
    "visitor,item,event,time,price,session_id,propensity_score,imp_id,rank,skipped",
    "a,x,purchase,1600000003,2.5,s1,0.5,p1,1,0",
    "a,y,view,1600000001,,s1,NA,,2,1",
    "b,x,cart,1600000002,1e2,,1,p2,,",
)


def shop_log(tmp_path, **settings):
    return read_interactions(write(tmp_path / "shop.csv", *SHOP), **settings)


def test_all_columns_are_read_under_usual_names(tmp_path):
    interactions = shop_log(tmp_path)
    expected = {
        "timestamp": [1600000003000, 1600000001000, 1600000002000],
        "event_type": ["purchase", "view", "cart"],
        "value": [2.5, None, 100.0],
        "session_id": ["s1", "s1", None],
        "propensity": [0.5, None, 1.0],
        "impression_id": ["p1", None, "p2"],
        "position": [1, 2, None],
        "negative": [False, True, False],
    }
    assert {name: values.to_list() for name, values in interactions.columns.items()} == expected
    for name, values in interactions.columns.items():
        assert values.dtype == COLUMN_TYPES[name] or isinstance(values.dtype, pl.Enum)
    assert interactions.columns["event_type"].dtype.categories.to_list() == [
        "view",
        "cart",
        "purchase",
    ]


def test_the_report_names_rows_columns_and_times(tmp_path):
    report = shop_log(tmp_path).report
    assert report.line() == (
        "shop.csv: 3 rows read; user_id=visitor, item_id=item, timestamp=time, event_type=event, "
        "value=price, session_id, propensity=propensity_score, impression_id=imp_id, "
        "position=rank, negative=skipped; 2020-09-13 to 2020-09-13; "
        "event types view < cart < purchase"
    )
    assert (report.rows, report.duplicates, report.ties) == (3, 0, 0.0)


NAMES = {
    "movielens": ("userId,movieId,rating,timestamp", ["user_id", "item_id", "timestamp", "rating"]),
    "h&m": ("t_dat,customer_id,article_id,price", ["user_id", "item_id", "timestamp", "value"]),
    "tmall": (
        "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type",
        ["user_id", "item_id", "timestamp", "event_type"],
    ),
    "ga4": (
        "user_pseudo_id,event_timestamp,item_id,event_name",
        ["user_id", "item_id", "timestamp", "event_type"],
    ),
    "retailrocket": (
        "timestamp,visitorid,event,itemid,transactionid",
        ["user_id", "item_id", "timestamp", "event_type"],
    ),
    "rees46": (
        "event_time,event_type,product_id,category_id,price,user_id,user_session",
        ["user_id", "item_id", "timestamp", "event_type", "value", "session_id"],
    ),
    "yelp": ("user_id,business_id,stars,date", ["user_id", "item_id", "timestamp", "rating"]),
    "separators in names": ("User-ID,Item.Id,Book Rating", ["user_id", "item_id", "rating"]),
    "online retail": (
        "InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID",
        ["user_id", "item_id", "timestamp", "value"],
    ),
    "otto": ("session,aid,ts,type", ["user_id", "item_id", "timestamp", "event_type"]),
    "goodreads": (
        "user_id,book_id,rating,date_added",
        ["user_id", "item_id", "timestamp", "rating"],
    ),
    "amazon 2014": (
        "reviewerID,asin,overall,unixReviewTime",
        ["user_id", "item_id", "timestamp", "rating"],
    ),
    "kuairand": (
        "user_id,video_id,time_ms,is_click,is_hate",
        ["user_id", "item_id", "timestamp", "negative"],
    ),
    "open bandit": (
        "user_id,timestamp,item_id,position,click,propensity_score",
        ["user_id", "item_id", "timestamp", "propensity", "position"],
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_the_names_of_public_data_sets_are_known(tmp_path, case):
    header, expected = NAMES[case]
    row = ",".join("1" for _ in header.split(","))
    interactions = read_interactions(write(tmp_path / "a.csv", header, row))
    assert sorted(interactions.report.columns) == sorted(expected)


def test_a_session_beside_the_user_is_the_session_and_alone_the_user(tmp_path):
    both = read_interactions(write(tmp_path / "a.csv", "session_id,item_id,user_id", "s,x,u"))
    assert both.user_ids.to_list() == ["u"]
    assert both.columns["session_id"].to_list() == ["s"]
    alone = read_interactions(write(tmp_path / "b.csv", "session_id,item_id", "s,x"))
    assert alone.user_ids.to_list() == ["s"]
    assert not alone.columns


def test_without_times_the_other_columns_are_named(tmp_path):
    source = write(tmp_path / "a.csv", "user_id,item_id,foo_when", "1,2,2020-01-01")
    line = read_interactions(source).report.line()
    assert line == (
        "a.csv: 1 rows read; user_id, item_id; no times: file order is taken "
        "(other columns: foo_when)"
    )


def test_the_report_lists_columns_in_one_order(tmp_path):
    source = write(tmp_path / "a.csv", "what,time,user", "x,1600000000,a")
    report = read_interactions(source, columns={"timestamp": "time", "item_id": "what"}).report
    assert list(report.columns) == ["user_id", "item_id", "timestamp"]


@pytest.mark.parametrize("column", ["rating", "timestamp", "event_type"])
def test_an_empty_name_switches_a_column_off(tmp_path, column):
    header = "user_id,item_id,score,date,type"
    source = write(tmp_path / "a.csv", header, "a,x,5,2020-01-01,view")
    assert column in read_interactions(source).columns
    without = read_interactions(source, columns={column: ""})
    assert column not in without.columns
    assert len(without.columns) == 2


def test_user_and_item_cannot_be_switched_off_or_be_one_column(tmp_path):
    source = write(tmp_path / "a.csv", "user_id,item_id", "a,x")
    with pytest.raises(DataError, match=r"user_id cannot be left out\. Pass --column user_id=NAME"):
        read_interactions(source, columns={"user_id": ""})
    with pytest.raises(DataError, match="both mapped to 'item_id'"):
        read_interactions(source, columns={"user_id": "item_id", "item_id": "item_id"})


BAD = {
    "rating": ("score", "good", "Write a finite number, or pass --column rating= to leave"),
    "value": ("price", "$3", "Write a number, or pass --column value="),
    "propensity": ("propensity", "0", "Write a number above 0 and at most 1, or pass --column"),
    "position": ("position", "1.5", "Write a whole number, or pass --column position="),
    "negative": ("dislike", "maybe", "Write true or false, or 1 or 0, or pass --column negative="),
    "event_type": ("type", "", "Write the type of each event, or pass --column event_type="),
}


@pytest.mark.parametrize("column", BAD)
def test_a_bad_value_is_refused_where_mapped_and_named_where_detected(tmp_path, column):
    name, value, remedy = BAD[column]
    source = write(tmp_path / "a.csv", f"user_id,item_id,{name}", "a,x,1", f"a,y,{value}")
    with pytest.raises(DataError, match=rf"a\.csv:3: column {name}") as caught:
        read_interactions(source, columns={column: name})
    assert remedy in str(caught.value)
    if column == "rating":
        with pytest.raises(DataError, match=r"a\.csv:3: "):
            read_interactions(source)
    else:
        interactions = read_interactions(source)
        assert not interactions.columns
        assert f"{name} is not used as {column} (a.csv:3: " in interactions.report.line()
    assert not read_interactions(source, columns={column: ""}).columns


@pytest.mark.parametrize("marker", ["", "NA", "n/a", "NULL", "null", "None", "NaN", "\\N"])
def test_a_missing_number_or_id_is_null(tmp_path, marker):
    header = "user_id,item_id,price,position,session_id,negative"
    row = f"a,y,{marker},{marker},{marker},{marker}"
    columns = read_interactions(write(tmp_path / "a.csv", header, "a,x,1,2,s,1", row)).columns
    assert columns["value"].to_list() == [1.0, None]
    assert columns["position"].to_list() == [2, None]
    assert columns["session_id"].to_list() == ["s", None]
    assert columns["negative"].to_list() == [True, False]


def test_too_many_types_are_no_event_types(tmp_path):
    rows = [f"a,x{number},t{number}" for number in range(150)]
    source = write(tmp_path / "a.csv", "user_id,item_id,type", *rows)
    interactions = read_interactions(source)
    assert "event_type" not in interactions.columns
    assert "type is not used: 150 values are no event types" in interactions.report.line()
    mapped = read_interactions(source, columns={"event_type": "type"})
    assert len(mapped.columns["event_type"].dtype.categories) == 150


def test_event_types_have_the_declared_the_usual_or_the_order_of_appearance(tmp_path):
    def types(names, **settings):
        rows = [f"a,x,{name}" for name in names]
        source = write(tmp_path / "a.csv", "user_id,item_id,behavior", *rows)
        return list(read_interactions(source, **settings).report.event_types)

    assert types(["buy", "pv", "cart", "fav"]) == ["pv", "fav", "cart", "buy"]
    assert types(["Purchase", "View"]) == ["View", "Purchase"]
    assert types(["zap", "view"]) == ["zap", "view"]
    declared = ["zap", "view", "never"]
    assert types(["view", "zap"], events=declared) == declared
    enum = pl.Series(["big", "small"]).cast(pl.Enum(["small", "big"]))
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "event": enum})
    assert read_interactions(frame).report.event_types == ("small", "big")
    frame = pd.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "event": ["cart", "view"]})
    frame["event"] = frame["event"].astype("category")
    assert read_interactions(frame).report.event_types == ("view", "cart")


def test_events_that_are_not_declared_or_do_not_occur_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"shop\.csv:4: .*'cart'\. Add it to events, which lists"):
        shop_log(tmp_path, events=["view", "purchase"])
    with pytest.raises(DataError, match=r"no event type 'dislik'\. Its event types are view, cart"):
        shop_log(tmp_path, negative_events=["dislik"])
    source = write(tmp_path / "a.csv", "user_id,item_id", "a,x")
    with pytest.raises(DataError, match="events is set, but there is no column of event types"):
        read_interactions(source, events=["view"])


def test_negative_events_mark_rows(tmp_path):
    interactions = shop_log(tmp_path, negative_events=["cart"])
    assert interactions.columns["negative"].to_list() == [False, True, True]


def test_negative_events_need_not_be_among_the_events(tmp_path):
    interactions = shop_log(tmp_path, events=["view", "purchase"], negative_events=["cart"])
    assert interactions.columns["negative"].to_list() == [False, True, True]
    assert interactions.report.event_types == ("cart", "view", "purchase")
    assert "event types cart (negative) < view < purchase" in interactions.report.line()


def test_filters_keep_all_columns_and_count_what_they_drop(tmp_path):
    rows = ["a,x,5,view,s1", "a,y,1,cart,s1", "b,x,4,cart,s2", "a,x,4,cart,s3"]
    source = write(tmp_path / "a.csv", "user_id,item_id,rating,event,session_id", *rows)
    config = PrepareConfig(min_rating=3, dedup="last", k_core=1)
    kept = apply_filters(read_interactions(source), config)
    assert kept.columns["event_type"].to_list() == ["cart", "cart"]
    assert kept.columns["session_id"].to_list() == ["s2", "s3"]
    assert kept.report.dropped == {"rated below 3": 1, "repeated": 1}
    assert "1 rows dropped: rated below 3; 1 rows dropped: repeated" in kept.report.line()


def test_duplicates_and_ties_are_counted(tmp_path):
    rows = ["a,x,1600000000", "a,x,1600000000", "a,y,1600000000", "b,x,1600000000"]
    report = read_interactions(write(tmp_path / "a.csv", "user,item,time", *rows)).report
    assert report.duplicates == 1
    assert report.ties == 0.75


def test_statistics_count_events_sessions_and_ties(tmp_path):
    statistics = describe(shop_log(tmp_path, events=["hide", "view", "cart", "purchase"]))
    assert statistics.events == {"hide": 0, "view": 1, "cart": 1, "purchase": 1}
    assert (statistics.sessions, statistics.ties) == (1, 0.0)


def test_a_report_becomes_json(tmp_path):
    values = shop_log(tmp_path).report.to_dict()
    assert values["columns"]["value"] == "price"
    assert values["time_span"] == [1600000001000, 1600000003000]
    assert values["event_types"] == ["view", "cart", "purchase"]


def test_streaming_writes_the_same_rows(tmp_path):
    interactions = shop_log(tmp_path)
    log = stream_interactions(tmp_path / "shop.csv", tmp_path / "rows.parquet", PrepareConfig())
    assert log.report == interactions.report
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    assert rows["row"].to_list() == [0, 1, 2]
    for name, values in interactions.columns.items():
        assert rows[name].cast(log.types[name]).equals(values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.parquet", "shop.csv"]


@pytest.mark.skipif(importlib.util.find_spec("duckdb") is None, reason="DuckDB is not installed")
def test_duckdb_prepares_the_same_columns(tmp_path):
    rows = [
        f"u{n % 4},i{n % 3},{['view', 'cart', 'return'][n % 3]},{1600000000 + n // 2},{n},s{n % 5}"
        for n in range(40)
    ]
    header = "user_id,item_id,event,time,price,session_id"
    source = write(tmp_path / "a.csv", header, *rows)
    config = PrepareConfig(k_core=2, split={"kind": "leave_last_out"})
    in_memory = prepare(source, tmp_path / "memory", config)
    prepare(source, tmp_path / "disk", config, memory="200MB")
    on_disk = load_dataset(tmp_path / "disk")
    assert set(on_disk.train.columns) == {"timestamp", "event_type", "value", "session_id"}
    for name, values in in_memory.train.columns.items():
        assert on_disk.train.columns[name].equals(values)
    texts = [(tmp_path / folder / "dataset.json").read_text() for folder in ("memory", "disk")]
    assert texts[0] == texts[1]
