"""Event logs of shops: Yoochoose, Taobao, RetailRocket, Diginetica, H&M."""

from collections.abc import Sequence

import polars as pl

from recoach.data.readers.delimited import open_delimited
from recoach.data.readers.lines import LineLayout, read_sample
from recoach.data.readers.named import select_columns
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
_YOOCHOOSE = {"user_id": r"\d+", "timestamp": _ISO, "item_id": r"\d+"}
_CLICKS = LineLayout(
    "session, time, item, category (a click)",
    ",",
    ("user_id", "timestamp", "item_id", "category"),
    {**_YOOCHOOSE, "category": r"\w*"},
    {"event_type": pl.lit("click")},
)
_BUYS = LineLayout(
    "session, time, item, price, quantity (a buy)",
    ",",
    ("user_id", "timestamp", "item_id", "price", "quantity"),
    {**_YOOCHOOSE, "price": r"\d+", "quantity": r"\d+"},
    {
        "event_type": pl.lit("buy"),
        "value": pl.col("price").cast(pl.Int64) * pl.col("quantity").cast(pl.Int64),
    },
)
_TAOBAO = LineLayout(
    "user, item, category, behaviour (pv, fav, cart or buy), seconds",
    ",",
    ("user_id", "item_id", "category", "event_type", "timestamp"),
    {
        "user_id": r"\d+",
        "item_id": r"\d+",
        "category": r"\d+",
        "event_type": "pv|fav|cart|buy",
        "timestamp": r"-?\d+",
    },
)
_RETAILROCKET = ("timestamp", "visitorid", "event", "itemid", "transactionid")
_VIEWS = ("sessionId", "userId", "itemId", "timeframe", "eventdate")
_PURCHASES = ("sessionId", "userId", "timeframe", "eventdate", "ordernumber", "itemId")
_HM = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")


def open_yoochoose(file: LogFile) -> Table:
    """Open `yoochoose-clicks.dat` or `yoochoose-buys.dat`: sessions are the users.

    The value of a buy is price times quantity.
    """
    return (_BUYS if read_sample(file)[0].count(",") == 4 else _CLICKS).open(file)


def is_yoochoose(name: str, lines: Sequence[str]) -> bool:
    """Return whether a file named as Yoochoose has clicks or buys."""
    return "yoochoose" in name.lower() and (_CLICKS.matches(lines) or _BUYS.matches(lines))


def open_taobao(file: LogFile) -> Table:
    """Open Taobao's `UserBehavior.csv`."""
    return _TAOBAO.open(file)


def is_taobao(_: str, lines: Sequence[str]) -> bool:
    """Return whether all lines are those of `UserBehavior.csv`."""
    return _TAOBAO.matches(lines)


def open_retailrocket(file: LogFile) -> Table:
    """Open RetailRocket's `events.csv`."""
    columns = {
        "user_id": pl.col("visitorid"),
        "item_id": pl.col("itemid"),
        "timestamp": pl.col("timestamp"),
        "event_type": pl.col("event"),
    }
    table = open_delimited(file, ",")
    return select_columns(table, _RETAILROCKET, columns, "time, visitor, event, item")


def is_retailrocket(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is the header of `events.csv`."""
    return tuple(lines[0].split(",")) == _RETAILROCKET


def open_diginetica(file: LogFile) -> Table:
    """Open Diginetica's `train-item-views.csv` or `train-purchases.csv`.

    Sessions are the users, since most user ids are NA. A time is the day and the milliseconds since
    the session began.
    """
    table = open_delimited(file, ";")
    is_purchase = "ordernumber" in table.names
    midnight = pl.col("eventdate").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms"))
    since_start = pl.duration(
        milliseconds=pl.col("timeframe").cast(pl.Int64, strict=False), time_unit="ms"
    )
    time = (midnight + since_start).dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    columns = {
        "user_id": pl.col("sessionId"),
        "item_id": pl.col("itemId"),
        "timestamp": pl.coalesce(time, pl.concat_str("eventdate", "timeframe", separator=" + ")),
        "event_type": pl.lit("purchase" if is_purchase else "view"),
    }
    names = _PURCHASES if is_purchase else _VIEWS
    layout = "session, item, time from day and milliseconds (users are sessions)"
    return select_columns(table, names, columns, layout)


def is_diginetica(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is the header of Diginetica's views or purchases."""
    return tuple(lines[0].split(";")) in (_VIEWS, _PURCHASES)


def open_hm(file: LogFile) -> Table:
    """Open H&M's `transactions_train.csv`; article ids keep their leading zeros."""
    columns = {
        "user_id": pl.col("customer_id"),
        "item_id": pl.col("article_id"),
        "timestamp": pl.col("t_dat"),
        "value": pl.col("price"),
    }
    return select_columns(open_delimited(file, ","), _HM, columns, "date, customer, article, price")


def is_hm(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is the header of H&M's transactions."""
    return tuple(lines[0].split(",")) == _HM
