"""Short videos of Kuaishou: KuaiRec and KuaiRand."""

from collections.abc import Sequence

import polars as pl

from recoach.data.readers.delimited import open_delimited
from recoach.data.readers.named import select_columns
from recoach.data.readers.table import Table
from recoach.data.readers.text import LogFile

_KUAIREC = (
    *("user_id", "video_id", "play_duration", "video_duration", "time", "date", "timestamp"),
    "watch_ratio",
)
_KUAIRAND = ("user_id", "video_id", "time_ms", "is_click", "is_like", "is_hate", "long_view")


def open_kuairec(file: LogFile) -> Table:
    """Open `big_matrix.csv` or `small_matrix.csv`; the value is the share of the video watched."""
    columns = {
        "user_id": pl.col("user_id"),
        "item_id": pl.col("video_id"),
        "timestamp": pl.col("timestamp"),
        "value": pl.col("watch_ratio"),
    }
    return select_columns(
        open_delimited(file, ","), _KUAIREC, columns, "user, video, timestamp, watch ratio"
    )


def is_kuairec(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is the header of KuaiRec's matrices."""
    return tuple(lines[0].split(",")) == _KUAIREC


def open_kuairand(file: LogFile) -> Table:
    """Open KuaiRand's `log_*.csv`: clicked videos, and hated ones as negative interactions.

    Videos that were shown and neither clicked nor hated are not taken. The event type is the
    strongest sign of a row: hate, like, long_view or click; the value is the milliseconds played.
    """
    hated = pl.col("is_hate") == "1"
    passed_by = (pl.col("is_click") == "0") & (pl.col("is_hate") == "0")
    kind = (
        pl.when(hated)
        .then(pl.lit("hate"))
        .when(pl.col("is_like") == "1")
        .then(pl.lit("like"))
        .when(pl.col("long_view") == "1")
        .then(pl.lit("long_view"))
        .otherwise(pl.lit("click"))
    )
    columns = {
        "user_id": pl.col("user_id"),
        "item_id": pl.col("video_id"),
        "timestamp": pl.col("time_ms"),
        "event_type": kind,
        "value": pl.col("play_time_ms"),
        "negative": hated,
    }
    return select_columns(
        open_delimited(file, ","),
        (*_KUAIRAND, "play_time_ms"),
        columns,
        "clicked and hated videos; others not taken",
        where=~passed_by.fill_null(value=False),
    )


def is_kuairand(_: str, lines: Sequence[str]) -> bool:
    """Return whether line 1 is the header of KuaiRand's logs."""
    return set(_KUAIRAND) <= set(lines[0].split(","))
